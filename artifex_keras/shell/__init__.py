"""What the command `artifex-keras` does: settings, a run's folder, training, and recipes."""
