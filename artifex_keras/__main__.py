"""`python -m artifex_keras` is the command `artifex-keras`."""

import sys

from artifex_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
