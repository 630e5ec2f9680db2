"""Rewards in a thread while the next batch is sampled: in which order, and that they overlap."""

import _thread
import functools
import threading
import time

import faults
import keras
import numpy as np
import pytest
from algorithms import Algorithm, prompts, sevens, traced_sevens
from equality import assert_same
from faults import At, Batches, Crash, crash_after, stopped_after
from fresh import fresh
from keras import ops

from artifex_keras.backend.ahead import Overlap
from artifex_keras.backend.live import Fed
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.rl import GRPO, PPO, REINFORCE, RLOO

SIZE, BATCHES = 4, 5
PATIENCE = 30.0  # seconds in which what should happen does
CAPPED = {"importance_cap": 1.1}
OPTIONS = {"asynchronous_rewards": True}


class Judge:
    """The share of sevens, with what it was shown; one for all tests, so that programs are shared.

    Attributes:
        shown: the completions of each call.
        threads: in which it was called.
        wait: a function of the number of the call, called first.
    """

    def begin(self, wait=None):
        self.shown, self.threads, self.wait = [], [], wait

    def __call__(self, prompts, completions):
        self.threads.append(threading.current_thread())
        if self.wait is not None:
            self.wait(len(self.shown))
        self.shown.append([list(row) for row in completions])
        return sevens(prompts, completions)


JUDGE = Judge()
ROWS = {
    "grpo": Algorithm("async-grpo", GRPO, prompts, {"reward_fn": JUDGE, **CAPPED}),
    "updates": Algorithm(
        "async-updates",
        GRPO,
        prompts,
        {"reward_fn": [JUDGE, traced_sevens], "num_iterations": 2, "num_minibatches": 2, **CAPPED},
    ),
    "rloo": Algorithm("async-rloo", RLOO, prompts, {"reward_fn": JUDGE, **CAPPED}),
    "ppo": Algorithm(
        "async-ppo", PPO, prompts, {"reward_fn": JUDGE, "num_epochs": 1, "num_generations": 2}
    ),
}
on_jax = pytest.mark.backends("jax")


def rows(*names):
    return pytest.mark.parametrize("name", names)


def moving(name, rate=0.01, **options):
    """A model of that row, as if newly made."""
    model = fresh(ROWS[name], **options)
    model.optimizer.learning_rate = rate  # set here, so that one program serves all
    return model


@pytest.fixture(autouse=True)
def judge():
    JUDGE.begin()
    yield
    ours = [thread for thread in JUDGE.threads if thread is not threading.main_thread()]
    assert not any(thread.is_alive() for thread in ours)


def fit(model, batches=BATCHES, callbacks=(), **options):
    data = prompts(SIZE * batches)
    options = {"batch_size": SIZE, "shuffle": False, "verbose": 0, **options}
    return model.fit(data, callbacks=list(callbacks), **options).history


def arrays(variables):
    return [np.array(ops.convert_to_numpy(v.value)) for v in variables]


def numbers(model):
    return arrays([*model.variables, *model.optimizer.variables])


def batches_of(count):
    data = prompts(SIZE * count)
    return [
        ({name: rows[i * SIZE : (i + 1) * SIZE] for name, rows in data.items()},)
        for i in range(count)
    ]


# The order


def in_the_order(begin, finish, count=BATCHES):
    """What a plain loop does, for any kind of steps: each batch is begun before the update with
    the one before it."""
    batches = batches_of(count)
    begun = begin(batches[0])
    for index, data in enumerate(batches):
        rollout = begun
        if index + 1 < count:
            begun = begin(batches[index + 1])
        finish(data, rollout)


@on_jax
@rows("updates", "rloo")
def test_a_run_is_the_plain_loop_to_the_bit(name):
    import jax

    model = moving(name, **OPTIONS)
    fit(model)
    expected, shown = numbers(model), JUDGE.shown
    JUDGE.begin()
    model = moving(name, **OPTIONS)
    model.live_values.variables()
    start, end, changed = model._parts(True)
    start, end = jax.jit(start), jax.jit(end)
    groups = [model.trainable_variables, model.non_trainable_variables]
    groups += [model.optimizer.variables, model.metrics_variables]
    values = {id(v): v.value for group in groups for v in group}

    def state():
        return tuple([values[id(v)] for v in group] for group in groups)

    def fed(data):
        return Fed(data, model.live_values.array())

    def begin(data):
        rollout, changes = start(state(), fed(data))
        values.update({id(v): value for v, value in zip(changed, changes, strict=True)})
        return rollout

    def finish(data, rollout):
        host = model.on_host(data, rollout, True)
        after = end(state(), fed(data), rollout, host, [])[1]
        for group, new in zip(groups, after, strict=True):
            values.update({id(v): value for v, value in zip(group, new, strict=True)})

    in_the_order(begin, finish)
    assert JUDGE.shown == shown
    ours = [*model.variables, *model.optimizer.variables]
    assert_same([np.array(values[id(v)]) for v in ours], expected)


