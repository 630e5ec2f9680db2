"""A variable is its place in the tree of layers, however and after whatever else it was made."""

import json
import zipfile

import keras
import numpy as np
import pytest
from keras import layers, ops

import artifex_keras as ak
from artifex_keras.callbacks import CheckpointCallback, export_checkpoint, restore_checkpoint
from artifex_keras.callbacks.checkpoint.arrays import EARLIER, NamedArray, named_variables, restore
from artifex_keras.gradient_accumulation import portable

X = np.random.default_rng(0).random((8, 6)).astype("float32")


def auto_named(inputs, outputs):
    return keras.Sequential([layers.Dense(5, activation="tanh"), layers.Dense(outputs)])


def functional(inputs, outputs):
    entry = keras.Input(inputs if isinstance(inputs, tuple) else (inputs,))
    h = layers.Dense(5, activation="tanh", name="same")(entry)  # in both networks of a model
    return keras.Model(entry, layers.Dense(outputs)(layers.BatchNormalization()(h)))


def nested(inputs, outputs):
    inner = keras.Sequential([layers.Dense(5), layers.Dropout(0.1), layers.Dense(4)])
    return keras.Sequential([inner, layers.LayerNormalization(), layers.Dense(outputs)])


@keras.saving.register_keras_serializable("tests")
class Lazy(keras.Model):
    """Its layers have no weights before its first call."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.last, self.first = layers.Dense(width), layers.Dense(5)

    def call(self, x, training=False):
        return self.last(self.first(x))

    def compute_output_shape(self, input_shape):  # which couplings ask for
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def lazy(inputs, outputs):
    return Lazy(outputs)


NETWORKS = {f.__name__: f for f in (auto_named, functional, nested, lazy)}


def vae(network, **options):
    return ak.VAE(network(6, 4), network(2, 6), seed=0, **options)


def gan(network, **options):
    return ak.GAN(network(3, 6), network(6, 1), latent_dim=3, seed=0, **options)


def energy(network, **options):
    return ak.EnergyModel(
        network(6, 1), training_method="denoising_score_matching", seed=0, **options
    )


@keras.saving.register_keras_serializable("tests")
class Timed(keras.Model):
    """A network of [x, t] around one of x."""

    def __init__(self, core, **kwargs):
        super().__init__(**kwargs)
        self.core = core

    def call(self, inputs, training=False):
        x, t = inputs
        return self.core(ops.concatenate([x, ops.reshape(t, (-1, 1))], axis=-1))

    def get_config(self):
        core = keras.saving.serialize_keras_object(self.core)
        return {**super().get_config(), "core": core}

    @classmethod
    def from_config(cls, config):
        core = keras.saving.deserialize_keras_object(config.pop("core"))
        return cls(core, **config)


def timed(network):
    core = network(7, 6)
    if network is lazy:
        return Timed(core)
    x, t = keras.Input((6,)), keras.Input(())
    joined = layers.Concatenate()([x, layers.Reshape((1,))(t)])
    return keras.Model([x, t], core(joined))


def diffusion(network, **options):
    options = {"input_shape": None if network is not lazy else (6,), **options}
    return ak.Diffusion(timed(network), num_timesteps=10, seed=0, **options)


def flow_matching(network, **options):
    return ak.FlowMatching(timed(network), seed=0, **options)


def flow(network, **options):
    links = [ak.networks.AdditiveCoupling(network=network(3, 4)), ak.networks.Reverse()]
    return ak.NormalizingFlow(ak.networks.Chain(links), seed=0, **options)


def words(network, vocabulary=7):
    return keras.Sequential([layers.Embedding(vocabulary, 4), network((None, 4), vocabulary)])


def autoregressive(network, **options):
    return ak.Autoregressive(words(network), seed=0, **options)


def pixel(network, **options):
    inside = [layers.Reshape((4,)), network(4, 12), layers.Reshape((2, 2, 1, 3))]
    return ak.PixelAutoregressive(keras.Sequential(inside), num_levels=3, seed=0, **options)


def dpo(network, **options):
    policy = words(network, 13)
    policy.build((None, 6))
    return ak.rl.DPO(policy, seed=0, end_token_id=1, pad_token_id=0, **options)


TOKENS = np.random.default_rng(0).integers(3, 7, (8, 6)).astype("int32")
DATA = {
    pixel: np.random.default_rng(0).random((8, 2, 2, 1)).astype("float32"),
    autoregressive: TOKENS,
    dpo: {
        "chosen": TOKENS,
        "rejected": TOKENS[::-1].copy(),
        "chosen_mask": np.tile([0, 1, 1, 1, 1, 1], (8, 1)).astype("float32"),
        "rejected_mask": np.tile([0, 1, 1, 1, 1, 1], (8, 1)).astype("float32"),
    },
}


def more_layers():
    for _ in range(int(np.random.default_rng().integers(1, 5))):
        layers.Dense(2)(np.zeros((1, 2)))
        keras.Sequential([layers.BatchNormalization()]).build((None, 2))


def compiled(make, network, optimizer=keras.optimizers.Adam, **options):
    model = make(NETWORKS[network], **options)
    model.compile(optimizer(0.01), run_eagerly=True)
    return model


def optax_adam(rate):
    return ak.OptaxOptimizer("adam", learning_rate=rate)


def state(model):
    return [ops.convert_to_numpy(v) for v in (*model.weights, *model.optimizer.variables)]


def same(a, b):
    for x, y in zip(state(a), state(b), strict=True):
        np.testing.assert_array_equal(x, y)


def idle(model):
    """The model with a step that trains nothing: what it costs to compile is not looked at."""
    model.update = lambda batch: {"loss": ops.zeros(())}
    return model


def with_values(model, data):
    """The built model, each of whose states has other values."""
    model.build_from_batch(lambda: (data,))
    model.build_optimizer()
    random = np.random.default_rng(1)
    for v in (*model.weights, *model.optimizer.variables):
        if "learning_rate" not in v.path and v.dtype != "bool":
            v.assign(ops.cast(random.uniform(1, 99, v.shape), v.dtype))
    return model


FAMILIES = (vae, gan, energy, diffusion, flow_matching, flow, autoregressive, pixel, dpo)
QUICK = {  # each family and each kind of network
    (vae, "auto_named"),
    (vae, "lazy"),
    (gan, "auto_named"),
    (energy, "nested"),
    (diffusion, "functional"),
    (flow_matching, "lazy"),
    (flow, "auto_named"),
    (autoregressive, "functional"),
    (pixel, "nested"),
    (dpo, "auto_named"),
}
ROWS = [
    pytest.param(
        make,
        network,
        (keras.optimizers.Adam, optax_adam)[(i + j) % 2],
        marks=[] if (make, network) in QUICK else pytest.mark.slow,
        id=f"{make.__name__}-{network}",
    )
    for i, make in enumerate(FAMILIES)
    for j, network in enumerate(NETWORKS)
]


@pytest.mark.parametrize("make, network, optimizer", ROWS)
def test_each_kind_of_network_goes_on(make, network, optimizer, tmp_path):
    """Of each family: file, weights, checkpoint restored, resumed and exported, of another run."""
    data = DATA.get(make, X)

    def new():
        more_layers()
        return idle(compiled(make, network, optimizer, ema_decay=0.9))

    model = with_values(new(), data)
    model.fit(data, verbose=0, callbacks=[CheckpointCallback(tmp_path / "run")])
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    restored = new()  # not built yet
    assert restore_checkpoint(restored, tmp_path / "run") == 1
    same(restored, model)
    resumed = new()
    again = CheckpointCallback(tmp_path / "run", resume="auto")
    resumed.fit(data, verbose=0, callbacks=[again])  # no epoch is left
    same(resumed, model)
    resumed.set_weights([0 * w for w in resumed.get_weights()])
    resumed.load_weights(tmp_path / "m.weights.h5")
    for a, b in zip(resumed.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    more_layers()
    same(keras.models.load_model(tmp_path / "m.keras"), model)
    exported = keras.models.load_model(export_checkpoint(tmp_path / "run", tmp_path / "e.keras"))
    same(exported, model)
    assert named_variables(exported).keys() == named_variables(model).keys()


@pytest.mark.quick(2)
@pytest.mark.parametrize("frozen_first", [True, False])
@pytest.mark.parametrize("make", [vae, gan, energy])
def test_layers_frozen_or_thawed_beside_an_average(make, frozen_first, tmp_path):
    model = compiled(make, "functional", ema_decay=0.9)
    layer = getattr(model, model.submodels[0]).layers[1]
    if frozen_first:
        layer.trainable = False
        networks = iter([getattr(model, name) for name in model.submodels])
        model = make(lambda *shape: next(networks), ema_decay=0.9)
        layer.trainable = True
    else:
        layer.trainable = False
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.train_on_batch(X)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert len(loaded.trainable_weights) == len(model.trainable_weights)
    same(loaded, model)


def test_files_of_earlier_versions_had_the_averaged_weights_twice():
    model, other = (compiled(vae, "functional", ema_decay=0.9) for _ in range(2))
    model.train_on_batch(X)
    store = {}
    model.save_own_variables(store)
    seeds = {k: v for k, v in store.items() if k.endswith("_seed")}
    own = [v for k, v in store.items() if k not in seeds]
    place = next(i for i, v in enumerate(model._non_trainable_variables) if v is model._average[0])
    copies = {
        kind: [np.array(w) for w in model._averaged if w.trainable == kind] for kind in (1, 0)
    }
    old = [*copies[1], *own[:place], *copies[0], *own[place:]]
    other.train_on_batch(X[:4])
    other.load_own_variables({str(i): value for i, value in enumerate(old)} | seeds)
    for a, b in zip(other._average, model._average, strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(other.average_updates) == 1 and int(other.step) == 1


def test_averages_in_earlier_checkpoints_are_named_by_paths():
    model, other = (with_values(compiled(dpo, n, ema_decay=0.9), DATA[dpo]) for n in ["nested"] * 2)
    by_place, by_path = named_variables(model), named_variables(model, averages=False)
    assert by_place.keys() != by_path.keys()
    paths = [a.path for a in other._average]
    there = dict(zip(named_variables(other, averages=False), by_path.values(), strict=True))
    assert any(path in name for path in paths for name in there)
    restore(other, [NamedArray(k, v.dtype, ops.convert_to_numpy(v)) for k, v in there.items()])
    same(other, model)


@pytest.mark.parametrize("named", [named_variables, *EARLIER[:-1]])
def test_a_checkpoint_of_before_the_running_variance_is_restored(named):
    options = {"reconstruction": "gaussian", "variance": "optimal", "ema_decay": 0.9}
    model, other = (with_values(compiled(vae, "auto_named", **options), X) for _ in range(2))
    other.encoder.trainable_variables[0].assign_add(ops.ones((6, 5)))
    arrays = [
        NamedArray(name, v.dtype, ops.convert_to_numpy(v))
        for name, v in named(model).items()
        if all(v is not own for own in model.running_variance.variables)
    ]
    with pytest.warns(UserWarning, match="is 1 until the model trains again"):
        restore(other, arrays)
    assert [float(v) for v in other.running_variance.variables] == [1.0, 0.0]
    for v in model.running_variance.variables:
        v.assign(1 if v.dtype == "float32" else 0)
    same(other, model)


def test_a_restored_model_must_be_compiled(tmp_path):
    with pytest.raises(ValueError, match="`model` must be compiled"):
        restore_checkpoint(vae(auto_named), tmp_path)


# Files that another backend wrote


def torchs(config):
    """A config as it was written on torch, whose optimizers have classes of their own."""
    if not isinstance(config, dict):
        return config
    config = {key: torchs(value) for key, value in config.items()}
    if config.get("module") == "keras.optimizers" and config["class_name"] in ("Adam", "SGD"):
        name = config["class_name"].lower()
        config["module"] = f"keras.src.backend.torch.optimizers.torch_{name}"
        config["registered_name"] = config["class_name"]
    return config


OPTIMIZERS = {
    "plain": lambda: keras.optimizers.Adam(0.01),
    "accumulated": lambda: keras.optimizers.SGD(0.01, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.quick(2)
@pytest.mark.seam
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("make", [vae, gan])
def test_a_file_of_another_backend_goes_on(make, name, tmp_path):
    model = make(functional)
    model.compile(OPTIMIZERS[name](), run_eagerly=True)
    model.train_on_batch(X)
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as file:
        config = json.loads(file.read("config.json"))
        members = {n: file.read(n) for n in file.namelist()}
    assert "keras.src.backend" not in json.dumps(config["compile_config"])
    members["config.json"] = json.dumps(
        {**config, "compile_config": torchs(config["compile_config"])}
    )
    with zipfile.ZipFile(tmp_path / "torch.keras", "w") as file:
        for member, content in members.items():
            file.writestr(member, content)
    loaded = keras.models.load_model(tmp_path / "torch.keras")
    same(loaded, model)
    loaded.train_on_batch(X)


def test_only_keras_own_optimizers_are_renamed():
    theirs = {"module": "mine", "class_name": "Adam", "registered_name": "mine>Adam"}
    strange = {"module": "keras.src.backend.torch.x", "class_name": "get", "config": [theirs]}
    assert portable([theirs, {"a": 1}]) == [theirs, {"a": 1}]
    assert portable(strange)["module"] == "keras.src.backend.torch.x"
