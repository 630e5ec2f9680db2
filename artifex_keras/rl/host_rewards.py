"""Rewards on the host: the texts they are given, coroutines, and the numbers in their results."""

import asyncio
import threading

import numpy as np
from keras import ops

__all__ = ["decoded", "numbers_of", "results_of", "run_coroutine"]


async def results_of(waiting):
    """The results of awaitables, by name; none is left running if one fails."""
    tasks = [asyncio.ensure_future(awaitable) for awaitable in waiting.values()]
    try:
        return dict(zip(waiting, await asyncio.gather(*tasks), strict=True))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_coroutine(coroutine):
    """The result of a coroutine, run in the thread of the rewards' event loop."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _loops.running())
    try:
        return future.result()
    except BaseException:  # an interrupt among them
        future.cancel()
        raise


class _Loops:
    """One event loop for all steps, in its own thread.

    So it also runs where a loop is running already, as in a notebook, and a client that an
    asynchronous reward keeps isn't left with the closed loop of the step before.
    """

    def __init__(self):
        self.thread, self.loop, self.lock = None, None, threading.Lock()

    def running(self):
        with self.lock:
            if self.thread is None or not self.thread.is_alive():  # as after a fork
                self.loop = asyncio.new_event_loop()
                self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
                self.thread.start()
            return self.loop


_loops = _Loops()


def numbers_of(name, result, reading):
    """The numbers (N,) float32 in what a function gave for what it read, NaN for None."""
    count, reading.row = len(reading.completions), None
    listed = isinstance(result, list | tuple)
    if not listed and not (hasattr(result, "shape") and hasattr(result, "dtype")):
        raise ValueError(
            f"The reward {name!r} must give a list or an array of one number per completion, "
            f"{count}. Received: {result!r} of type {type(result).__name__}."
        )
    shape = (len(result),) if listed else tuple(result.shape)
    if shape not in ((count,), (count, 1)):  # a network gives the latter
        size = f"{len(result)} of them" if listed else f"an array of shape {shape}"
        raise ValueError(
            f"The reward {name!r} must give one number per completion, {count}. Received: {size}."
        )
    values = result if listed else _plain(result)
    values = [value for (value,) in values] if len(shape) == 2 else values
    numbers = np.empty(count, "float32")
    for row, value in enumerate(values):
        reading.row = row  # which is named if it has no number
        numbers[row] = _number(name, row, value)
    return numbers


def _number(name, row, value):
    if value is None:
        return np.nan
    plain = _plain(value) if getattr(value, "shape", None) == () else value
    number = _as_float(plain)
    if number is None or not np.isfinite(number):
        raise ValueError(
            f"The reward {name!r} must give a finite number for each completion. "
            f"Received: {value!r} in row {row}. Return None where the reward doesn't apply."
        )
    return number


def _plain(tensor):
    """The Python numbers in a tensor of any library."""
    if hasattr(tensor, "tolist"):
        return tensor.tolist()
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).tolist()  # TensorFlow's


def _as_float(value):
    """A real number in float32, infinite if that can't hold it; None of anything else."""
    if not isinstance(value, bool | int | float):
        return None
    with np.errstate(over="ignore"):
        try:
            return np.float32(value)
        except OverflowError:
            return np.float32(np.inf)


def decoded(tokenizer, ids, mask, end_token_ids):
    """N texts without padding and end tokens, or without a tokenizer N lists of ids.

    Args:
        tokenizer: has `decode`; or None.
        ids: (N, C), NumPy.
        mask: (N, C), not 0 on what is read: up to and including the first end token.
        end_token_ids: an id, several, or None. A list of ids keeps the end token, a text doesn't.
    """
    ends = [] if end_token_ids is None else np.atleast_1d(end_token_ids)
    rows = [row[counts] for row, counts in zip(ids, np.asarray(mask) != 0, strict=True)]
    if tokenizer is None:
        return [row.tolist() for row in rows]
    rows = [row[:-1] if len(row) and row[-1] in ends else row for row in rows]
    return [tokenizer.decode(row) if len(row) else "" for row in rows]
