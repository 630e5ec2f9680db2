"""A step that fails leaves the model whole: all its numbers as they were before, and `fit` goes on.

Each fault is held against a run that a callback stopped after as many batches, bit by bit, and so
is what comes after it. The families and algorithms are those of the other tests of the frame.
"""

import contextlib
import os
import signal
import threading
import time

import keras
import numpy as np
import pytest
import quick
from algorithms import ALGORITHMS, ON_POLICY, sevens
from equality import assert_same
from families import FAMILIES, FEW
from faults import (
    BATCHES,
    FAILS,
    SIZE,
    At,
    Batches,
    Fault,
    fit,
    numbers,
    raising,
    stopped_after,
)
from fresh import fresh, variables

BACKEND = keras.config.backend()
if BACKEND == "jax":
    ROWS = [*FEW, *(row for row in ALGORITHMS if row.name != "grpo-everything")]
    QUICK = ("vae-everything", "gan-conditional", "autoregressive", "grpo", "ppo", "dpo")
else:
    ROWS = [FEW[0], ALGORITHMS[0]]
    QUICK = [row.name for row in ROWS]
ASKING = [row for row in ON_POLICY if row.options["reward_fn"] is sevens]
ASKING = ASKING if BACKEND == "jax" else ASKING[:1]
# Row by row, as what is compiled for one test of a row serves the others.
every = pytest.mark.parametrize("row", quick.rows(ROWS, QUICK), scope="module")
asking = pytest.mark.parametrize("row", ASKING, ids=[row.name for row in ASKING], scope="module")
# What TensorFlow's and torch's loops wrap, or do before they see the error, is theirs.
on_jax = pytest.mark.backends("jax")
every_error = pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])


def arrays_of(row):
    return row.arrays(SIZE * BATCHES)


def holds_after(row, fault, batches, error=Fault, match=None, **options):
    """Lets `fault(model, arrays)` fail after so many batches. Gives the error.

    Nothing has changed then since those batches, and the rest of the data gives what it gives a
    model that was told to stop there.
    """
    arrays = arrays_of(row)
    model = fresh(row, **options)
    executions = batches // options.get("execution", 1)
    straight = stopped_after(model, arrays, executions) if batches else numbers(model)
    fit(model, arrays, first=batches % BATCHES)
    rest = numbers(model)
    model = fresh(row, **options)
    with pytest.raises(error, match=match) as caught:
        fault(model, arrays)
    assert_same(numbers(model), straight)
    fit(model, arrays, first=batches % BATCHES)
    assert_same(numbers(model), rest)
    return caught.value


@every
def test_a_source_that_raises(row):
    def fault(model, arrays):
        fit(model, arrays, source=Batches(arrays, fails=FAILS))

    error = holds_after(row, fault, FAILS, Exception, "the source")
    assert BACKEND == "tensorflow" or type(error) is Fault


@every
def test_the_first_batch_that_raises(row):
    def fault(model, arrays):
        fit(model, arrays, source=Batches(arrays, fails=0))

    holds_after(row, fault, 0, Exception, "the source")


@every
@pytest.mark.parametrize(
    ("hook", "batches"), [("on_train_batch_begin", FAILS), ("on_train_batch_end", FAILS + 1)]
)
def test_a_callback_that_raises(row, hook, batches):
    error = KeyboardInterrupt if hook.endswith("begin") else Fault

    def fault(model, arrays):
        fit(model, arrays, At(hook, FAILS, raising(error)))

    holds_after(row, fault, batches, error, "the callback")


# Rewards


class Failing:
    """The reward `sevens`, but for one call, which does or gives something else."""

    def fail(self, call, instead):
        self.call, self.instead, self.calls = call, instead, 0

    def __call__(self, prompts, completions, **columns):
        self.calls += 1
        if self.calls == self.call + 1:
            return self.instead(prompts, completions)
        return sevens(prompts, completions, **columns)


