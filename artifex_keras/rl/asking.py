"""Asking a reward on the host: within a time, again if it fails, and naming the row if it fails."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import reprlib

from artifex_keras.rl.host_rewards import numbers_of
from artifex_keras.utils import in_thread

__all__ = ["Reading", "ask", "naming"]

SHORT = reprlib.Repr()  # of a prompt, in a message
SHORT.maxstring = SHORT.maxother = 80


@contextlib.contextmanager
def naming(name, reading=None):
    """Says in what goes wrong here which reward did, and where in the batch."""
    try:
        yield
    except BaseException as error:
        place = "" if reading is None else f" {reading.place()}"
        error.add_note(f"Raised by the reward {name!r}{place}.")
        raise


class Reading:
    """Prompts and completions as one reward is given them, N of each.

    Attributes:
        prompts, completions: lists that note in `row` which of their rows is being read, as by a
            loop over them; arrays as they are.
        row: that row; None before the first and after the last.
    """

    def __init__(self, prompts, completions):
        self.row = None
        self.prompts, self.completions = map(self._noting, (prompts, completions))

    def _noting(self, values):
        return _Rows(values, self) if type(values) is list else values

    def place(self):
        """Where the reading is: the row and its prompt, or all rows and the first prompt."""
        row = self.row
        prompt = SHORT.repr(self.prompts[row or 0])
        if row is None:
            return f"for rows 0 to {len(self.completions) - 1}, first prompt {prompt}"
        return f"in row {row}, prompt {prompt}"


class _Rows(list):
    """A list that notes in its `Reading` which row is read."""

    def __init__(self, values, reading):
        super().__init__(values)
        self._reading = reading

    def __iter__(self):
        for row, value in enumerate(super().__iter__()):
            self._reading.row = row
            yield value
        self._reading.row = None

    def __getitem__(self, key):
        value = super().__getitem__(key)
        if not isinstance(key, slice):
            self._reading.row = range(len(self))[key]
        return value

    def __getattr__(self, name):
        if name[:2] == "__":  # what Python and NumPy look for
            raise AttributeError(name)
        raise AttributeError(
            "Prompts and completions are lists, a row for each, of texts or of token ids. "
            f"Received: a reward that asks the list for `{name}`. Ask each row: [f(row) for row in "
            "completions]; np.stack(completions) where all are of one length."
        )

    def __reduce__(self):  # in another process it is a list
        return list, (list(super().__iter__()),)


def ask(name, call, reading, timeout=None, retries=0):
    """The numbers (N,) that a reward gives; of an asynchronous one an awaitable of them.

    Args:
        call: the reward with all that it takes.
        reading: the `Reading` that it is given.
        timeout: seconds that a call may take, None for any time.
        retries: how often it is called again after an `Exception`, the time-out and a result that
            isn't N numbers among them; not after an interrupt.
    """
    for left in reversed(range(retries + 1)):
        try:
            with naming(name, reading):
                result = call() if timeout is None else _within(timeout, call, name)
                if inspect.isawaitable(result):
                    return _awaited(name, call, result, reading, timeout, left)
                return numbers_of(name, result, reading)
        except Exception:
            if not left:
                raise


async def _awaited(name, call, awaitable, reading, timeout, retries):
    """The numbers in an awaitable's result, or in that of a further call."""
    for left in reversed(range(retries + 1)):
        try:
            with naming(name, reading):
                result = call() if awaitable is None else awaitable
                if inspect.isawaitable(result):
                    result = await (result if timeout is None else _soon(timeout, result, name))
                return numbers_of(name, result, reading)
        except Exception:
            if not left:
                raise
            awaitable = None


def _within(seconds, call, name):
    """The result of `call()`, run in a thread of its own so that it can be left behind."""
    future, thread = in_thread(call)
    thread.start()
    if not concurrent.futures.wait([future], seconds).done:
        raise _late(name, seconds)
    return future.result()


async def _soon(seconds, awaitable, name):
    """The result of an awaitable, which is cancelled when the time is over."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise _late(name, seconds)
        return task.result()
    finally:
        task.cancel()


def _late(name, seconds):
    return TimeoutError(
        f"The reward {name!r} must answer within `reward_timeout`. Received: no answer after "
        f"{seconds} seconds. Give it more time, let it be asked again by `reward_retries`, or "
        "train on fewer prompts a batch."
    )