@pytest.mark.seam
@pytest.mark.backends("tensorflow", "torch")
@rows("rloo")
def test_a_run_is_the_plain_loop_on_other_backends(name):
    """Each completion by the weights before the last update, each update by the rewards of its own
    batch."""
    model = moving(name, **OPTIONS)
    fit(model)
    expected, shown = arrays(model.trainable_variables), JUDGE.shown
    JUDGE.begin()
    model = moving(name, **OPTIONS)
    begin = functools.partial(model.begin_on, training=True)

    def finish(data, rollout):
        model.finish_on(data, rollout, model.on_host(data, rollout, True), True)

    in_the_order(begin, finish)
    assert JUDGE.shown == shown
    assert_same(arrays(model.trainable_variables), expected, atol=1e-6)


@pytest.mark.seam
@rows("grpo", "rloo")
def test_without_a_move_all_is_as_in_turn(name):
    model = moving(name, 1e-30, **OPTIONS)
    history = fit(model, epochs=2)
    shown = JUDGE.shown
    JUDGE.begin()
    in_turn = moving(name, 1e-30)
    assert fit(in_turn, epochs=2) == history
    assert JUDGE.shown == shown
    assert_same(numbers(in_turn), numbers(model))


@on_jax
def test_with_a_move_the_first_batch_of_an_epoch_alone_is_on_policy():
    weights = []

    class Weights(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(logs["importance_weight"])

    fit(moving("grpo", 0.3, **OPTIONS), epochs=2, callbacks=[Weights()])
    sums = np.reshape(weights, (2, BATCHES)) * np.arange(1, BATCHES + 1)  # of running means
    each = np.diff(sums, axis=1, prepend=0.0)
    np.testing.assert_allclose(each[:, 0], 1.0, atol=1e-4)
    assert np.all(np.abs(each[:, 1:] - 1.0) > 1e-3)


# The overlap


@pytest.mark.seam
@rows("grpo", "ppo")
def test_a_reward_runs_beside_the_next_rollout(name, monkeypatch):
    """The reward of each batch waits until the next one is being sampled, so that a run in turn
    would wait for ever."""
    begun = [threading.Event() for _ in range(2 * BATCHES)]
    step, count = Overlap.step, []

    def noting(self, data, begin, between):
        def begin_and_note(data):
            outputs = begin(data)
            begun[len(count)].set()
            count.append(1)
            return outputs

        return step(self, data, begin_and_note, between)

    def wait(call):
        if (call + 1) % BATCHES:
            assert begun[call + 1].wait(PATIENCE), call

    monkeypatch.setattr(Overlap, "step", noting)
    model = moving(name, **OPTIONS)
    JUDGE.begin(wait)
    fit(model, epochs=2)
    assert len(JUDGE.shown) == len(count) == 2 * BATCHES
    assert threading.main_thread() not in JUDGE.threads


@on_jax
def test_evaluation_and_a_batch_alone_wait_for_their_rewards():
    model = moving("grpo", **OPTIONS)
    data = batches_of(1)[0][0]
    in_turn = moving("grpo")
    for each in (model, in_turn):
        each.train_on_batch(data)
        each.evaluate(data, verbose=0)
    assert JUDGE.threads == [threading.main_thread()] * 4
    assert_same(numbers(model), numbers(in_turn))


@on_jax
def test_validation_between_two_epochs_changes_nothing():
    held_out = prompts(3)
    model = moving("updates", **OPTIONS)
    fit(model, epochs=2)
    expected = arrays(model.trainable_variables)
    model = moving("updates", **OPTIONS)
    fit(model, epochs=2, validation_data=held_out)
    assert_same(arrays(model.trainable_variables), expected)


# The data


@on_jax
def test_no_batch_is_read_beyond_an_epoch():
    def read_until_each_end(model):
        read, seen = [], []

        def batches():
            for batch in batches_of(8):
                read.append(1)
                yield batch

        counts = At("on_epoch_end", None, lambda: seen.append(len(read)))
        options = {"steps_per_epoch": 3, "epochs": 2, "shuffle": False, "verbose": 0}
        model.fit(batches(), callbacks=[counts], **options)
        return seen

    assert read_until_each_end(moving("grpo", **OPTIONS)) == read_until_each_end(moving("grpo"))
    assert len(JUDGE.shown) == 12


@on_jax
def test_a_source_without_a_length():
    model = moving("grpo", **OPTIONS)
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit((batch for batch in batches_of(3)), shuffle=False, verbose=0)
    assert len(JUDGE.shown) == 3 and int(model.step) == 3


# Checkpoints


@pytest.mark.parametrize("crash_at", [3, 7])
def test_a_killed_run_goes_on_to_the_bit(tmp_path, crash_at):
    """A checkpoint each two steps, in the middle of an epoch too: no rollout is part of it."""

    def run(name, *callbacks):
        model = moving("updates", **OPTIONS)
        keras.utils.set_random_seed(4)  # the order of the rows
        keeper = CheckpointCallback(
            tmp_path / name, save_every_n_steps=2, resume="auto", verbose=False
        )
        try:
            history = fit(model, epochs=2, shuffle=True, callbacks=[keeper, *callbacks])
        finally:
            keeper._writing.wait()
        return history, numbers(model)

    history, expected = run("straight")
    shown = JUDGE.shown
    JUDGE.begin()
    with pytest.raises(Crash):
        run("killed", crash_after(crash_at))
    JUDGE.begin()
    again, resumed = run("killed")
    assert JUDGE.shown == shown[-len(JUDGE.shown) :] and len(JUDGE.shown) == 10 - crash_at // 2 * 2
    assert again == history
    assert_same(resumed, expected)


# Faults


@on_jax
@pytest.mark.usefixtures("heeds_ctrl_c")
def test_an_interrupt_waits_for_the_thread_and_leaves_a_finished_step():
    model, ended = moving("grpo", **OPTIONS), []

    def wait(call):
        if call == 2:
            _thread.interrupt_main()
            time.sleep(0.3)
            ended.append(call)

    JUDGE.begin(wait)
    with pytest.raises(KeyboardInterrupt):
        fit(model)
    assert ended == [2] and int(model.step) == 2
    JUDGE.begin()
    fit(model)
    assert int(model.step) == 2 + BATCHES


def test_a_source_that_raises_does_so_when_its_batch_is_due():
    """The update with the batch before it is done first."""
    model, data = moving("grpo", **OPTIONS), (prompts(faults.SIZE * faults.BATCHES),)
    with pytest.raises(Exception, match="the source"):
        model.fit(Batches(data, fails=2), shuffle=False, verbose=0)
    found = arrays(model.trainable_variables)
    model = moving("grpo", **OPTIONS)
    stopped_after(model, data, 2)
    assert int(model.step) == 2
    assert_same(arrays(model.trainable_variables), found)


# What is refused


@on_jax
@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("needs an `importance_cap`.*importance_cap=None", lambda p: GRPO(p, sevens, **short())),
        ("needs an `importance_cap`", lambda p: RLOO(p, sevens, **short())),
        ("needs an `importance_cap`", lambda p: REINFORCE(p, sevens, **short())),
        ("needs a Python reward.*'traced_sevens'", lambda p: GRPO(p, traced_sevens, **short(2.0))),
        ("needs a `reward_fn`.*environment", lambda p: GRPO(p, environment=Judge, **short(2.0))),
        ("needs a `reward_fn`.*max_turns", lambda p: GRPO(p, max_turns=2, **short(2.0))),
        ("must be True or False", lambda p: GRPO(p, sevens, **short(2.0, asynchronous_rewards=3))),
    ],
)
def test_what_asynchronous_rewards_need(message, make):
    with pytest.raises(ValueError, match=f"`asynchronous_rewards` {message}"):
        make(ROWS["grpo"].policy())


def short(cap=None, **options):
    capped = {} if cap is None else {"importance_cap": cap}
    return {"max_new_tokens": 2, "asynchronous_rewards": True, **capped, **options}


@on_jax
def test_what_is_refused_later(monkeypatch):
    model = ROWS["grpo"].make(**OPTIONS)
    with pytest.raises(ValueError, match="needs a Python reward"):
        model.reward_fn = traced_sevens
    with pytest.raises(ValueError, match="needs an `importance_cap`"):
        model.importance_cap = None
    model.compile("sgd", steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=2"):
        fit(model)
    model.compile("sgd")
    monkeypatch.setattr("artifex_keras.backend.processes.count", lambda: 2)
    with pytest.raises(ValueError, match="a single process. Received: 2"):
        fit(model)


@on_jax
def test_it_is_saved(tmp_path):
    model = ROWS["rloo"].make(reward_fn=sevens, **OPTIONS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.asynchronous_rewards is True and loaded.importance_cap == 1.1
