"""Runs for other people: a report as one HTML file, and a model card.

Both are written from the folder of a run, which `artifex-keras train` fills; no model is loaded.
What is in such a folder may be somebody else's: it is read by `trust`, and shown as text alone.
"""

from artifex_keras.sharing.card import write_card
from artifex_keras.sharing.record import read_run
from artifex_keras.sharing.report import write_report

__all__ = ["read_run", "write_card", "write_report"]
