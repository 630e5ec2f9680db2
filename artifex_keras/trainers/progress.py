"""What a running training says."""

import logging
import sys

__all__ = ["verbosity"]

logger = logging.getLogger("artifex_keras")


def verbosity(verbose):
    """`verbose` as `fit` takes it: "auto" is a progress bar where somebody looks at it."""
    if verbose != "auto":
        return verbose
    notebook = "ipykernel" in sys.modules
    terminal = hasattr(sys.stdout, "isatty") and sys.stdout.isatty()
    return 1 if notebook or terminal else 2
