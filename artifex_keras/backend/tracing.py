"""Programs that several threads call: one alone traces and compiles, the others wait for it."""

import threading

__all__ = ["TracedAlone"]


class TracedAlone:
    """A program whose first call with each kind of arguments is one thread's alone."""

    def __init__(self, program):
        self._program = program
        self._tracing, self._traced = threading.Lock(), set()

    def __call__(self, kind, *arguments):
        """The program's result; `kind` is what the trace depends on, such as shapes."""
        if kind in self._traced:
            return self._program(*arguments)
        with self._tracing:
            result = self._program(*arguments)
            self._traced.add(kind)
        return result
