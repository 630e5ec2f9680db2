"""Environments: what a policy plays with in turns, how they are called, and what they must give.

Each row of a batch has an environment of its own. All calls of one environment come from the same
thread; the environments of a batch run in threads beside each other.
"""

import concurrent.futures
import contextvars
import functools
import inspect
import queue
import threading
import weakref

import keras
import numpy as np
from keras import ops

from artifex_keras.rl.asking import SHORT
from artifex_keras.rl.reward_function import missing_column
from artifex_keras.rl.rewards import Rewards
from artifex_keras.trust import deserialize_callable

__all__ = ["Environments", "checked_environment", "environment_config", "environment_from_config"]

THREADS = 32  # at most, for the environments of a batch
LARGEST = float(np.finfo("float32").max)
METHODS = {"reset": "reset(**columns) -> text", "step": "step(text) -> (text, reward, done)"}


class Environments(Rewards):
    """The environments of a batch, which stand where otherwise `Rewards` stand: they say how good
    an episode was.

    ``factory()`` makes one environment. It is made once for each row and used again for later
    batches, unless one of them failed.

    | method | is given | gives |
    |---|---|---|
    | `reset(**columns)` | of `prompt` and the row's columns those it has parameters for | a text |
    | `step(text)` | what the policy has written | the text that it reads next, reward, done |

    Args:
        factory: a class, or a function without arguments.
        tokenizer, end_token_ids: what texts are made with; without a tokenizer lists of ids take
            the place of texts.

    Raises:
        ValueError: for what can't make an environment.
    """

    plays = True

    def __init__(self, factory, *, tokenizer=None, end_token_ids=None):
        super().__init__(None, tokenizer=tokenizer, end_token_ids=end_token_ids)
        self.factory = _checked_factory(factory)
        self.name = getattr(factory, "__name__", type(factory).__name__)
        self.names, self.weights = [self.name], [1.0]
        self.prompts, self._environments, self._threads = [], [], None

    def __len__(self):
        return 1

    count_on_host = 1

    @property
    def on_host(self):
        """Whether they are Python, in threads, between the two programs of a step."""
        return self.count_on_host > 0

    def require_one(self, host_values):
        """Does nothing: every episode has a reward."""

    def values(self, host_values, view):
        return ops.convert_to_tensor(host_values, "float32")

    def check_columns(self, columns):
        if isinstance(self.factory, type):
            self._of_columns(self.factory.reset, {**dict.fromkeys(columns), "prompt": None}, skip=1)

    def _of_columns(self, reset, columns, skip=0):
        """Those columns that `reset` takes."""
        try:
            parameters = list(inspect.signature(reset).parameters.values())[skip:]
        except ValueError:
            return columns
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return columns
        named = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
        for p in named:
            if p.default is p.empty and p.name not in columns:
                message = missing_column(self.name, p.name, columns, self.on_host)
                raise ValueError(message.replace("The reward", "The environment", 1))
        return {p.name: columns[p.name] for p in named if p.name in columns}

    # Playing

    def reset(self, columns, count, timeout=None):
        """Begins `count` episodes: the texts that they begin with, and their ids.

        Args:
            columns: a list or an array of `count` by name, `prompt` among them.
            timeout: seconds that all resets together may take; None for any time.
        """
        rows = range(count)

        def begin(row):
            if row >= len(self._environments) or self._environments[row] is None:
                self._environments[row] = checked_environment(self.factory(), self.name)
            reset = self._environments[row].reset
            return reset(**self._of_columns(reset, _row_of(columns, row)))

        self._environments += [None] * (count - len(self._environments))
        texts = self._beside(begin, rows, "reset", 0, timeout)
        return [self._encoded(text, "reset", 0, row) for row, text in enumerate(texts)]

    def step(self, turn, rows, texts, timeout=None):
        """One turn of `rows`: `(text, ids, reward, done)` of each for what its policy wrote."""
        written = dict(zip(rows, texts, strict=True))

        def step(row):
            return self._environments[row].step(written[row])

        results = self._beside(step, rows, "step", turn, timeout)
        return [self._read(*each, turn) for each in zip(rows, results, strict=True)]

    def _read(self, row, result, turn):
        """What `step` gave, checked."""
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise self._wrong("(text, reward, done)", result, "step", turn, row)
        text, reward, done = result
        number = reward.item() if getattr(reward, "shape", None) == () else reward
        if not isinstance(number, bool | int | float) or not abs(number) <= LARGEST:  # NaN isn't
            raise self._wrong("a finite number as the reward", reward, "step", turn, row)
        if not isinstance(done, bool | np.bool_):
            raise self._wrong("True or False as `done`", done, "step", turn, row)
        return *self._encoded(text, "step", turn, row), float(number), bool(done)

    def _encoded(self, text, method, turn, row):
        """A text and its ids; without a tokenizer the ids twice."""
        if self.tokenizer is not None:
            if not isinstance(text, str):
                raise self._wrong("a text", text, method, turn, row)
            return text, [int(token) for token in self.tokenizer.encode(text)] if text else []
        ids = np.asarray(text if isinstance(text, list | tuple | np.ndarray) else [None])
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            rule = "a list of ids (texts need a `tokenizer`)"
            raise self._wrong(rule, text, method, turn, row)
        ids = ids.astype("int32").tolist()
        return ids, ids

    def _wrong(self, rule, value, method, turn, row):
        self.close()
        return ValueError(
            f"The environment {self.name!r} must give {rule} from `{method}`. Received: "
            f"{SHORT.repr(value)} of type {type(value).__name__} {self.place(turn, row)}."
        )

    def place(self, turn, row):
        """Where in a batch something went wrong."""
        when = f"in turn {turn}, row {row}" if turn else f"in row {row}"
        return f"{when}, prompt {SHORT.repr(self.prompts[row])}"

    def _beside(self, call, rows, method, turn, timeout):
        """The results of `call(row)` for all rows, each in the thread of its row. Raises what the
        first row raises that fails, and forgets all environments then: some are in mid-episode."""
        if self._threads is None or not self._threads.alive():
            self._threads = _Threads(min(len(rows), THREADS))
        answers = {}  # by row what came back, and what was raised

        def answer(row):
            try:
                answers[row] = call(row), None
            except BaseException as error:
                answers[row] = None, error

        try:
            concurrent.futures.wait(self._threads.submit(rows, answer), timeout)
            for row in rows:
                self._require(row, answers, method, turn, timeout)
            return [answers[row][0] for row in rows]
        except BaseException:
            self.close()
            raise

    def _require(self, row, answers, method, turn, timeout):
        """Raises what the environment of `row` has raised, or a TimeoutError without an answer."""
        if row not in answers:
            raise TimeoutError(
                f"The environment {self.name!r} must answer within `reward_timeout`. "
                f"Received: no answer from `{method}` after {timeout} seconds "
                f"{self.place(turn, row)}."
            )
        error = answers[row][1]
        if error is not None:
            where = f"in `{method}` {self.place(turn, row)}"
            error.add_note(f"Raised by the environment {self.name!r} {where}.")
            raise error

    def close(self):
        """Lets go of all environments and their threads; the next batch makes new ones."""
        self._environments, threads, self._threads = [], self._threads, None
        if threads is not None:
            threads.stop()


