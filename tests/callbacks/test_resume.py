"""What a resume promises: each difference from the first run is applied, refused or said."""

import collections
import dataclasses
import datetime
import enum
import json
import random
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras import cli
from artifex_keras.callbacks import BaseCallback, CheckpointCallback, restore_checkpoint
from artifex_keras.callbacks.checkpoint.trees import pack, unpack

ROWS, BATCH = 16, 8


def numbers(seed=1):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(ROWS, 3)).astype("float32")
    return x, x[:, :1]


def small(optimizer=None):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(1e-2), "mse")
    return model


def fit(model, folder, *callbacks, epochs=1, data=None):
    """Trains up to so many epochs, resuming. Gives the warnings."""
    keep = CheckpointCallback(folder, resume="auto", verbose=False)
    data = {"x": data} if data is not None else dict(zip("xy", numbers(), strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(**data, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[*callbacks, keep])
    return " ".join(str(w.message) for w in caught if issubclass(w.category, UserWarning))


# States of callbacks


class Kept(keras.callbacks.Callback):
    """A callback with a state of anybody's making."""

    def __init__(self, state=None):
        super().__init__()
        self.state = state

    def get_state(self):
        return {"own": self.state}

    def set_state(self, state):
        self.state = state["own"]


VALUES = [
    {("a", 1): 2, 1: np.ones(2), "1": np.zeros(2), None: 3, 2.5: (4, [5]), b"k": frozenset({1})},
    [{1, 2}, b"\x00\xff", 1 + 2j, float("inf"), 2**200, range(1, 9, 2), None],
    [datetime.datetime(2020, 2, 1, 3), datetime.date(2020, 1, 1), datetime.timedelta(1, 2, 3)],
    [np.float32(0.1), np.int8(3), np.bool_(True), np.str_("x"), np.datetime64("2020-01-01")],
    [np.array(["ab", "c"]), np.array([b"ab"]), np.array([True, False]), np.zeros((0, 3), "int16")],
    [np.array([1, 2], ">i4"), np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]), np.array([1 + 2j])],
    [np.array([1, "x", None, (1,)], object), np.array(["2020-01-01"], "datetime64[D]")],
    [collections.Counter("aab"), collections.OrderedDict(b=1, a=2), collections.deque([1], 3)],
    [collections.defaultdict(list, a=[1]), random.Random(3).getstate()],
]