REWARD = Failing()  # one for all tests, and so one model for each row


def raise_error(prompts, completions):
    raise Fault("the reward")


def interrupt(prompts, completions):
    raise KeyboardInterrupt("the reward")


def changed_last(value):
    return lambda prompts, completions: [0.0] * (len(completions) - 1) + value


FAILURES = {
    "raises": (raise_error, Fault, "the reward"),
    "interrupted": (interrupt, KeyboardInterrupt, "the reward"),
    "nan": (changed_last([float("nan")]), ValueError, "finite number.*nan in row"),
    "inf": (changed_last([float("inf")]), ValueError, "finite number.*inf in row"),
    "short": (changed_last([]), ValueError, "one number per completion"),
    "text": (changed_last(["1"]), ValueError, "finite number"),
}


FAILING_AT = [("raises", 0), *((name, FAILS) for name in FAILURES)]


@asking
@pytest.mark.parametrize(("name", "batches"), FAILING_AT[: 8 if BACKEND == "jax" else 2])
def test_a_reward_that_fails(row, name, batches):
    instead, error, match = FAILURES[name]
    REWARD.fail(-1, None)

    def fault(model, arrays):
        REWARD.fail(batches, instead)
        fit(model, arrays)

    holds_after(row, fault, batches, error, match, reward_fn=REWARD)


@asking
@pytest.mark.parametrize(("name", "batches"), [("raises", 0), ("raises", 2), ("interrupted", 2)])
def test_a_reward_that_fails_while_the_next_batch_is_sampled(row, name, batches):
    instead, error, match = FAILURES[name]
    REWARD.fail(-1, None)
    beside = {"asynchronous_rewards": True, "importance_cap": 2.0}

    def fault(model, arrays):
        REWARD.fail(batches, instead)
        fit(model, arrays)

    holds_after(row, fault, batches, error, match, reward_fn=REWARD, **beside)


@asking
def test_a_reward_that_is_late_or_asked_again(row):
    """A time-out is a failure as any other; what a second call mends is none."""
    REWARD.fail(-1, None)

    def late(model, arrays):
        REWARD.fail(FAILS, lambda prompts, completions: time.sleep(1))
        model.reward_timeout = 0.5
        try:
            fit(model, arrays)
        finally:
            model.reward_timeout = None

    error = holds_after(row, late, FAILS, TimeoutError, "`reward_timeout`", reward_fn=REWARD)
    assert error.__notes__[0].startswith("Raised by the reward 'Failing' for rows 0 to ")
    arrays, model = arrays_of(row), fresh(row, reward_fn=REWARD)
    fit(model, arrays)
    expected, model = numbers(model), fresh(row, reward_fn=REWARD)
    REWARD.fail(FAILS, raise_error)
    model.reward_retries = 1
    fit(model, arrays)
    model.reward_retries = 0
    assert_same(numbers(model), expected)


@pytest.mark.parametrize("row", ON_POLICY, ids=[row.name for row in ON_POLICY])
def test_patience_with_rewards_is_part_of_the_config(row):
    model = row.make(reward_fn=REWARD, reward_timeout=30, reward_retries=2)
    config = model.get_config()
    assert config["reward_timeout"] == 30 and config["reward_retries"] == 2


@asking
def test_all_steps_of_an_execution_or_none(row):
    """Two steps an execution: the second's reward fails, and the first is undone."""
    if BACKEND == "torch":
        pytest.skip("Keras runs one step an execution on torch")
    REWARD.fail(-1, None)

    def fault(model, arrays):
        REWARD.fail(3, raise_error)
        fit(model, arrays)

    holds_after(row, fault, 2, Fault, "the reward", reward_fn=REWARD, execution=2)


# Eager steps

GAN = next(row for row in FAMILIES if row.name == "gan")


