"""Some of eight devices sample, the others learn: the numbers, and that both work at once."""

import contextlib
import functools

import keras
import numpy as np
import pytest
from algorithms import Algorithm, bigrams, network, prompts, sevens, traced_sevens
from equality import assert_same
from faults import Crash, crash_after
from keras import ops
from overlaps import SampledYet, Slow

from artifex_keras import VAE, GRPOTrainer
from artifex_keras.backend.jax.actors import OnActors
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.distributed import actor_learner, data_parallel
from artifex_keras.rl import GRPO, PPO, REINFORCE, RLOO, traceable

pytestmark = pytest.mark.backends("jax")

SIZE, BATCHES = 8, 5
CAPPED = {"importance_cap": 1.1}


def row(kind, policy=bigrams, **options):
    return Algorithm("", kind, prompts, options, policy=policy)


ROWS = {
    "grpo": row(GRPO, **CAPPED),
    "updates": row(
        GRPO, network, num_iterations=2, num_minibatches=2, beta=0.1, ema_decay=0.9, **CAPPED
    ),
    "replay": row(GRPO, replay_buffer_size=4, max_prompt_length=3, oversample=1.5, **CAPPED),
    "ppo": row(PPO, num_epochs=2),
    "rloo": row(RLOO, **CAPPED),
    "greedy": row(REINFORCE, baseline="greedy", **CAPPED),
}


def run(name, distribution, rate=0.05, reward_fn=sevens, callbacks=(), **options):
    """The history of two epochs with validation, and all that they leave."""
    with contextlib.nullcontext() if distribution is None else distribution.scope():
        model = ROWS[name].make(reward_fn=reward_fn, **options)
        model.compile(keras.optimizers.SGD(rate, momentum=0.9))
        data = prompts(SIZE * BATCHES)
        keras.utils.set_random_seed(4)  # the order of the rows
        history = model.fit(
            data,
            batch_size=SIZE,
            epochs=2,
            verbose=0,
            validation_data=prompts(SIZE),
            callbacks=list(callbacks),
        ).history
    return history, numbers(model)


def numbers(model):
    return [np.asarray(v.value) for v in [*model.variables, *model.optimizer.variables]]


@functools.cache
def one_behind(name):
    """The same on one device, where a thread asks for the rewards."""
    return run(name, None, asynchronous_rewards=True)


