"""One MLIR context for the programs of a group of tests.

JAX makes a context for each program that it lowers, of 1.2 MB and 4 ms, and holds it as long as the
program. A worker lowers ten thousand, most of them a single operation.
"""

import threading

from jax._src.interpreters import mlir

__all__ = ["renew", "share"]

make = getattr(mlir, "make_ir_context", None)  # private: a JAX without it keeps its ways
shared = threading.local()


def share():
    """From now on the programs of a thread have one context."""
    if make is not None:
        mlir.make_ir_context = _context


def renew():
    """Begins another context. Constants of programs stay in one until it is gone."""
    shared.__dict__.clear()


def _context():
    if not hasattr(shared, "context"):
        shared.context = make()
    return shared.context
