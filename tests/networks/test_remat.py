"""Blocks computed once more for the gradient: equal numbers, the same dropout, less memory."""

import keras
import numpy as np
import pytest
from keras import ops
from one_program import in_one_program

from artifex_keras import backend, networks

IDS = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")


def transformer(remat, **sizes):
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "width": 8, "dropout": 0.5} | sizes
    return networks.CausalTransformer(13, 24, remat=remat, **sizes), IDS


def trained(network, inputs, steps=2):
    """Losses and gradients of some steps in training, of which each draws its own dropout, and the
    state of the seeds after them."""
    variables, losses, found = network.trainable_variables, [], []

    def loss():
        return ops.mean(ops.square(ops.cast(network(inputs, training=True), "float32"))), None

    for _ in range(steps):
        value, _, gradients = in_one_program(lambda: backend.value_and_grad(loss, variables))
        losses.append(value)
        found += gradients
    seeds = [v for v in network.variables if "seed" in v.path]
    return [ops.convert_to_numpy(x) for x in (*losses, *found, *seeds)]


@pytest.mark.seam
@pytest.mark.parametrize("remat", ["full", "dots"])
def test_the_numbers_are_those_without(remat):
    """Also with dropout: the second computation has the mask of the first."""
    kept, again = (trained(*transformer(mode)) for mode in (None, remat))
    assert kept[0] != kept[1]  # the second step has other masks
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_what_is_seen_of_a_row_and_its_cache_stay_the_same():
    (kept, _), (again, _) = transformer(None), transformer("full")
    segments = np.int32([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    for inputs in (IDS, [IDS, segments]):
        a, b = (ops.convert_to_numpy(network(inputs)) for network in (kept, again))
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.seam
def test_it_is_saved(tmp_path):
    network, ids = transformer("full")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    a, b = (ops.convert_to_numpy(made(ids)) for made in (network, loaded))
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert loaded.get_config()["remat"] == "full"


def test_without_it_files_are_those_of_earlier_versions():
    assert "remat" not in transformer(None)[0].get_config()


def test_what_it_may_be():
    with pytest.raises(ValueError, match="remat.*Did you mean 'full'"):
        transformer("ful")


def temporaries(network, shapes):
    """XLA's own figure, in bytes, of a gradient with respect to the weights."""
    import jax

    variables = network.trainable_variables

    def step(values, inputs):
        with backend.ReadThroughScope(zip(variables, values, strict=True)):
            return backend.value_and_grad(
                lambda: (ops.mean(ops.square(network(inputs, training=True))), None), variables
            )[2]

    lowered = jax.jit(step).lower(backend.values_of(variables), shapes)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def large_transformer(remat):
    options = {"num_layers": 4, "num_heads": 4, "width": 32, "remat": remat}
    return networks.CausalTransformer(13, 128, **options), np.zeros((8, 128), "int32")


@pytest.mark.backends("jax")
def test_it_takes_less_memory():
    kept, again = (temporaries(*large_transformer(remat)) for remat in (None, "full"))
    assert again < 0.5 * kept
