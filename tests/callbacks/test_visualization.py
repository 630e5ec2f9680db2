"""Pictures of a run: what is drawn of which model, the same each time, and the run as without."""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from families import FAMILIES, FEW, FEW_NAMES, dense
from fresh import again, fresh
from keras import ops
from PIL import Image

from artifex_keras import pictures, tracking
from artifex_keras.backend import processes
from artifex_keras.callbacks import VisualizationCallback, visualization
from artifex_keras.callbacks.drawing import KINDS, View, examples
from artifex_keras.datasets import CharacterTokenizer, toys
from artifex_keras.models import VAE, Diffusion, EnergyModel, FlowMatching, NormalizingFlow
from artifex_keras.networks import realnvp, timed_mlp
from artifex_keras.trainers import VAETrainer

IMAGES = np.random.default_rng(0).uniform(size=(32, 4, 4, 1)).astype("float32")
LABELS = np.arange(32) % 3
POINTS = toys.moons(64, seed=1)


@pytest.fixture
def seen(monkeypatch):
    """What is given to the drawing functions, by kind, instead of drawing it, which is slow."""
    found = {}

    def noted(name, kind):
        def draw(view, content, path, title):
            path.parent.mkdir(parents=True, exist_ok=True)
            found.setdefault(name, []).append((content, path.name, title))
            path.write_text("a picture")

        return kind._replace(draw=draw)

    noted_kinds = {name: noted(name, kind) for name, kind in KINDS.items()}
    monkeypatch.setattr(visualization, "KINDS", noted_kinds)
    monkeypatch.setattr(pictures, "animation", lambda files, path: path)
    return found


def new_image_vae(seed=0):
    keras.utils.set_random_seed(seed)
    entry = keras.Input((4, 4, 1))
    h = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(entry))
    encoder = keras.Model(entry, keras.layers.Dense(4)(h))
    code = keras.Input((2,))
    out = keras.layers.Dense(16, activation="sigmoid")(code)
    decoder = keras.Model(code, keras.layers.Reshape((4, 4, 1))(out))
    return VAE(encoder, decoder, seed=seed)


def compiled_image_vae():
    model = new_image_vae()
    model.compile("adam")
    return model


# The same model each time, as if newly made: it is compiled once.
image_vae = again(compiled_image_vae, IMAGES[:16])


def plane_model(family, seed=0):
    keras.utils.set_random_seed(seed)
    if family is NormalizingFlow:
        return NormalizingFlow(realnvp((2,), 2, (8,)), seed=seed)
    if family is EnergyModel:
        return EnergyModel(dense(2, 8, name="energy"), mcmc_steps=3, step_size=0.1, seed=seed)
    options = {"num_timesteps": 50} if family is Diffusion else {}
    return family(timed_mlp((2,), (8,)), seed=seed, **options)


def fit(model, callback, x=IMAGES, y=None, epochs=2, **options):
    if not model.compiled:
        model.compile("adam")
    callbacks = [] if callback is None else [callback]
    options = {"batch_size": 16, "verbose": 0, **options}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **options)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


# The run is what it would be without