def assert_identical(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        found, expected = found.values(), expected.values()
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    elif hasattr(expected, "__len__") and not isinstance(expected, str | bytes | set | frozenset):
        for a, b in zip(found, expected, strict=True):
            assert_identical(a, b)
    else:
        assert found == expected


def through_a_file(tree):
    arrays = []
    text = json.dumps(pack(tree, arrays, "kept"))
    return unpack(json.loads(text), {array.name: array.value for array in arrays})


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_state_comes_back_with_its_types(value):
    assert_identical(through_a_file(value), value)


def test_generators_go_on_and_tensors_are_tensors():
    for generator in (np.random.default_rng(3), random.Random(3), np.random.RandomState(3)):
        draw = generator.random if hasattr(generator, "random") else generator.rand
        draw()
        copy = through_a_file(generator)
        assert type(copy) is type(generator)
        assert [copy.random() for _ in range(3)] == [draw() for _ in range(3)]
    tensor = through_a_file(ops.ones((2,), "bfloat16"))
    assert ops.is_tensor(tensor)
    assert keras.backend.standardize_dtype(tensor.dtype) == "bfloat16"


def test_a_tuple_key_of_an_old_file_is_a_tuple():
    old = {"dict": [[{"list": [1, {"list": ["a"]}]}, 2]]}
    assert unpack(old, {}) == {(1, ("a",)): 2}


class Colour(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Row:
    x: int


Pair = collections.namedtuple("Pair", "a b")
itself = []
itself.append(itself)


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Row(1), Pair(1, 2), itself, print, np.ma.array([1], mask=[1]), {Row: 1}],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_kept_is_named_with_its_place(value):
    with pytest.raises(TypeError, match="Mine-1/rows/1.* can't be kept"):
        pack({"rows": [0, value]}, [], "Mine-1")


def test_a_state_is_resumed_and_one_that_cannot_be_kept_is_an_error_at_the_first_save(tmp_path):
    state = {("a", 1): np.array(["x", "yz"])}
    assert fit(small(), tmp_path, Kept(state)) == ""
    resumed = Kept()
    assert fit(small(), tmp_path, resumed, epochs=2) == ""
    assert_identical(resumed.state, state)
    with pytest.raises(TypeError, match="Kept-1/own/row can't be kept"):
        fit(small(), tmp_path / "other", Kept({"row": Row(1)}))


class Counting(keras.callbacks.Callback):
    count = 0

    def __init__(self):
        super().__init__()
        self.every, self.seen = 3, []

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        self.seen.append(batch)


class Ours(Counting, BaseCallback):
    pass


class OnlyGets(Counting):
    def get_state(self):
        return {"count": self.count}


class Wise(Counting):
    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class Forgetful(Counting):
    def get_state(self):
        return {}

    def set_state(self, state):
        raise AssertionError("there is none")


@pytest.mark.parametrize("kind", [Counting, Ours, OnlyGets])
def test_a_callback_whose_attributes_are_lost_is_named_once(tmp_path, kind):
    said = fit(small(), tmp_path, kind(), epochs=2)
    assert said.count(f"{kind.__name__}-1: count, seen") == 1 and "every" not in said
    resumed = kind()
    said = fit(small(), tmp_path, resumed, epochs=3)
    assert f"no state of {kind.__name__}-1" in said
    assert resumed.count == ROWS // BATCH


def test_callbacks_that_say_what_they_keep_are_not_named(tmp_path):
    assert fit(small(), tmp_path, Wise(), Forgetful()) == ""
    wise = Wise()
    assert fit(small(), tmp_path, wise, Forgetful(), epochs=2) == ""
    assert wise.count == 2 * ROWS // BATCH


def test_callbacks_that_are_not_the_same_are_named(tmp_path):
    fit(small(), tmp_path, Wise())
    stopping = keras.callbacks.EarlyStopping("loss")
    said = fit(small(), tmp_path, stopping, epochs=2)
    assert "no state of EarlyStopping-1" in said
    assert "states of Wise-1" in said and "dropped" in said


# Settings


def rate(model):
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


def test_a_changed_rate_is_applied_and_said_once(tmp_path):
    assert fit(small(), tmp_path) == ""
    model = small(keras.optimizers.SGD(1e-4, clipnorm=1.0))
    said = fit(model, tmp_path, epochs=2)
    assert "learning_rate was 0.01 and is 0.0001" in said and said.count("learning_rate") == 1
    assert "clipnorm was None and is 1.0" in said
    assert rate(model) == np.float32(1e-4)
    model = small(keras.optimizers.SGD(1e-4, clipnorm=1.0))
    assert fit(model, tmp_path, epochs=3) == ""  # it is the run's own now
    assert rate(model) == np.float32(1e-4)


class Reduce(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = rate(self.model) / 2


def test_a_rate_that_a_callback_has_lowered_goes_on(tmp_path):
    model = small()
    assert fit(model, tmp_path, Reduce()) == ""
    assert fit(model, tmp_path, Reduce(), epochs=2) == ""  # the same model, in the same process
    assert rate(model) == np.float32(1e-2 / 4)
    model = small()
    assert fit(model, tmp_path, Reduce(), epochs=3) == ""
    assert rate(model) == np.float32(1e-2 / 8)
    model.optimizer.learning_rate = 0.5
    assert "learning_rate was 0.01 and is 0.5" in fit(model, tmp_path, epochs=4)
    assert rate(model) == 0.5


def test_a_schedule_takes_the_place_of_a_rate_and_back(tmp_path):
    fit(small(), tmp_path)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [1.0, 0.25])
    model = small(keras.optimizers.SGD(schedule))
    said = fit(model, tmp_path, epochs=2)
    assert "learning_rate was 0.01 and is PiecewiseConstantDecay" in said
    assert rate(model) == 0.25  # by the step of the run
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2], [1.0, 0.125])
    model = small(keras.optimizers.SGD(schedule))
    assert "learning_rate.values.1 was 0.25 and is 0.125" in fit(model, tmp_path, epochs=3)
    model = small(keras.optimizers.SGD(0.5))
    assert "learning_rate was PiecewiseConstantDecay and is 0.5" in fit(model, tmp_path, epochs=4)
    assert rate(model) == 0.5


def test_another_optimizer_is_refused_with_the_way_out(tmp_path):
    fit(small(), tmp_path)
    with pytest.raises(ValueError, match="was SGD and is Adam.*export_checkpoint"):
        fit(small("adam"), tmp_path, epochs=2)


NEW_VARIABLES = {
    "momentum was 0.0 and is 0.9": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "use_ema was False and is True": lambda: keras.optimizers.SGD(1e-2, use_ema=True),
    "gradient_accumulation_steps was None and is 2": lambda: keras.optimizers.SGD(
        1e-2, gradient_accumulation_steps=2
    ),
}


@pytest.mark.parametrize("said", NEW_VARIABLES)
def test_a_setting_that_needs_other_variables_is_named(tmp_path, said):
    fit(small(), tmp_path)
    with pytest.raises(ValueError, match=f"not in the checkpoint.*changed: .*{said}.*another fol"):
        fit(small(NEW_VARIABLES[said]()), tmp_path, epochs=2)


