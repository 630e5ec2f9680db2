"""What was frozen is frozen in the loaded model, and the optimizer's state goes with it."""

import functools

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS, network
from families import FAMILIES, dense
from keras import layers, ops

import artifex_keras as ak
from artifex_keras import networks
from artifex_keras.backend.frozen import freeze, frozen
from artifex_keras.backend.keras_internals import all_layers

ROWS = {row.name: row for row in (*FAMILIES, *ALGORITHMS)}
register = keras.saving.register_keras_serializable("tests")


@register
class Inner(keras.Model):
    """Makes layers for itself, one of which begins frozen."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.first, self.last = layers.Dense(5), layers.Dense(width)
        self.first.trainable = False

    def call(self, x):
        return self.last(self.first(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@register
class Late(Inner):
    """Makes its layers when it is built."""

    def __init__(self, width, **kwargs):
        keras.Model.__init__(self, **kwargs)
        self.width = width

    def build(self, input_shape):
        self.first, self.last = layers.Dense(5), layers.Dense(self.width)
        self.first.build(input_shape)
        self.last.build((None, 5))
        self.built = True


def ready(model):
    """The model with an optimizer whose state is that of a training."""
    model.compile(keras.optimizers.Adam(1e-2))
    model.build_optimizer()
    random = np.random.default_rng(0)
    for variable in model.optimizer.variables:
        if "learning_rate" not in variable.path:
            value = random.uniform(1, 9, variable.shape)
            variable.assign(ops.cast(value, variable.dtype))
    return model


def assert_same(loaded, model, rtol=0.0):
    assert frozen(loaded) == frozen(model)
    pairs = [(loaded.weights, model.weights)]
    pairs += [(loaded.trainable_variables, model.trainable_variables)]
    pairs += [(loaded.optimizer.variables, model.optimizer.variables)]
    for ours, theirs in pairs:
        for a, b in zip(ours, theirs, strict=True):
            a, b = map(ops.convert_to_numpy, (a, b))
            np.testing.assert_allclose(a, b, rtol, atol=rtol)


def saved(model, tmp_path):
    model.save(tmp_path / "m.keras")
    return keras.models.load_model(tmp_path / "m.keras")


def freeze_some(network):
    """Freezes every other layer of those deepest inside that train, and one weight."""
    deepest = [x for x in all_layers(network) if x.trainable_weights and len(all_layers(x)) == 1]
    for layer in deepest[1::2]:
        layer.trainable = False
    deepest[0].trainable_weights[-1].trainable = False


def transformer():
    return networks.CausalTransformer(7, 6, num_layers=2, num_heads=2, width=8)


MADE = {
    "vae-nested": lambda: ak.VAE(
        keras.Sequential([keras.Input((6,)), keras.Sequential([layers.Dense(5), layers.Dense(4)])]),
        dense(2, 4, outputs=6, name="decoder"),
    ),
    "vae-subclassed": lambda: ak.VAE(Inner(4), Inner(6)),
    "vae-late": lambda: ak.VAE(Late(4), Late(6)),
    "dit": lambda: ak.Diffusion(networks.dit((4, 4, 1), 8, depth=1, heads=2), ema_decay=None),
    "timed": lambda: ak.FlowMatching(networks.timed_mlp((6,), (8,)), ema_decay=0.9),
    "maf": lambda: ak.NormalizingFlow(networks.masked_autoregressive_flow((6,), 2, (8,))),
    "glow-like": lambda: ak.NormalizingFlow(networks.realnvp((6,), 2, (8,))),
    "spectral": lambda: ak.GAN(
        dense(3, outputs=6, name="generator"),
        networks.mlp_critic(6, (5,), spectral_norm=True),
        latent_dim=3,
    ),
    "autoregressive": lambda: ak.Autoregressive(transformer(), ema_decay=0.9),
    "grpo": lambda: ROWS["grpo"].make(policy=network()),
    "ppo": lambda: ROWS["ppo"].make(policy=network()),
    "dpo": lambda: ROWS["dpo"].make(policy=ak.Autoregressive(network())),
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", MADE)
def test_a_loaded_model_knows_what_was_frozen(name, tmp_path):
    model = MADE[name]()
    if not model.built:
        model.build((None, 6))
    freeze_some(getattr(model, model.submodels[0]))
    assert_same(saved(ready(model), tmp_path), model)


def test_a_frozen_network_and_one_thawed_within_it(tmp_path):
    model = MADE["autoregressive"]()
    model.network.trainable = False
    model.network.blocks[1].attention.trainable = True
    loaded = saved(model, tmp_path)
    assert frozen(loaded) == frozen(model)
    assert loaded.network.blocks[1].attention.trainable and not loaded.network.trainable


def test_what_a_constructor_freezes_can_be_thawed(tmp_path):
    model = MADE["vae-subclassed"]()
    model.build((None, 6))
    assert len(model.trainable_variables) == 4
    model.encoder.first.trainable = True
    loaded = saved(ready(model), tmp_path)
    assert_same(loaded, model)
    assert len(loaded.trainable_variables) == 6


def test_a_loaded_model_can_be_thawed(tmp_path):
    model = MADE["autoregressive"]()
    model.network.embedding.trainable = False
    loaded = saved(ready(model), tmp_path)
    loaded.network.embedding.trainable = True
    again = saved(ready(loaded), tmp_path)
    assert_same(again, loaded)
    assert len(again.trainable_variables) == len(model.trainable_variables) + 1


def test_training_goes_on_as_if_it_had_not_been_saved(tmp_path):
    model = MADE["autoregressive"]()
    model.network.blocks[0].trainable = False
    model = ready(model)
    tokens = np.random.default_rng(1).integers(0, 7, (4, 6)).astype("int32")
    loaded = saved(model, tmp_path)
    before = [np.array(ops.convert_to_numpy(w)) for w in loaded.network.blocks[0].weights]
    for each in (model, loaded):
        each.fit(tokens, batch_size=4, verbose=0)
    assert_same(loaded, model, 1e-5)
    for weight, value in zip(loaded.network.blocks[0].weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)


@pytest.mark.parametrize("name", ["vae-nested", "spectral", "dpo"])
def test_what_is_frozen_between_fits_keeps_its_state(name, tmp_path):
    model = MADE[name]()
    if not model.built:
        model.build((None, 6))
    model = ready(model)
    freeze_some(getattr(model, model.submodels[0]))
    loaded = saved(model, tmp_path)
    assert_same(loaded, model)
    assert_same(saved(loaded, tmp_path), model)


@pytest.mark.parametrize("given", ["auto", True, False])
def test_the_file_has_jit_compile_as_it_was_given(given, tmp_path):
    model = MADE["vae-nested"]()
    model.compile("adam", jit_compile=given)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.jit_compile_given == given and loaded.jit_compile == model.jit_compile
    resolved = {**model.get_compile_config(), "jit_compile": True}  # of an earlier version
    loaded.compile_from_config(resolved)
    assert loaded.jit_compile_given == "auto"


ALONE = {
    "transformer": transformer,
    "dit": functools.partial(networks.dit, (4, 4, 1), 8, depth=1, heads=2),
    "flow": functools.partial(networks.realnvp, (6,), 2, (8,)),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_network_by_itself(name, tmp_path):
    made = ALONE[name]()
    if not made.built:
        made.build((None, 6))
    if name == "dit":  # in a functional model Keras keeps what it made, not what that made inside
        for layer in all_layers(made):
            if isinstance(layer, networks.timed.Modulation):
                layer.dense.trainable = False
    else:
        freeze_some(made)
    if isinstance(made, keras.Model):
        other = saved(made, tmp_path)
    else:
        config = keras.saving.serialize_keras_object(made)
        other = keras.saving.deserialize_keras_object(config)
    assert frozen(other) == frozen(made) != []


def test_files_without_the_list_load_as_they_did():
    config = MADE["vae-nested"]().get_config()
    del config["frozen"]
    assert frozen(ak.VAE.from_config(config)) == []


def test_a_list_that_is_none_is_refused():
    with pytest.raises(ValueError, match="`frozen` must be a list of places"):
        freeze(transformer(), ["embedding", 3])


def test_a_clone_is_frozen_as_its_model():
    model = MADE["vae-nested"]()
    assert frozen(keras.models.clone_model(model)) == []
    model.encoder.layers[0].layers[0].bias.trainable = False
    assert frozen(keras.models.clone_model(model)) == frozen(model) != []