@pytest.mark.quick(1)
@pytest.mark.parametrize("family", FEW[:3], ids=FEW_NAMES[:3])
def test_a_run_is_the_same_to_the_bit(family, tmp_path, seen):
    data, found = family.arrays(), []
    x, y = (*data, None)[:2]
    callback = VisualizationCallback(
        tmp_path,
        1,
        4,
        every_n_steps=2,
        data=data,
        image_shape=(3, 2) if len(x.shape) == 2 else None,
    )
    for watching in (callback, None):
        model = fresh(family)
        history = fit(model, watching, x, y)
        weights = [array(weight) for weight in model.variables]
        found.append((history.history, weights, family.sample(model, 5, None)))
    watched, alone = found
    for name in alone[0]:
        np.testing.assert_array_equal(watched[0][name], alone[0][name])
    for one, other in zip(watched[1], alone[1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(watched[2], alone[2])
    expected = {
        "vae": {"samples", "reconstructions", "latent", "losses"},
        "diffusion": {"samples", "denoising", "losses"},
        "flow-matching": {"samples", "denoising", "losses"},
        "autoregressive": {"text", "losses"},
        "pixel": {"losses"},  # two channels
    }
    kind = next((kind for kind in expected if family.name.startswith(kind)), None)
    assert set(seen) == expected.get(kind, {"samples", "losses"})
    assert not callback._warned


def test_random_numbers_of_others_are_left_alone(tmp_path):
    keras.utils.set_random_seed(1)
    expected = np.random.get_state()[1].copy(), keras.random.uniform((2,))
    keras.utils.set_random_seed(1)
    callback = VisualizationCallback(tmp_path, data=(IMAGES, LABELS))
    model = image_vae()
    keras.utils.set_random_seed(1)
    callback.set_model(model)
    callback._draw("epoch-0001", "epoch 1")
    np.testing.assert_array_equal(np.random.get_state()[1], expected[0])
    np.testing.assert_array_equal(array(keras.random.uniform((2,))), array(expected[1]))


# What is drawn


def test_the_files_of_a_run(tmp_path):
    fit(image_vae(), VisualizationCallback(tmp_path / "new", 2, 4, data=(IMAGES, LABELS)), epochs=4)
    kinds = ("latent", "losses", "reconstructions", "samples")
    pngs = [f"epoch-000{epoch}-{kind}.png" for epoch in (2, 4) for kind in kinds]
    assert names(tmp_path / "new") == sorted([*pngs, *(f"{k}.gif" for k in kinds if k != "losses")])
    for path in (tmp_path / "new").iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) > 100
            assert getattr(image, "n_frames", 1) == (2 if path.suffix == ".gif" else 1)


def test_steps_within_epochs_are_counted_over_the_run(tmp_path, seen):
    callback = VisualizationCallback(tmp_path, None, 2, every_n_steps=3, kinds="samples")
    fit(image_vae(), callback, batch_size=8, epochs=3)  # 4 steps an epoch
    assert [file for _, file, _ in seen["samples"]] == [
        "epoch-0000_step-00000003-samples.png",
        "epoch-0001_step-00000006-samples.png",
        "epoch-0002_step-00000009-samples.png",
        "epoch-0003_step-00000012-samples.png",
    ]
    titles = [title for _, _, title in seen["samples"]]
    assert titles == [f"Samples, step {n}" for n in (3, 6, 9, 12)]


def test_steps_of_epochs_before_the_first_count(tmp_path, seen):
    callback = VisualizationCallback(tmp_path, None, 2, every_n_steps=3, kinds="samples")
    fit(image_vae(), callback, batch_size=8, initial_epoch=2, epochs=3)
    assert [file[:24] for _, file, _ in seen["samples"]] == [
        "epoch-0002_step-00000009",
        "epoch-0003_step-00000012",
    ]


@pytest.mark.backends("jax", "tensorflow")
def test_steps_that_are_passed_within_an_execution(tmp_path, seen):
    callback = VisualizationCallback(tmp_path, 2, 2, every_n_steps=3, kinds="samples")
    model = new_image_vae()
    model.compile("adam", steps_per_execution=4)
    fit(model, callback, batch_size=8, epochs=3)
    assert [file for _, file, _ in seen["samples"]] == [
        "epoch-0001_step-00000004-samples.png",
        "epoch-0002-samples.png",  # not twice
        "epoch-0003_step-00000012-samples.png",
    ]


def test_the_same_noise_every_time(tmp_path, seen):
    model = new_image_vae()
    model.compile(keras.optimizers.SGD(0.0))  # which learns nothing
    fit(model, VisualizationCallback(tmp_path, 1, 4, data=(IMAGES, LABELS)), epochs=3)
    for kind in ("samples", "latent", "reconstructions"):
        first, *others = [content for content, _, _ in seen[kind]]
        for other in others:
            np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(seen["samples"][0][0], array(model.sample(4, seed=0)))
    originals, rebuilt = seen["reconstructions"][0][0]
    np.testing.assert_array_equal(originals, IMAGES[[0, 10, 21, 31]])
    np.testing.assert_allclose(rebuilt, array(model.reconstruct(originals)), atol=1e-6)
    np.testing.assert_allclose(seen["latent"][0][0], array(model.encode(IMAGES)[0]), atol=1e-6)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("family", "kinds"),
    [
        (NormalizingFlow, {"samples", "density", "losses"}),
        (FlowMatching, {"samples", "velocity", "density", "losses"}),
        (Diffusion, {"samples", "denoising", "losses"}),
        (EnergyModel, {"samples", "energy", "losses"}),
    ],
)
def test_the_plane(family, kinds, tmp_path, seen):
    model = plane_model(family)
    fit(model, VisualizationCallback(tmp_path, data=POINTS), POINTS, epochs=1)
    assert set(seen) == kinds
    grid = pictures.plane_grid(pictures.bounds_of(POINTS), 64)
    arrows = pictures.arrow_grid(pictures.bounds_of(POINTS))
    if "density" in kinds:
        options = {} if family is NormalizingFlow else {"num_steps": 16}
        expected = array(model.log_prob(grid, **options))
        np.testing.assert_allclose(seen["density"][0][0], expected, rtol=1e-4, atol=1e-4)
    if family is EnergyModel:
        energy, score = seen["energy"][0][0]
        np.testing.assert_allclose(energy, array(model.energy(grid)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(score, array(model.score(arrows)), rtol=1e-5, atol=1e-5)
    if family is FlowMatching:
        states, fields = seen["velocity"][0][0]
        expected = array(model([arrows, np.full(len(arrows), 0.5, "float32")]))
        np.testing.assert_allclose(fields[2], expected, rtol=1e-4, atol=1e-5)
        expected = array(model.sample(500, num_steps=40, seed=0))
        np.testing.assert_allclose(states[-1], expected, atol=1e-5)


def test_a_strip_for_each_sample(tmp_path, seen):
    keras.utils.set_random_seed(0)
    model = Diffusion(timed_mlp((4, 4, 1), (8,)), num_timesteps=50, seed=0)
    fit(model, VisualizationCallback(tmp_path), epochs=1)
    assert seen["denoising"][0][0].shape == (10, 6, 4, 4, 1)
    assert set(seen) == {"samples", "denoising", "losses"}


def test_classes_by_turns(tmp_path, seen):
    family = next(family for family in FAMILIES if family.name == "diffusion-conditional")
    x, y = family.arrays()
    view = View(family.make(), x, y[::-1])
    fit(view.model, None, x, y, epochs=1)
    np.testing.assert_array_equal(view.conditions(5), [0, 1, 2, 0, 1])
    view.condition = 2
    np.testing.assert_array_equal(view.conditions(3), [2, 2, 2])
    view.condition = [1, 0]
    np.testing.assert_array_equal(view.conditions(3), [1, 0, 1])
    expected = view.model.sample(3, condition=np.array([1, 0, 1]), seed=0)
    np.testing.assert_array_equal(view.samples(3), array(expected))
    callback = VisualizationCallback(tmp_path, image_shape=(3, 2))
    with pytest.warns(UserWarning, match="'samples' could not be drawn.*pass `condition`"):
        fit(view.model, callback, x, y, epochs=2)


def test_labels_are_its_condition(tmp_path):
    callback = VisualizationCallback(tmp_path, condition=[2, 1])
    with pytest.warns(FutureWarning, match="`labels` of `VisualizationCallback`.*`condition` now"):
        old = VisualizationCallback(tmp_path, labels=[2, 1])
    assert old.settings == callback.settings
    with pytest.raises(TypeError, match="Received: both. Leave `labels` out"):
        VisualizationCallback(tmp_path, labels=1, condition=1)
    with pytest.raises(TypeError, match="Did you mean 'condition'"):
        VisualizationCallback(tmp_path, conditions=1)


def test_texts(tmp_path):
    family = next(family for family in FAMILIES if family.name == "autoregressive")
    model, tokenizer = family.make(), CharacterTokenizer("abcdefg")
    calls = []

    class Tracker:
        def __getattr__(self, method):
            return lambda *arguments: calls.append((method, *arguments))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "active", lambda model: [Tracker()])
        callback = VisualizationCallback(tmp_path, 1, 3, tokenizer=tokenizer, prompt="cab")
        fit(model, callback, *family.arrays(), epochs=1)
    rows = (tmp_path / "epoch-0001-text.txt").read_text().split(f"\n{'-' * 40}\n")
    made = array(model.generate(np.tile(tokenizer.encode("cab"), (3, 1)), 3, seed=0))
    assert [row.strip() for row in rows] == ["cab" + text for text in tokenizer.decode(made)]
    assert ("text", "text", [row.strip() for row in rows], 3) in calls
    assert ("picture", "losses", tmp_path / "epoch-0001-losses.png", 3) in calls


def test_answers_with_what_they_were_worth(tmp_path):
    class Rewarded(keras.Sequential):
        def table(self, *, count, seed):
            row = {"prompt": "3+4=", "completion": "7", "reward": 1.25, "short": -1.0}
            return [row | {"completion": str(seed + i)} for i in range(count)]

    model = Rewarded([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    callback = VisualizationCallback(tmp_path, 1, 2, kinds=["answers"], seed=5)
    model.fit(np.zeros((4, 2)), np.zeros((4, 1)), verbose=0, callbacks=[callback])
    rows = (tmp_path / "epoch-0001-answers.txt").read_text().split(f"\n{'-' * 40}\n")
    calls = [row.strip().splitlines() for row in rows]
    assert calls == [["3+4=", f"> {i}", "reward 1.25, short -1"] for i in (5, 6)]


def test_the_trackers_get_pictures_and_animations(tmp_path, monkeypatch):
    calls = []

    class Tracker:
        def __getattr__(self, method):
            return lambda *arguments: calls.append((method, *arguments))

    monkeypatch.setattr(tracking, "active", lambda model: [Tracker()])
    fit(image_vae(), VisualizationCallback(tmp_path, kinds=["samples"]))
    assert calls == [
        ("picture", "samples", tmp_path / "epoch-0001-samples.png", 2),
        ("picture", "samples", tmp_path / "epoch-0002-samples.png", 4),
        ("picture", "samples_animated", tmp_path / "samples.gif", 4),
    ]


def test_a_plain_model_has_its_losses_drawn(tmp_path, seen):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(model, VisualizationCallback(tmp_path, data=IMAGES), y=IMAGES, epochs=2)
    assert set(seen) == {"losses"}
    drawn = seen["losses"][-1][0]
    assert drawn.epoch == [0, 1] and drawn.history == history.history


def test_losses_of_epochs_without_validation(tmp_path, seen):
    model = image_vae()
    options = {"validation_data": (IMAGES,), "validation_freq": 2}
    history = fit(model, VisualizationCallback(tmp_path), epochs=3, **options)
    drawn = seen["losses"][-1][0].history
    assert drawn["loss"] == history.history["loss"]
    assert np.isnan(drawn["val_loss"]).tolist() == [True, False, True]
    assert drawn["val_loss"][1] == history.history["val_loss"][0]


# Runs in pieces


def test_a_resumed_run_draws_what_the_straight_one_does(tmp_path):
    def callback(folder):
        options = {"every_n_steps": 3, "data": IMAGES, "kinds": ["samples", "losses"]}
        return VisualizationCallback(tmp_path / folder, 1, 4, **options)

    straight = callback("straight")
    fit(image_vae(), straight, epochs=3, batch_size=8)
    model, first = image_vae(), callback("resumed")
    fit(model, first, epochs=2, batch_size=8)
    state = first.get_state()
    # Pictures of an epoch that was lost with the process.
    (tmp_path / "resumed" / "epoch-0003-samples.png").write_text("half written")
    second = callback("resumed")

    class Restoring(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                second.set_state(state)

    model.fit(IMAGES, batch_size=8, epochs=3, initial_epoch=2, verbose=0,
              callbacks=[Restoring(), second])  # fmt: skip
    assert names(tmp_path / "resumed") == names(tmp_path / "straight")
    assert second.get_state()["epochs"] == [0, 1, 2]
    assert second.get_state()["steps"] == straight.get_state()["steps"] == 12
    with Image.open(tmp_path / "resumed" / "samples.gif") as gif:
        assert gif.n_frames == 6  # steps 3, 6 and 9, and three epochs; 12 is an epoch's end


def test_the_middle_of_an_epoch(tmp_path, seen):
    callback = VisualizationCallback(tmp_path, None, 2, every_n_steps=3, kinds="samples")
    callback.set_model(image_vae())
    callback.params = {"steps": 5}
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for batch in range(5):
        callback.on_train_batch_begin(batch)
    callback.on_epoch_end(0, {"loss": 1.0})
    callback.on_epoch_begin(1)
    callback.on_train_batch_begin(0)
    state = callback.get_state()
    callback.on_train_begin()
    callback.set_state(state)
    callback.on_epoch_begin(1)
    for batch in range(1, 5):
        callback.on_train_batch_begin(batch)
    assert [file[:24] for _, file, _ in seen["samples"]] == [
        "epoch-0000_step-00000003",
        "epoch-0001_step-00000006",
        "epoch-0001_step-00000009",
    ]


def test_an_epoch_that_was_stopped_and_gone_on_with(seen, tmp_path):
    callback = VisualizationCallback(tmp_path, 1, 2, every_n_steps=3, kinds=["samples", "losses"])
    callback.set_model(image_vae())
    callback.params = {"steps": 5}
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    for batch in range(2):
        callback.on_train_batch_begin(batch)
    callback.on_epoch_end(0, {"loss": 9.0})  # after two batches
    state = callback.get_state()
    assert state["steps"] == 2
    callback.on_train_begin()
    callback.set_state(state)
    seen.clear()
    callback.on_epoch_begin(0)
    for batch in range(2, 5):
        callback.on_train_batch_begin(batch)
    callback.on_epoch_end(0, {"loss": 1.0})
    files = [file for _, file, _ in seen["samples"]]
    assert files == ["epoch-0000_step-00000003-samples.png", "epoch-0001-samples.png"]
    drawn = seen["losses"][-1][0]
    assert (drawn.epoch, drawn.history) == ([0], {"loss": [1.0]})
    assert callback.get_state()["steps"] == 5


def test_an_animation_of_a_run_that_was_killed(tmp_path):
    class Killed(Exception):
        pass

    class Killer(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 3:
                raise Killed

    model = image_vae()
    watching = VisualizationCallback(tmp_path, kinds="samples")
    with pytest.raises(Killed):
        model.fit(IMAGES, batch_size=16, epochs=9, verbose=0, callbacks=[watching, Killer()])
    with Image.open(tmp_path / "samples.gif") as gif:
        assert gif.n_frames == 2


def test_a_shorter_run_in_a_used_folder_leaves_the_rest_out(tmp_path):
    fit(image_vae(), VisualizationCallback(tmp_path, kinds="samples"), epochs=3)
    fit(image_vae(), VisualizationCallback(tmp_path, kinds="samples"), epochs=2)
    with Image.open(tmp_path / "samples.gif") as gif:
        assert gif.n_frames == 2


def test_one_object_twice(tmp_path, seen):
    callback = VisualizationCallback(tmp_path)
    model = image_vae()
    fit(model, callback)
    fit(model, callback, epochs=1)
    assert seen["losses"][-1][0].epoch == [0]


# What goes wrong


def test_a_picture_that_fails_warns_once(tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "samples", KINDS["samples"]._replace(content=lambda view: 1 / 0))
    callback = VisualizationCallback(tmp_path)
    with pytest.warns(UserWarning, match="'samples' could not be drawn: ZeroDivisionError") as seen:
        history = fit(image_vae(), callback, epochs=3)
    assert len(history.epoch) == 3
    assert len([w for w in seen if "VisualizationCallback" in str(w.message)]) == 1
    assert "epoch-0003-losses.png" in names(tmp_path)


def test_a_kind_that_does_not_apply_says_what_it_needs(tmp_path):
    callback = VisualizationCallback(tmp_path, kinds=["reconstructions", "losses"])
    with pytest.warns(
        UserWarning, match="'reconstructions' is left out: it needs .*as data"
    ) as all:
        fit(image_vae(), callback, epochs=2)
    assert len([w for w in all if "left out" in str(w.message)]) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    callback = VisualizationCallback(tmp_path / "file" / "below")
    with pytest.warns(UserWarning, match="could not be drawn: NotADirectoryError"):
        assert len(fit(image_vae(), callback).epoch) == 2


def test_only_one_process_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    fit(image_vae(), VisualizationCallback(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("module", ["matplotlib", "PIL"])
def test_without_matplotlib_it_says_so_at_once(module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"`{module}` is needed for pictures.*pip install"):
        VisualizationCallback(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["smaples"]}, "Unknown kind of picture 'smaples'. Did you mean 'samples'"),
        (
            {"every_n_epochs": 0},
            "`every_n_epochs` must be an integer of at least 1 or None. Received: .*=0",
        ),
        ({"every_n_epochs": None}, "One of `every_n_epochs` and `every_n_steps`"),
        ({"every_n_steps": 1.5}, "`every_n_steps` must be an integer"),
        ({"num_samples": True}, "`num_samples` must be an integer"),
    ],
)
def test_bad_input(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        VisualizationCallback(tmp_path, **options)


# Where examples come from


class Batches(keras.utils.PyDataset):
    num_batches = property(lambda self: 4)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return IMAGES[8 * index :][:8], LABELS[8 * index :][:8]


def test_examples_of_arrays_are_from_all_over():
    x, y = examples((IMAGES, LABELS[:, None]), 3)
    np.testing.assert_array_equal(x, IMAGES[[0, 16, 31]])
    np.testing.assert_array_equal(y, LABELS[[0, 16, 31]])
    assert examples(IMAGES)[1] is None and examples(None) == (None, None)
    for source in ({"condition": LABELS, "x": IMAGES}, iter([{"image": IMAGES, "label": LABELS}])):
        x, y = examples(source, len(IMAGES))
        assert x.shape == IMAGES.shape and y.shape == LABELS.shape


@pytest.mark.parametrize("source", [Batches(), [Batches()[0], Batches()[1]]], ids=["py", "list"])
def test_examples_of_batches_are_the_first(source):
    x, y = examples(source if isinstance(source, Batches) else iter(source), 12)
    np.testing.assert_array_equal(x, IMAGES[:12])
    np.testing.assert_array_equal(y, LABELS[:12])


def test_a_torch_loader_draws_no_random_numbers():
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(IMAGES), torch.tensor(LABELS))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    before = torch.get_rng_state()
    x, y = examples(loader, 6)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(x, IMAGES[:6])
    np.testing.assert_array_equal(y, LABELS[:6])


@pytest.mark.parametrize("validation", [IMAGES[:5], None])
def test_a_trainer_shows_its_validation_data_or_its_own(validation, tmp_path, seen):
    callback = VisualizationCallback(tmp_path, kinds="reconstructions")
    config = {"num_epochs": 1, "verbose": 0, "batch_size": 16}
    trainer = VAETrainer(new_image_vae(), config, IMAGES, validation, callbacks=[callback])
    trainer.train()
    originals = seen["reconstructions"][0][0][0]
    expected = IMAGES[:5] if validation is not None else examples(IMAGES, 16)[0]
    np.testing.assert_array_equal(originals, expected)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (IMAGES, (0, 1)),
        (2 * IMAGES - 1, (-1, 1)),
        (np.round(IMAGES * 255), (0, np.round(IMAGES * 255).max())),
        (5 * IMAGES - 1, ((5 * IMAGES - 1).min(), (5 * IMAGES - 1).max())),
    ],
)
def test_black_and_white_are_those_of_the_data(data, limits):
    view = View(None, data)
    assert view.limits(-99 * data) == pytest.approx(limits)
    assert View(None, value_range=(-3, 3)).limits(data) == (-3, 3)