def _row_of(columns, row):
    return {name: values[row] for name, values in columns.items()}


def _checked_factory(factory):
    """`factory`, if it may make environments."""
    rule = (
        "`environment` must be a class with the methods `reset(**columns) -> text` and "
        "`step(text) -> (text, reward, done)`, or a function without arguments that makes such an "
        "object"
    )
    if isinstance(factory, type):
        missing = [name for name in METHODS if not callable(getattr(factory, name, None))]
        if missing:
            raise ValueError(f"{rule}. Received: {factory.__name__}, without {_listed(missing)}.")
    elif all(hasattr(factory, name) for name in METHODS) and not inspect.isroutine(factory):
        raise ValueError(
            f"{rule}: each row of a batch plays with its own. Received: one environment, "
            f"{factory!r}. Give its class."
        )
    elif not callable(factory):
        raise ValueError(f"{rule}. Received: {factory!r} of type {type(factory).__name__}.")
    return factory


def checked_environment(environment, name):
    missing = [method for method in METHODS if not callable(getattr(environment, method, None))]
    if missing:
        raise ValueError(
            f"`environment` must make objects with {' and '.join(map(repr, METHODS.values()))}. "
            f"Received: from {name!r} {environment!r}, without {_listed(missing)}."
        )
    return environment


def _listed(names):
    return " and ".join(f"`{name}`" for name in names)


def environment_config(factory):
    """The registered name of a factory, by which it can be looked up; None of one that isn't
    registered, as code doesn't go into files."""
    if not hasattr(factory, "__name__"):
        return None
    name = keras.saving.get_registered_name(factory)
    return name if keras.saving.get_registered_object(name) is factory else None


def environment_from_config(name, custom_objects=None):
    """The factory of an `environment_config`."""
    described = {"class_name": "function", "config": name}
    return deserialize_callable(described, "environment", custom_objects)


class _Threads:
    """Threads that each have a queue of calls. They end with the object, and with the program."""

    def __init__(self, count):
        self.queues = [queue.SimpleQueue() for _ in range(count)]
        self.threads = [
            threading.Thread(target=_work, args=(calls,), daemon=True) for calls in self.queues
        ]
        for thread in self.threads:
            thread.start()
        self._end = weakref.finalize(self, _stop, self.queues)

    def alive(self):
        """Whether they run; after a fork they don't."""
        return all(thread.is_alive() for thread in self.threads)

    def submit(self, rows, call):
        """Calls `call(row)` for all rows, those of a row always in the same thread. Gives a future
        for each thread that has some, as one for each row costs more than a quick environment."""
        futures, count = [], len(self.queues)
        for index, calls in enumerate(self.queues):
            mine = [row for row in rows if row % count == index]
            if mine:
                futures.append(concurrent.futures.Future())
                context = contextvars.copy_context()
                calls.put((futures[-1], functools.partial(context.run, _each, call, mine)))
        return futures

    def stop(self):
        self._end()


def _each(call, rows):
    for row in rows:
        contextvars.copy_context().run(call, row)  # none sees what another has set


def _work(calls):
    while (item := calls.get()) is not None:
        future, call = item
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del item, future, call


def _stop(queues):
    for calls in queues:
        calls.put(None)