def test_another_seed_of_the_model_is_said(tmp_path):
    def vae(seed):
        keras.utils.set_random_seed(0)
        networks = ak.networks.mlp_encoder((3,), 2, (4,)), ak.networks.mlp_decoder(2, (3,), (4,))
        made = ak.VAE(*networks, seed=seed)
        made.compile("sgd")
        return made

    data = numbers()[0]
    fit(vae(0), tmp_path, data=data)
    said = fit(vae(5), tmp_path, epochs=2, data=data)
    assert "model.seed was 0 and is 5 (its random numbers go on; `reseed` begins others)" in said
    assert said.count(" was ") == 1
    assert fit(vae(5), tmp_path, epochs=3, data=data) == ""


def test_another_loss_is_said(tmp_path):
    fit(small(), tmp_path)
    model = small()
    model.compile(keras.optimizers.SGD(1e-2), "mae")
    assert "loss was 'mse' and is 'mae'" in fit(model, tmp_path, epochs=2)


def vae_trainer(folder, epochs=1, rate=1e-2, **options):
    keras.utils.set_random_seed(0)
    config = {
        "optimizer": {"type": "adam", "learning_rate": rate},
        "checkpoint_dir": folder,
        "batch_size": 8,
        "num_epochs": epochs,
        "verbose": 0,
        "seed": 1,
    }
    networks = ak.networks.mlp_encoder((3,), 2, (4,)), ak.networks.mlp_decoder(2, (3,), (4,))
    return ak.VAETrainer(ak.VAE(*networks, **options), config, numbers()[0])


