"""Every family and algorithm on eight devices: the numbers of one, weights cut with their slots."""

import contextlib
import dataclasses
import functools

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES, FEW_NAMES
from keras.optimizers import SGD, Adam

from artifex_keras.distributed import data_parallel, model_parallel
from artifex_keras.models import Autoregressive, FlowMatching
from artifex_keras.networks import CausalTransformer, timed_mlp

# Every weight that can be cut is, small as it is here.
WAYS = {
    "data": lambda: data_parallel(8),
    "fsdp": lambda: model_parallel((8,), min_bytes=0),
    "mixed": lambda: model_parallel((2, 4), min_bytes=0),
    "groups": lambda: model_parallel((2, 2, 2), min_bytes=0),
}
ROWS = {family.name: family for family in [*FAMILIES, *ALGORITHMS]}


def scanned():
    """A transformer whose blocks are one scan."""
    keras.utils.set_random_seed(0)
    network = CausalTransformer(7, 6, num_layers=3, num_heads=4, width=8, scan_layers=True)
    return Autoregressive(network)


ROWS["scanned"] = dataclasses.replace(ROWS["autoregressive"], make=scanned)
POLICIES = [row.name for row in ALGORITHMS]


def run(name, distribution):
    """The history of two epochs, with metrics of validation, the model and its weights after them.

    Eight devices don't divide the validation's 20 rows. For a row of each kind the last batch of a
    pass is smaller too: 4 rows after 24, 6 after 20.
    """
    row, more = ROWS[name], name in RAGGED
    with contextlib.nullcontext() if distribution is None else distribution.scope():
        model = row.make()
        # Adam would make much of rounding where a policy's gradient is about zero.
        model.compile(SGD(0.01, momentum=0.9) if name in POLICIES else Adam(1e-3))
        history = model.fit(
            *row.arrays(52 if more else 48),
            batch_size=24,
            epochs=2,
            shuffle=False,
            verbose=0,
            validation_data=row.arrays(26 if more else 20),
            validation_batch_size=20,
        ).history
        return history, model, [np.asarray(weight.value) for weight in model.trainable_weights]


@functools.cache
def alone(name):
    history, _, weights = run(name, None)
    return history, weights


# "mixed" cuts along both axes; the ways of one axis are seen on a few of its rows, and that of the
# data on all other rows.
RAGGED = [*FEW_NAMES, "grpo", "dpo"]
MIXED = [*FEW_NAMES, "scanned", "wgan-gp", "diffusion-edm", "grpo", "ppo", "dpo"]
SEEN = {
    "data": ["vae-everything", "gan-conditional", "grpo", "dpo", *(set(ROWS) - {*MIXED})],
    "fsdp": ["vae-everything", "autoregressive", "scanned", "grpo"],
    "mixed": MIXED,
    "groups": ["vae-everything", "autoregressive", "diffusion-edm", "grpo", "dpo"],
}
CASES = [(name, way) for name in ROWS for way in WAYS if name in SEEN[way]]


@pytest.mark.parametrize("name, way", CASES)
def test_the_numbers_of_one_device(name, way):
    history, model, weights = run(name, WAYS[way]())
    expected, expected_weights = alone(name)
    assert history.keys() == expected.keys()
    for metric, values in expected.items():
        np.testing.assert_allclose(history[metric], values, rtol=1e-5, atol=1e-5, err_msg=metric)
    for weight, value in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(weight, value, atol=1e-4)
    slots = {v.name: v for v in model.optimizer.variables}
    for weight in model.trainable_weights:
        for kind in ("momentum", "velocity"):
            slot = slots.get(f"{weight.path.replace('/', '_')}_{kind}")
            if slot is not None:
                assert same_place(slot, weight)
    for average, weight in zip(model._average, model._averaged, strict=True):
        assert same_place(average, weight)
    if way != "data":
        assert any(not w.value.sharding.is_fully_replicated for w in model.trainable_weights)


def test_conditions_on_groups_of_devices():
    """Products of rows over two axes with columns over the third, whose gradients XLA gets wrong
    where the rows lie over the axis of the replicas first."""

    def trained(distribution):
        keras.utils.set_random_seed(0)
        model = FlowMatching(timed_mlp((64,), (32,), num_classes=3), ema_decay=None, seed=0)
        model.compile(SGD(0.5))
        x = np.random.default_rng(0).normal(size=(8, 64)).astype("float32")
        with distribution.scope() if distribution else contextlib.nullcontext():
            model.fit(x, np.arange(8) % 3, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    expected = trained(None)
    for mesh in [(2, 2, 2), (2, 1, 4), (4, 2, 1)]:
        for one, other in zip(trained(model_parallel(mesh, min_bytes=0)), expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def same_place(one, other):
    return one.value.sharding.is_equivalent_to(other.value.sharding, one.value.ndim)


@pytest.mark.parametrize("name", [*FEW_NAMES, "diffusion-edm"])
def test_sampling_on_devices(name):
    row = ROWS[name]
    expected = row.sample(built(row), 12, 3)
    model = built(row)
    with data_parallel(8).scope():
        keras.distribution.distribution().shard(model)
        np.testing.assert_allclose(row.sample(model, 12, 3), expected, atol=1e-5)


def built(row):
    model = row.make()
    if not model.built:
        model.build((None, *row.event_shape))
    return model
