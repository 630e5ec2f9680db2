"""Blocks computed once more for the gradient: equal numbers, the same dropout, less memory."""

import keras
import numpy as np
import pytest
from keras import ops
from one_program import in_one_program
from temporaries import temporaries

from artifex_keras import backend, networks

IDS = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")
IMAGES = np.random.default_rng(1).normal(size=(2, 4, 4, 1)).astype("float32")


def transformer(remat, **sizes):
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "width": 8, "dropout": 0.5} | sizes
    return networks.CausalTransformer(13, 24, remat=remat, **sizes), IDS


def unet(remat):
    keras.utils.set_random_seed(0)
    made = networks.unet((4, 4, 1), (4,), heads=2, groups=2, dropout=0.5, remat=remat)
    return started(made), [IMAGES, np.float32([1, 7])]


def dit(remat):
    keras.utils.set_random_seed(0)
    made = networks.dit((4, 4, 1), 8, depth=2, heads=2, remat=remat)
    return started(made), [IMAGES, np.float32([1, 7])]


def started(network):
    """A network with no weight at 0, where many gradients would be 0."""
    random = np.random.default_rng(2)
    for weight in network.trainable_weights:
        weight.assign(0.3 * random.normal(size=weight.shape))
    return network


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


MAKERS = {"transformer": transformer, "unet": unet, "dit": dit}


@pytest.mark.quick(2)
@pytest.mark.seam
@pytest.mark.parametrize(
    "name, remat",
    [("transformer", "full"), ("transformer", "dots"), ("unet", "full"), ("dit", "full")],
)
def test_the_numbers_are_those_without(name, remat):
    """Also with dropout: the second computation has the mask of the first."""
    kept, again = (trained(*MAKERS[name](mode)) for mode in (None, remat))
    if name != "dit":
        assert kept[0] != kept[1]  # the second step has other masks
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.seam
def test_a_network_may_be_called_twice_for_one_gradient():
    """The second call's dropout begins with the state that the first has left."""
    found = []
    for remat in (None, "full"):
        network, ids = transformer(remat, num_layers=1)

        def loss(network=network, ids=ids):
            first, second = (network(ids, training=True) for _ in range(2))
            return ops.mean(ops.square(first) * ops.square(1 + second)), None

        value, _, gradients = in_one_program(
            lambda loss=loss, network=network: backend.value_and_grad(
                loss, network.trainable_variables
            )
        )
        found.append([ops.convert_to_numpy(x) for x in (value, *gradients)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


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


@pytest.mark.seam
def test_a_unet_is_saved(tmp_path):
    """And loaded as it was; a file of weights is one of the network that keeps all, and back."""
    (kept, inputs), (network, _) = unet(None), unet("full")
    for weight in network.weights:
        weight.assign(1.5 * weight)
    network.save(tmp_path / "network.keras")
    network.save_weights(tmp_path / "network.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    kept.load_weights(tmp_path / "network.weights.h5")
    first, *others = (ops.convert_to_numpy(made(inputs)) for made in (network, loaded, kept))
    for other in others:
        np.testing.assert_allclose(first, other, atol=1e-6)
    assert loaded.parts == network.parts and len(network.parts) == 6


@pytest.mark.parametrize("make", [unet, dit])
def test_weights_are_in_the_same_places(make):
    kept, again = (make(remat)[0] for remat in (None, "full"))
    assert [w.path for w in kept.weights] == [w.path for w in again.weights]
    clone = keras.models.clone_model(again)
    assert [w.shape for w in clone.weights] == [w.shape for w in again.weights]
    assert again.parts and not clone.parts


def test_without_it_files_are_those_of_earlier_versions():
    assert "remat" not in transformer(None)[0].get_config()


def test_what_it_may_be():
    for make in MAKERS.values():
        with pytest.raises(ValueError, match="remat.*Did you mean 'full'"):
            make("ful")


def large_transformer(remat):
    options = {"num_layers": 4, "num_heads": 4, "width": 32, "remat": remat}
    return networks.CausalTransformer(13, 128, **options), np.zeros((8, 128), "int32")


def large_unet(remat):
    network = networks.unet((16, 16, 1), (8,), groups=2, attention=None, remat=remat)
    return network, [np.zeros((16, 16, 16, 1), "float32"), np.zeros(16, "float32")]


def large_dit(remat):
    network = networks.dit((16, 16, 1), 32, depth=4, heads=4, remat=remat)
    return network, [np.zeros((16, 16, 16, 1), "float32"), np.zeros(16, "float32")]


@pytest.mark.quick(1)
@pytest.mark.backends("jax")
@pytest.mark.parametrize(
    "make, remat, share",
    [
        (large_transformer, "full", 0.5),
        (large_unet, "full", 0.7),  # 0.68 with jax 0.7.2
        (large_dit, "full", 0.5),
    ],
)
def test_it_takes_less_memory(make, remat, share):
    assert temporaries(*make(remat)) < share * temporaries(*make(None))