def test_a_trainer_applies_a_changed_rate_and_says_what_the_model_trains_by(tmp_path):
    vae_trainer(tmp_path).train()
    other = vae_trainer(tmp_path, 2, 1e-4, beta=3.0)
    with pytest.warns(UserWarning, match="learning_rate was 0.01 and is 0.0001; beta was") as said:
        other.train(resume=True)
    assert len([w for w in said if w.category is UserWarning]) == 1
    assert rate(other.model) == np.float32(1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        vae_trainer(tmp_path, 3, 1e-4, beta=3.0).train(resume=True)


def test_the_shell_trains_at_the_rate_that_it_writes_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--data", "ring", "--set", "count=500", "--set", "units=[4]", "--optimizer", "sgd"]
    small += [
        "--set",
        "batch_size=100",
        "--set",
        "ema_decay=null",
        "--set",
        "variance=1",
        "--set",
        "scheduler=null",
    ]
    assert cli.main(["train", "vae", *small, "--epochs", "1", "--output", "run"]) == 0
    again = ["--epochs", "2", "--learning-rate", "0.00025"]
    with pytest.warns(UserWarning, match="learning_rate was .* and is 0.00025"):
        assert cli.main(["train", "--resume", "run", *again]) == 0
    assert rate(keras.saving.load_model("run/model.keras")) == np.float32(0.00025)


def test_each_rate_of_a_group_is_applied(tmp_path):
    def train(generator, discriminator, epochs):
        keras.utils.set_random_seed(0)
        parts = ak.networks.mlp_generator(2, (3,), (4,)), ak.networks.mlp_critic((3,), (4,))
        gan = ak.GAN(*parts, latent_dim=2)
        optimizers = [keras.optimizers.SGD(value) for value in (generator, discriminator)]
        gan.compile(optimizers[0], discriminator_optimizer=optimizers[1])
        return fit(gan, tmp_path, epochs=epochs, data=numbers()[0]), [
            float(ops.convert_to_numpy(each.learning_rate)) for each in optimizers
        ]

    assert train(0.5, 0.25, 1) == ("", [0.5, 0.25])
    said, rates = train(0.5, 0.125, 2)
    assert "discriminator.learning_rate was 0.25 and is 0.125" in said and said.count("was") == 1
    assert rates == [0.5, 0.125]


def test_restoring_says_a_changed_rate_too(tmp_path):
    fit(small(), tmp_path)
    model = small(keras.optimizers.SGD(0.5))
    with pytest.warns(UserWarning, match="learning_rate was 0.01 and is 0.5"):
        restore_checkpoint(model, tmp_path)
    assert rate(model) == 0.5


# Data


class Rows(keras.utils.PyDataset):
    """Batches of arrays, with noise from a generator of somebody's."""

    def __init__(self, generator=None, seed=1, **options):
        super().__init__(**options)
        self.x, self.y = numbers(seed)
        self.generator = generator
        self.epochs = 0

    def __len__(self):
        return ROWS // BATCH

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        noise = 0 if self.generator is None else self.generator.normal(size=(BATCH, 3))
        return (self.x[rows] + noise).astype("float32"), self.y[rows]


class Hidden:
    """A generator behind an object of somebody's."""

    def __init__(self):
        self.normal = [np.random.default_rng(0)][0].normal


class Reseeding(Rows):
    def on_epoch_begin(self):
        self.generator = np.random.default_rng(self.epochs)

    def on_epoch_end(self):
        self.epochs += 1


SOURCES = {
    "arrays": lambda run: dict(zip("xy", numbers(), strict=True)),
    "other arrays": lambda run: dict(zip("xy", numbers(run), strict=True)),
    "PyDataset": lambda run: {"x": Rows()},
    "PyDataset with workers": lambda run: {"x": Rows(workers=2)},
    "other PyDataset": lambda run: {"x": Rows(seed=run)},
    "other PyDataset with workers": lambda run: {"x": Rows(seed=run, workers=2)},
    "the global generator": lambda run: {"x": Rows(np.random)},
    "its own generator": lambda run: {"x": Rows(np.random.default_rng(0))},
    "its own hidden generator": lambda run: {"x": Rows(Hidden())},
    "a generator for each epoch": lambda run: {"x": Reseeding()},
}
HIDDEN = {"a generator for each epoch"}  # looks after one epoch as one that goes on does


def train_in_two(folder, make, first, last):
    """The words of a resume after `first` epochs, and the weights at the end."""
    for run, epochs in enumerate((first, last)):
        model = small()
        keep = CheckpointCallback(folder, resume="auto", verbose=False)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(**make(run), batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[keep])
    return " ".join(str(w.message) for w in caught if w.category is UserWarning), weights(model)


def weights(model):
    return np.concatenate([np.ravel(w) for w in model.get_weights()])


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_at_the_end_of_an_epoch_other_data_are_said(tmp_path, source, first):
    make = SOURCES[source]
    straight = small()
    never = CheckpointCallback(tmp_path / "straight", save_every_n_epochs=None)
    straight.fit(**make(0), batch_size=BATCH, epochs=3, verbose=0, callbacks=[never])
    said, resumed = train_in_two(tmp_path, make, first, 3)
    other = "other" in source or "hidden" in source
    assert np.array_equal(resumed, weights(straight)) != other
    if source not in HIDDEN or first > 1:
        assert ("won't equal an uninterrupted one" in said) == other, said


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("own", [False, True])
def test_own_numbers_are_said_where_batches_cannot_be_seen(tmp_path, own):
    said, _ = train_in_two(tmp_path, lambda run: {"x": Rows(Hidden() if own else None)}, 1, 2)
    assert ("random numbers of its own" in said) == own


def test_a_trainer_knows_its_arrays_again_in_the_same_process_too(tmp_path):
    trainer = vae_trainer(tmp_path, 1)
    trainer.train()
    trainer.config.num_epochs = 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer.train(resume=True)
    other = vae_trainer(tmp_path, 3)
    other.train_dataset.arrays[0][:] += 1
    with pytest.warns(UserWarning, match="or they are other data"):
        other.train(resume=True)


# Names


class AutoNamed(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(4)
        self.outer = keras.layers.Dense(3)

    def call(self, inputs):
        x, t = inputs
        return self.outer(self.inner(ops.concatenate([x, t[:, None]], -1)))


@pytest.mark.backends("jax")
def test_averages_and_optax_go_on_after_another_layer_was_made(tmp_path):
    def train(epochs):
        keras.layers.Dense(1)  # takes a number
        keras.utils.set_random_seed(0)
        model = ak.FlowMatching(AutoNamed(), ema_decay=0.9, input_shape=(3,), seed=0)
        optimizer = ak.optimizers.OptaxOptimizer("adam", learning_rate=0.25 if epochs < 3 else 0.5)
        model.compile(optimizer)
        said = fit(model, tmp_path, epochs=epochs, data=numbers()[0])
        return model, said

    straight, _ = train(2)
    resumed, said = train(2)
    assert said == ""
    for one, other in zip(straight.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert "learning_rate was 0.25 and is 0.5" in train(3)[1]


def test_a_gan_that_has_not_been_trained_is_restored(tmp_path):
    def make():
        keras.utils.set_random_seed(0)
        keras.layers.Dense(1)
        layers = (
            [keras.Input((2,)), keras.layers.Dense(3)],
            [keras.Input((3,)), keras.layers.Dense(1)],
        )
        gan = ak.GAN(*map(keras.Sequential, layers), latent_dim=2, ema_decay=0.5)
        gan.compile("sgd")
        return gan

    trained, other = make(), make()
    fit(trained, tmp_path, data=numbers()[0])
    assert restore_checkpoint(other, tmp_path) == ROWS // BATCH
    for one, two in zip(trained.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