def assert_equal(found, expected):
    assert found[0].keys() == expected[0].keys()
    for metric, values in expected[0].items():
        np.testing.assert_allclose(found[0][metric], values, rtol=1e-5, atol=1e-5, err_msg=metric)
    for value, array in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(value, array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_of_one_device_one_update_behind(name):
    assert_equal(run(name, actor_learner(4)), one_behind(name))


@pytest.mark.parametrize("devices", [(3, 5), ((1, 4), (2, 2)), ((2, 2), 1)])
def test_of_any_number_and_mesh(devices):
    assert_equal(run("updates", actor_learner(*devices, min_bytes=0)), one_behind("updates"))


def test_rewards_of_tensors_are_the_learners():
    assert_equal(run("grpo", actor_learner(4), reward_fn=traced_sevens), one_behind("grpo"))


def test_it_is_one_update_behind():
    """With no move all is as in turn, with one it isn't."""
    still = run("grpo", actor_learner(4), rate=1e-30)
    assert_equal(still, run("grpo", None, rate=1e-30))
    weights = [run("grpo", d)[0]["importance_weight"] for d in (None, actor_learner(4))]
    assert weights[0] == [1.0, 1.0] and all(abs(w - 1) > 1e-4 for w in weights[1])


# Where it happens


def test_each_program_runs_on_its_own_devices():
    with actor_learner(3).scope():
        model = ROWS["grpo"].make(reward_fn=sevens)
        model.compile("sgd")
        begun, learned = set(), set()
        begin, finish = model.begin_on, model.finish_on

        def noting(step, seen):
            def noted(*args, **kwargs):
                mesh = keras.distribution.distribution().device_mesh
                seen.update(mesh.devices.flatten().tolist())
                return step(*args, **kwargs)

            return noted

        model.begin_on, model.finish_on = noting(begin, begun), noting(finish, learned)
        model.fit(prompts(16), batch_size=8, verbose=0)
        found = {d.id for w in model.variables for d in w.value.sharding.device_set}
    assert learned == {f"cpu:{i}" for i in range(5)} and found == set(range(5))
    assert begun > {"cpu:5", "cpu:6", "cpu:7"}


def test_frozen_weights_are_copied_once(monkeypatch):
    """Others after each update."""
    copied, put = [], OnActors._copied

    def counting(self, leaves, places):
        before = dict(self._copies)
        values = put(self, leaves, places)
        new = [i for i in places if i not in before or before[i] is not self._copies[i]]
        copied.append(sum(leaves[i].ndim > 1 for i in new))
        return values

    monkeypatch.setattr(OnActors, "_copied", counting)
    with actor_learner(4).scope():
        model = ROWS["grpo"].make(reward_fn=sevens)
        model.policy.layers[1].trainable = False  # a table of embeddings, of two matrices
        model.compile("sgd")
        model.fit(prompts(SIZE * 4), batch_size=SIZE, verbose=0)
        model.evaluate(prompts(SIZE * 2), batch_size=SIZE, verbose=0)
    assert copied == [2, 0, 1, 1, 2, 0]


@pytest.mark.parametrize("reward_fn", [sevens, traced_sevens])
def test_a_batch_is_sampled_while_others_learn(reward_fn):
    """On one device an update waits for the batch that is sampled before it."""
    found = {}
    for way in (None, actor_learner(1, 1)):
        if way is None and reward_fn is traced_sevens:
            continue
        with contextlib.nullcontext() if way is None else way.scope():
            options = {"asynchronous_rewards": way is None, **CAPPED}
            model = Algorithm("", Slow, prompts, options).make(reward_fn=reward_fn)
            model.compile("sgd")
            data, seen = prompts(SIZE * 4), SampledYet()
            model.fit(data, batch_size=SIZE, epochs=2, verbose=0, callbacks=[seen])
        found[way is None] = seen.seen
    # Of an epoch's first two batches neither waits for an update, and a CPU samples both at once;
    # in the first epoch programs are compiled meanwhile.
    assert found[False][-2:] == [False] * 2
    assert True not in found or found[True] == [True] * 6


# Checkpoints and faults


def test_a_killed_run_goes_on_to_the_bit(tmp_path):
    def keeper(name):
        folder = tmp_path / name
        return CheckpointCallback(folder, save_every_n_steps=2, resume="auto", verbose=False)

    run_here = functools.partial(run, "updates", actor_learner(4))
    expected = run_here(callbacks=[keeper("straight")])
    killed = keeper("killed")
    with pytest.raises(Crash):
        run_here(callbacks=[killed, crash_after(3)])
    killed._writing.wait()
    found = run_here(callbacks=[keeper("killed")])
    assert found[0] == expected[0]
    assert_same(found[1], expected[1])


def test_a_reward_that_raises_leaves_a_finished_step():
    calls = []

    def fails(prompts, completions):
        calls.append(1)
        if len(calls) == 3:
            raise OSError("no judge")
        return sevens(prompts, completions)

    with actor_learner(4).scope():
        model = ROWS["grpo"].make(reward_fn=fails)
        model.compile("sgd")
        with pytest.raises(OSError, match="no judge"):
            model.fit(prompts(40), batch_size=8, verbose=0)
        assert int(model.step) == 2
        model.fit(prompts(40), batch_size=8, verbose=0)
    assert int(model.step) == 7


# What goes with it


def test_a_trainer_takes_it():
    config = {"num_epochs": 1, "batch_size": 8, "verbose": 0, "optimizer": "sgd"}
    options = {"max_new_tokens": 3, "num_generations": 4, **CAPPED}
    trainer = GRPOTrainer(
        bigrams(), config, prompts(40), reward_fn=sevens, distribution=actor_learner(4), **options
    )
    history = trainer.train()
    assert history.history["importance_weight"][0] != 1.0
    assert len(trainer.model.policy.weights[0].value.sharding.device_set) == 4


def test_another_distribution_afterwards():
    """The same learners may learn without actors, in turn."""
    with actor_learner(4).scope():
        model = ROWS["grpo"].make(reward_fn=sevens)
        model.compile(keras.optimizers.SGD(0.05))
        model.fit(prompts(40), batch_size=8, verbose=0)
    with data_parallel(4).scope():
        history = model.fit(prompts(40), batch_size=8, verbose=0).history
    assert history["importance_weight"] == [1.0]


@traceable
class OneTurn:
    """`traced_sevens` as an environment."""

    def reset(self):
        return (), None

    def step(self, state, completions, mask):
        rewards = traced_sevens(None, completions, mask)
        return state, None, rewards, ops.ones_like(rewards)


def test_an_environment_of_tensors_is_played_by_the_actors():
    options = {"environment": OneTurn, "reward_fn": None, "rate": 1e-30}
    assert_equal(run("grpo", actor_learner(4), **options), run("grpo", None, **options))


# What doesn't


class Turns:
    def reset(self):
        return ""

    def step(self, text):
        return "", 0.0, True


@pytest.mark.parametrize(
    ("message", "options", "compiled"),
    [
        ("needs an `importance_cap`", {"reward_fn": sevens}, {}),
        ("needs a `reward_fn`, or an env", {"environment": Turns, **CAPPED}, {}),
        ("a step an execution", {"reward_fn": sevens, **CAPPED}, {"steps_per_execution": 2}),
        ("compiled steps", {"reward_fn": sevens, **CAPPED}, {"run_eagerly": True}),
    ],
)
def test_what_it_needs(message, options, compiled):
    with actor_learner(4).scope(), pytest.raises(ValueError, match=f"`actor_learner`.*{message}"):
        model = Algorithm("", GRPO, prompts, options).make()
        model.compile("sgd", **compiled)
        model.fit(prompts(16), batch_size=8, verbose=0)


def test_it_is_for_algorithms_that_sample():
    vae = VAE(keras.Sequential([keras.layers.Dense(4)]), keras.layers.Dense(3))
    vae.compile("sgd")
    with actor_learner(4).scope(), pytest.raises(ValueError, match="GRPO.*Received: VAE"):
        vae.fit(np.zeros((8, 3), "float32"), verbose=0)


@pytest.mark.parametrize(
    ("message", "devices"),
    [
        ("share the 8 devices.*8 actors, 0 learners", (8,)),
        ("9 actors, 0 learners", (9,)),
        ("4 actors, 5 learners", (4, 5)),
        ("4 actors, 6 learners", ((2, 2), (2, 3))),
        ("`actors` must be an integer", (0,)),
        ("`actors` must be a number of devices, or the shape.*'4'", ("4",)),
        ("`learners` must be one or more positive", (4, (2, 0))),
    ],
)
def test_devices_that_there_are_not(message, devices):
    with pytest.raises(ValueError, match=message):
        actor_learner(*devices)