@pytest.mark.quick(1)
@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt])
def test_an_eager_step_that_fails_between_two_updates(error):
    """The discriminator has learned, and the generator's update raises: both are as before."""
    arrays = arrays_of(GAN)

    def made():
        model = GAN.make()
        model.compile("adam", run_eagerly=True)
        fit(model, arrays)
        return model

    model = made()
    straight = stopped_after(model, arrays, FAILS)
    fit(model, arrays, first=FAILS)
    rest, model = numbers(model), made()
    optimizer, calls = model.optimizer.parts["generator"], []
    apply = optimizer.apply

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == FAILS + 1:
            raise error("the update")
        return apply(*arguments, **options)

    optimizer.apply = failing
    with pytest.raises(error, match="the update"):
        fit(model, arrays)
    assert_same(numbers(model), straight)
    optimizer.apply = apply
    fit(model, arrays, first=FAILS)
    assert_same(numbers(model), rest)


# Other moments

VAE = FAMILIES[0]


@on_jax
@pytest.mark.parametrize("execution", [1, 2])
def test_a_source_that_raises_later(execution):
    """Batch 2 of the second epoch, after a validation; two steps an execution are one program."""
    arrays, epochs = arrays_of(VAE), []
    source = Batches(arrays)

    def run(source, *callbacks):
        model = fresh(VAE, execution=execution)
        options = {"epochs": 2, "validation_data": VAE.arrays(16), "validation_freq": [1]}
        fit(model, None, *callbacks, source=source, **options)
        return model

    def stop():
        epochs.append(1)
        model.stop_training = len(epochs) == (BATCHES + FAILS) // execution

    model = fresh(VAE, execution=execution)
    straight = run(Batches(arrays), At("on_train_batch_end", None, stop))
    expected = numbers(straight)
    with pytest.raises(Fault):
        run(source, At("on_epoch_begin", 1, lambda: setattr(source, "fails", FAILS)))
    assert_same(numbers(model), expected)


@on_jax
@pytest.mark.parametrize(
    "hook",
    [
        *("on_train_begin", "on_epoch_begin", "on_test_begin", "on_test_batch_begin"),
        *("on_test_batch_end", "on_test_end", "on_epoch_end", "on_train_end"),
    ],
)
def test_a_callback_around_an_epoch_that_raises(hook):
    """The weights are those of the epoch before, or of this one where it was over."""
    arrays, call = arrays_of(VAE), int(hook == "on_epoch_begin")
    model = fresh(VAE)
    if hook != "on_train_begin":
        fit(model, arrays, epochs=1 + (hook == "on_train_end"))
    expected = model.get_weights()
    model = fresh(VAE)
    held_out = VAE.arrays(16)
    with pytest.raises(KeyboardInterrupt):
        error = At(hook, call, raising(KeyboardInterrupt))
        fit(model, arrays, error, epochs=2, validation_data=held_out)
    assert_same(model.get_weights(), expected)
    numbers(model)


class Iterator:
    """The batches of arrays, one after the other; that number `FAILS` raises."""

    def __init__(self, arrays):
        self.source, self.index = Batches(arrays, fails=FAILS), -1

    def __iter__(self):
        return self

    def __next__(self):
        self.index += 1
        return self.source[self.index]


def with_workers(arrays):
    source = Batches(arrays, fails=FAILS)
    source.workers = 2
    return source


STREAMS = {
    "generator": lambda arrays: (batch for batch in Iterator(arrays)),
    "iterator": Iterator,
    "workers": with_workers,
}


@on_jax
@pytest.mark.parametrize("row", [VAE, GAN], ids=lambda row: row.name)
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_raises_in_its_middle(row, kind):
    def fault(model, arrays):
        steps = None if kind == "workers" else BATCHES
        fit(model, None, source=STREAMS[kind](arrays), steps_per_epoch=steps)

    holds_after(row, fault, FAILS, Fault, "the source")


