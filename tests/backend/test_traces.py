"""A model's Python runs once for each shape of a batch: tracing is what a first `fit` waits for."""

import collections

import jax
import keras
import numpy as np
import pytest
from families import FAMILIES, NAMES

from artifex_keras import networks, rl
from artifex_keras.backend.keras_internals import build_from_batch

pytestmark = pytest.mark.backends("jax")

# How often a step descends in its code, where it isn't once. A loop's or a branch's body is code
# that stands once, however often it runs.
DESCENTS = {"gan": 2, "wgan-gp": 2, "gan-conditional": 3, "gan-relativistic": 2}


def counting(monkeypatch, model, *names):
    """A counter of the calls of these methods of `model`."""
    calls = collections.Counter()

    def counted(name, method):
        def call(*args, **kwargs):
            calls[name] += 1
            return method(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(type(model), name, counted(name, getattr(type(model), name)))
    return calls


def trace_step(model, batch):
    """Traces a training step for batches of that shape. Nothing is compiled."""
    build_from_batch(model, batch)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    return jax.eval_shape(model.train_step, state, batch)


@pytest.mark.quick(5)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_traces_its_objective_once(name, monkeypatch):
    row = FAMILIES[NAMES.index(name)]
    model = row.make()
    model.compile("adam")
    calls = counting(monkeypatch, model, "update", "descend", "reduced")
    trace_step(model, row.arrays(8))
    descents = DESCENTS.get(name, 1)
    assert calls == {"update": 1, "descend": descents, "reduced": descents}


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_fit_traces_a_step_once_for_each_number_of_rows(steps_per_execution, monkeypatch):
    """Two epochs of 3 batches of 8 rows and one of 6; two together, the last two one by one."""
    row = FAMILIES[NAMES.index("vae")]
    model = row.make()
    model.compile("adam", steps_per_execution=steps_per_execution)
    calls = counting(monkeypatch, model, "objective")
    model.fit(*row.arrays(30), batch_size=8, epochs=2, verbose=0)
    assert calls == {"objective": 2}


def test_fused_steps_and_a_single_one_share_their_trace(monkeypatch):
    """Two batches together, a third alone: two programs of one step."""
    row = FAMILIES[NAMES.index("autoregressive")]
    model = row.make()
    model.compile("adam", steps_per_execution=2)
    calls = counting(monkeypatch, model, "objective")
    model.fit(*row.arrays(24), batch_size=8, epochs=2, verbose=0)
    assert calls == {"objective": 1}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "num_iterations": 2,
            "num_minibatches": 2,
            "target_kl": 0.1,
            "beta": 0.1,
            "reference_sync_steps": 2,
        },
    ],
    ids=["once", "minibatches"],
)
def test_grpo_traces_its_loss_once(options, monkeypatch):
    def reward(prompts, completions, **columns):
        return [float(np.mean(np.asarray(ids) == 7)) for ids in completions]

    policy = networks.CausalTransformer(13, 8, num_layers=1, num_heads=2, width=8)
    model = rl.GRPO(policy, reward, num_generations=2, max_new_tokens=2, seed=0, **options)
    model.compile(keras.optimizers.Adam(1e-3))
    calls = counting(monkeypatch, model, "begin_on", "finish_on", "terms", "descend")
    prompts = np.random.default_rng(0).integers(3, 13, (8, 4)).astype("int32")
    model.fit(prompts, batch_size=4, epochs=2, verbose=0)
    assert calls == dict.fromkeys(("begin_on", "finish_on", "terms", "descend"), 1)