@on_jax
@pytest.mark.parametrize("method", ["evaluate", "predict"])
@pytest.mark.parametrize("place", ["source", "begin", "end"])
def test_evaluation_and_prediction_that_fail(method, place):
    arrays, model = arrays_of(VAE), fresh(VAE)
    kind = "test" if method == "evaluate" else method
    before = model.get_weights()
    hook = At(f"on_{kind}_batch_{place}", FAILS, raising())
    source = Batches(arrays, fails=FAILS if place == "source" else None)
    with pytest.raises(Fault):
        getattr(model, method)(source, verbose=0, callbacks=[hook])
    assert_same(model.get_weights(), before)
    numbers(model)
    fit(model, arrays)


@on_jax
@pytest.mark.parametrize("method", ["train_on_batch", "test_on_batch", "predict_on_batch"])
def test_a_batch_alone_that_fails(method):
    """The trace of a batch of another shape raises."""
    (x,), model = arrays_of(VAE), fresh(VAE)
    getattr(model, method)(x[:SIZE])
    before = numbers(model)
    with pytest.raises(Exception, match="Dense|shape|dimension"):
        getattr(model, method)(x[:SIZE, :3])
    if method == "predict_on_batch":
        assert_same(numbers(model), before)
    else:  # Keras has reset the metrics
        assert_same(model.get_weights(), _weights(before, model))
    numbers(model)


def _weights(before, model):
    """The weights among the numbers of a model."""
    places = {id(v): i for i, v in enumerate(variables(model))}
    return [before[places[id(w)]] for w in model.weights]


@on_jax
def test_a_trace_that_raises_in_the_middle(monkeypatch):
    """A last batch of fewer rows is traced anew."""
    (x,) = arrays_of(VAE)
    expected = stopped_after(fresh(VAE), (x,), FAILS)
    model, objective = fresh(VAE), VAE.make().__class__.objective

    def refusing(self, batch, training):
        if batch.x.shape[0] == SIZE // 2:
            raise Fault("the objective")
        return objective(self, batch, training)

    monkeypatch.setattr(type(model), "objective", refusing)
    with pytest.raises(Fault, match="the objective"):
        rows = FAILS * SIZE + SIZE // 2
        model.fit(x[:rows], batch_size=SIZE, shuffle=False, verbose=0)
    assert_same(numbers(model), expected)


@contextlib.contextmanager
def ctrl_c(after):
    """Sends the signal after some seconds, and again each 3 s while the block lasts.

    NumPy drops one in about 150: what is raised while it asks for the buffer of an array.
    """
    ended = threading.Event()

    def send():
        wait = after
        while not ended.wait(wait):
            os.kill(os.getpid(), signal.SIGINT)
            wait = 3

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@on_jax
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_at_any_moment_leaves_a_finished_step():
    """A real signal, often right after a program that has taken the memory of the old state."""
    arrays = arrays_of(VAE)
    fit(fresh(VAE), arrays)
    for turn in range(12):
        model = fresh(VAE)
        with pytest.raises(KeyboardInterrupt), ctrl_c(after=0.02 + 0.003 * turn):
            fit(model, arrays, epochs=10**6)
        step = int(model.step)
        fit(model, arrays)
        assert int(model.step) == step + BATCHES
        assert all(np.all(np.isfinite(w)) for w in numbers(model))


@on_jax
@pytest.mark.parametrize("synced", [False, True])
def test_a_layer_thawed_in_the_middle_of_fit(synced):
    """`fit` says so when it next looks at the layers, and all weights are there."""
    model, arrays = VAE.make(), arrays_of(VAE)
    layer = model.encoder.layers[1]
    layer.trainable = False
    model.compile("adam")

    class Thaw(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                (self.model if synced else model).encoder.layers[1].trainable = True

    with pytest.raises(ValueError, match="thawed after.*compile"):
        fit(model, arrays, Thaw(), epochs=2)
    assert int(model.step) == (2 if synced else BATCHES)
    numbers(model)
    model.compile("adam")
    before = layer.get_weights()
    fit(model, arrays)
    assert not any(map(np.array_equal, before, layer.get_weights()))
