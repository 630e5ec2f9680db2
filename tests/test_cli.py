"""The shell: run folders, settings, errors that say what was meant, interruptions."""

import contextlib
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import artifex_keras
from artifex_keras import cli
from artifex_keras.config import parse_yaml
from artifex_keras.datasets import load
from artifex_keras.folder_lock import FolderLock
from artifex_keras.shell import folder as folders
from artifex_keras.shell import recipes, settings, training
from artifex_keras.trust import read_json

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--epochs", "2", "--set", "units=[8]", "--set", "batch_size=100"]
RING = ["--data", "ring", "--set", "count=500"]
PLAIN = ["--optimizer", "sgd", "--set", "ema_decay=null", "--set", "variance=1"]  # soon compiled


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test has a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shell(*arguments):
    return cli.main([str(argument) for argument in arguments])


def config(folder):
    return parse_yaml((Path(folder) / "config.yaml").read_text())


def history(folder):
    with open(Path(folder) / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def error(capsys, *arguments):
    """What the shell says to arguments that it refuses, with exit code 2."""
    try:
        code = shell(*arguments)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2 and "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow", "torch")
def test_a_run_from_its_beginning_to_its_samples(capsys):
    assert shell("train", "vae", *RING, *SMALL, *PLAIN, "--output", "run") == 0
    about = read_json("run/run.json")
    assert "cpu" in about["device"] and about["versions"][keras.backend.backend()]
    assert [row["epoch"] for row in history("run")] == ["0", "1"]
    assert shell("train", "--resume", "run", "--epochs", "3") == 0
    assert shell("sample", "run", "--count", "5") == 0, capsys.readouterr().err
    assert len(history("run")) == 3 and list(Path("run").glob("samples*"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The runs of a small VAE of images and a small GAN of points, and what was said."""
    place = tmp_path_factory.mktemp("trained")
    for name, data in {"vae": ["--data", "digits"], "gan": RING}.items():
        with open(place / f"{name}.txt", "w") as said, contextlib.redirect_stdout(said):
            assert shell("train", name, *data, *SMALL, "--output", place / name) == 0
    return place


# Training


def test_a_run_of_images_fills_its_folder(trained):
    run = trained / "vae"
    names = {"config.yaml", "history.csv", "loss.png", "model.keras", "reconstructions.png",
             "samples.png"}  # fmt: skip
    assert names <= {path.name for path in run.iterdir()}
    said = (trained / "vae.txt").read_text()
    assert all(f"{run / name}" in said for name in names - {"config.yaml"})
    assert "1000 train, 350 validation, 447 test" in said
    assert [row["epoch"] for row in history(run)] == ["0", "1"]
    assert float(history(run)[1]["val_loss"]) < float(history(run)[0]["val_loss"])
    model = keras.saving.load_model(run / "model.keras")
    assert model.sample(2).shape == (2, 8, 8, 1)
    assert int(model.optimizer.iterations) == 20
    for name in ("loss.png", "samples.png", "reconstructions.png"):
        with Image.open(run / name) as image:
            assert min(image.size) > 100


def test_a_run_says_how_it_was_made(trained):
    about = read_json(trained / "vae" / "run.json")
    assert about["data"].startswith("digits: 1000 train") and about["watched"] == "loss"
    assert about["versions"]["keras"] == keras.__version__ and about["modes"]["elbo"] == "max"
    model = keras.saving.load_model(trained / "vae" / "model.keras")
    assert about["weights"] == sum(w.value.size for w in model.trainable_weights)
    (session,) = about["sessions"]
    assert session["ended"] == "finished" and 0 < session["seconds"] < 300


def test_a_run_of_points_fills_its_folder(trained):
    names = {path.name for path in (trained / "gan").iterdir()}
    assert {"config.yaml", "history.csv", "loss.png", "model.keras", "samples.png"} <= names
    assert "reconstructions.png" not in names
    assert {"d_loss", "g_loss", "r1_loss", "val_d_loss"} <= set(history(trained / "gan")[0])


def test_the_config_of_a_run_repeats_it(trained):
    assert isinstance(config(trained / "gan")["training"]["seed"], int)
    assert shell("train", "--config", trained / "gan" / "config.yaml") == 0
    assert config("runs/gan-1") == config(trained / "gan")
    assert history("runs/gan-1") == history(trained / "gan")
    models = [keras.saving.load_model(run / "model.keras")
              for run in (Path("runs/gan-1"), trained / "gan")]  # fmt: skip
    for one, other in zip(*(model.weights for model in models), strict=True):
        one, other = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other)
        np.testing.assert_array_equal(one, other)


def test_every_setting_reaches_its_place(prepared):
    options = ["--batch-size", 50, "--learning-rate", "3e-3", "--optimizer", "lion",
               "--latent-dim", 3, "--seed", 5, "--epochs", 2]  # fmt: skip
    settings = ["beta=2", "optimizer.beta1=0.8", "kl_annealing=none", "scheduler=null",
                "training.steps_per_execution=1", "gradient_accumulation_steps=2", "units=[8]",
                "mixed_precision=bfloat16"]  # fmt: skip
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert shell("train", "vae", *RING, *options, *arguments) == 0
    written, dataset, trainer = prepared
    assert written["model"]["beta"] == 2 and written["model"]["kl_annealing"] == "none"
    assert written["network"] == {"kind": "mlp", "latent_dim": 3, "units": [8]}
    knobs = {"gradient_accumulation_steps": 2, "mixed_precision": "bfloat16"}
    assert written["trainer"] == knobs
    training = written["training"]
    assert training["optimizer"] == {"type": "lion", "learning_rate": 3e-3, "beta1": 0.8}
    assert (training["batch_size"], training["seed"], training["scheduler"]) == (50, 5, None)
    model = trainer.model
    assert (model.beta, model.latent_shape, model.optimizer.steps) == (2.0, (3,), 2)
    assert model.encoder.get_layer("encoder_hidden_1").compute_dtype == "bfloat16"
    assert trainer.steps_per_epoch == 8 and dataset.train.shape == (400, 2)


def test_options_override_a_config_file(prepared):
    Path("run.yaml").write_text(
        "family: gan\ndata: {source: ring, count: 500}\nnetwork: {units: [8]}\n"
        "model: {loss_type: hinge}\ntraining: {num_epochs: 50, optimizer: {learning_rate: 1e-4}}\n"
    )
    assert shell("train", "--config", "run.yaml", "--epochs", 1) == 0
    written = prepared[0]
    assert written["training"]["num_epochs"] == 1
    assert written["training"]["optimizer"]["learning_rate"] == 1e-4
    assert written["training"]["optimizer"]["type"] == "adam"
    assert "r2_weight" not in written["model"]


def test_ones_own_data(folder, prepared):
    x = np.random.default_rng(0).integers(0, 256, (60, 20, 20)).astype("uint8")
    np.savez(folder / "mine.npz", x_train=x, x_test=x[:5])
    assert shell("train", "gan", "--data", "mine.npz", "--set", "filters=[4]") == 0
    written, dataset, trainer = prepared
    assert written["data"]["source"] == str(folder / "mine.npz")
    assert written["network"]["kind"] == "conv" and written["training"]["batch_size"] == 54
    assert dataset.train.min() == -1.0
    assert trainer.model.sample(1).shape == (1, 20, 20, 1)


def test_a_folder_in_use_is_left_alone():
    Path("here").mkdir()
    assert folders.free_folder("here") == Path("here")
    Path("here/mine.txt").write_text("mine")
    assert folders.free_folder("here") == Path("here-2")
    Path("here-2").write_text("a file")
    assert folders.free_folder("here") == Path("here-3")


def test_runs_are_numbered():
    assert folders.numbered_folder("vae") == Path("runs/vae-1")
    for name in ("vae-2", "vae-11", "vae-x", "gan-30"):
        Path("runs", name).mkdir(parents=True)
    assert folders.numbered_folder("vae") == Path("runs/vae-12")


# Sampling and evaluating


def test_samples_of_images(trained, capsys):
    for number in (1, 2):
        assert shell("sample", trained / "vae", "--count", 5, "--seed", 3) == 0
        files = [trained / "vae" / f"samples-{number}{end}" for end in (".png", ".npy")]
        assert capsys.readouterr().out.split() == [str(path) for path in files]
    one, two = (np.load(trained / "vae" / f"samples-{n}.npy") for n in (1, 2))
    assert one.shape == (5, 8, 8, 1)
    np.testing.assert_array_equal(one, two)


def test_samples_into_a_file(trained):
    assert shell("sample", trained / "gan", "--count", 7, "--output", "new/points.npz") == 0
    assert np.load("new/points.npz")["samples"].shape == (7, 2)
    assert shell("sample", trained / "gan", "--output", "points.png") == 0
    assert [path.name for path in Path().glob("points.*")] == ["points.png"]


def test_evaluation_is_of_the_test_part(trained, capsys):
    assert shell("evaluate", trained / "vae") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "447 examples, the test part of digits"
    printed = {line.split()[0]: float(line.split()[1]) for line in said[1:]}
    model, digits = keras.saving.load_model(trained / "vae" / "model.keras"), load("digits")
    expected = model.evaluate(digits.test, batch_size=100, return_dict=True, verbose=0)
    assert printed == pytest.approx(expected, rel=1e-4)


def test_evaluation_on_other_data(trained, capsys):
    np.savez("other.npz", x_train=np.zeros((4, 8, 8), "uint8"), x_test=np.zeros((9, 8, 8), "uint8"))
    assert shell("evaluate", trained / "vae", "--data", "other.npz") == 0
    assert "9 examples, the test part of other.npz" in capsys.readouterr().out


def test_samples_are_compared_with_the_test_part(trained, capsys, monkeypatch):
    monkeypatch.setattr("artifex_keras.metrics.features.STEPS", 9)  # of convolutions
    named = ["--metrics", "frechet,precision_recall", "--count", 60]
    assert shell("evaluate", trained / "vae", *named) == 0
    _, _, said = capsys.readouterr().out.partition("60 samples beside ")
    head, distance, precision, recall = said.splitlines()
    assert re.fullmatch(
        r"447 examples of the test part, in features of a classifier of its labels "
        r"\(accuracy \d\.\d+\)",
        head,
    )
    assert re.fullmatch(
        r"frechet_distance +\S+ ± \S+; equal distributions would give \S+ at this size", distance
    )
    assert 0 <= float(precision.split()[1]) <= 1 and recall.startswith("recall")
    assert shell("evaluate", trained / "gan", "--metrics", "mmd", "--count", 50) == 0
    kept = read_json(trained / "gan" / "evaluation.json")
    assert kept["samples"]["metrics"]["mmd"] >= 0 and "d_loss" in kept["test"]["metrics"]
    assert "as they are" in capsys.readouterr().out
    assert shell("evaluate", trained / "gan", "--metrics", "mmd", "--features", "classifier") == 2
    assert "needs labels" in capsys.readouterr().err
    assert shell("evaluate", trained / "vae", "--metrics", "fid") == 2
    assert "Unknown metric 'fid'. Choices: classifier" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "vae"], "Unknown command 'trian'. Did you mean 'train'"),
        (["train", "vea"], "Unknown family 'vea'. Did you mean 'vae'"),
        (["train"], "Which family? autoregressive, "),
        (["train", "vae"], "Training needs data: --data digits"),
        (["train", "vae", "--data", "digitz"], "Unknown data set 'digitz'. Did you mean 'digits'"),
        (["train", "vae", "--data", "no.npz"], "There is no file or folder 'no.npz'"),
        (["train", "vae", "--epoch", "3"], "Unknown option '--epoch'. Did you mean '--epochs'"),
        (["train", "vae", "--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["train", "vae", "--config", "no.yaml"], "There is no file 'no.yaml'"),
        (["train", "vae", "--set", "betta=3"], "Unknown key 'betta'. Did you mean 'beta'"),
        (["train", "vae", "--set", "model.betta=3"], "Unknown key of `model` 'betta'"),
        (["train", "vae", "--set", "modell.beta=3"], "Unknown key 'modell'"),
        (["train", "vae", "--set", "model=3"], "'model' is a section: say which key"),
        (["train", "vae", "--set", "beta"], "--set takes KEY=VALUE. Received: 'beta'"),
        (["train", "vae", *RING, "--set", "beta=-1"], "`beta` must be at least 0.0"),
        (["train", "vae", *RING, "--set", "batch_size=1e3"], "`batch_size` must be an integer"),
        (["train", "vae", *RING, "--set", "kind=con"], "Unknown kind of network 'con'"),
        (["train", "vae", *RING, "--set", "filters=[3]"], "`filters` is of no use to networks"),
        (
            ["train", "vae", *RING, "--set", "reconstruction=categorical"],
            "needs data of whole levels",
        ),
        (["train", "vae", *RING, "--optimizer", "adamm"], "Unknown optimizer 'adamm'"),
        (["sample", "nowhere"], "'nowhere' is not the folder of a run"),
        (["evaluate", "nowhere"], "'nowhere' is not the folder of a run"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    assert message in error(capsys, *arguments)
    assert not Path("runs").exists()


def test_a_config_with_faults(capsys):
    for text, message in {
        "family: gan\ntrainig: {}": "Unknown section of the config 'trainig'. Did you mean 'train",
        "family: gan\nmodel: 3": "`model` must be a section of keys. Received: 3",
        "family: vae": "The config is of the family 'vae'. Received: family 'gan'",
        "nothing": "holds no settings",
        "a: [1": "'run.yaml' is not YAML: line 1",
    }.items():
        Path("run.yaml").write_text(text)
        assert message in error(capsys, "train", "gan", "--config", "run.yaml")


def test_text_is_no_data_for_these_families(capsys):
    Path("book.txt").write_text("words " * 100)
    said = error(capsys, "train", "vae", "--data", "book.txt")
    assert "VAE learns images or vectors. Received: tokens in 'book.txt'" in said


def test_samples_of_an_unknown_kind(trained, capsys):
    said = error(capsys, "sample", trained / "gan", "--output", "points.gif2")
    assert "--output must end in .png, .npy or .npz" in said


def test_a_fault_of_ours_shows_no_traceback_unless_asked(monkeypatch, capsys):
    def broken(*arguments, **options):
        raise RuntimeError("broken")

    monkeypatch.setattr(training, "train", broken)
    assert shell("train", "vae", *RING) == 1
    assert "RuntimeError: broken (--debug shows where)" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        shell("train", "vae", *RING, "--debug")


# Interruptions


def test_control_c_leaves_a_whole_run(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)  # a job in the background ignores it
    monkeypatch.setattr(recipes.FAMILIES["vae"].trainer, "train", interrupted_after(1))
    assert shell("train", "vae", *RING, *SMALL, *PLAIN, "--epochs", 50, "--output", "here") == 130
    assert len(history("here")) == 2  # the first epoch, and the part of the second
    names = {"checkpoints", "config.yaml", "history.csv", "loss.png", "model.keras", "run.json",
             "samples.png"}  # fmt: skip
    assert {path.name for path in Path("here").iterdir()} == names
    assert read_json("here/run.json")["sessions"][0]["ended"] == "SIGINT"
    assert keras.saving.load_model("here/model.keras").sample(1).shape == (1, 2)
    said = capsys.readouterr().out
    assert "Interrupted in epoch 2" in said and "artifex-keras train --resume here" in said
    assert signal.getsignal(signal.SIGINT) is before


def interrupted_after(epochs):
    """`train`, with a Ctrl-C at the first batch after so many epochs."""
    train = recipes.FAMILIES["vae"].trainer.train

    def press(epoch, logs=None):
        if epoch == epochs:
            os.kill(os.getpid(), signal.SIGINT)

    def interrupted(trainer, *args, **options):
        trainer.callbacks.append(keras.callbacks.LambdaCallback(on_epoch_begin=press))
        return train(trainer, *args, **options)

    return interrupted


def test_a_run_goes_on_and_can_be_made_longer(monkeypatch, capsys):
    straight = [*RING, *SMALL, *PLAIN, "--seed", "3", "--epochs", "3"]
    assert shell("train", "vae", *straight, "--output", "straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(recipes.FAMILIES["vae"].trainer, "train", interrupted_after(1))
        assert shell("train", "vae", *straight, "--output", "parts") == 130
    assert shell("train", "--resume", "parts") == 0
    assert Path("parts/history.csv").read_text() == Path("straight/history.csv").read_text()
    samples = [keras.saving.load_model(f"{run}/model.keras").sample(4, seed=1)
               for run in ("straight", "parts")]  # fmt: skip
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, samples))
    assert shell("train", "--resume", "parts", "--epochs", "4") == 0
    sessions = read_json("parts/run.json")["sessions"]
    assert len(sessions) > 1 and sessions[-1]["ended"] == "finished"
    assert len(history("parts")) == 4
    assert shell("train", "gan", "--resume", "parts") == 2
    assert "A run that goes on has its family" in capsys.readouterr().err


def test_control_c_before_anything_is_trained(monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "prepare", stop)
    assert shell("train", "vae", *RING) == 130
    assert "Interrupted" in capsys.readouterr().err


def test_the_command_as_a_process_of_its_own(folder):
    command = [sys.executable, "-m", "artifex_keras", "train", "vae", *RING, *SMALL, *PLAIN]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--output", "here"],
        cwd=folder, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: (folder / "here/history.csv").exists() and len(history("here")) > 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
    assert (folder / "here/model.keras").exists() and (folder / "here/samples.png").exists()


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_an_interrupted_save_leaves_what_was_there(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    path = tmp_path / "model.keras"
    folders.save_atomically(model, path)
    before = path.read_bytes()

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        folders.save_atomically(model, path)
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"] and path.read_bytes() == before


@pytest.mark.parametrize("shape", [(20, 4, 4), (20, 2), (20, 8, 8, 3)])
def test_data_of_another_shape_are_not_evaluated(trained, capsys, shape):
    np.savez("shape.npz", x=np.full(shape, 0.5, "float32"))
    assert shell("evaluate", trained / "vae", "--data", "shape.npz") == 2
    said = capsys.readouterr().err
    assert "has learned examples of shape (8, 8, 1)" in said and said.count("\n") == 1


def test_a_run_that_is_complete_says_so(trained, capsys):
    shutil.copytree(trained / "vae", "done")
    assert shell("train", "--resume", "done") == 0
    assert "epochs: --epochs makes it longer." in capsys.readouterr().out


def test_notes_for_programmers_are_left_out(capsys, monkeypatch):
    from artifex_keras.shell import commands

    def fails(arguments):
        error = ValueError("It is wrong.")
        error.add_note(
            "--------------------\nFor simplicity, JAX ... Set JAX_TRACEBACK_FILTERING=off"
        )
        error.add_note("This helps.")
        raise error

    monkeypatch.setitem(commands.COMMANDS, "options", fails)
    assert shell("options", "vae") == 2
    assert capsys.readouterr().err == "artifex-keras: error: It is wrong. This helps.\n"


def test_a_run_that_another_process_trains_is_not_resumed(trained, capsys):
    config = (trained / "gan/config.yaml").read_bytes()
    with FolderLock(trained / "gan"):
        assert shell("train", "--resume", trained / "gan", "--epochs", "9") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "is in use by" in said and "Traceback" not in said
        assert shell("sample", trained / "gan", "--count", "2", "--output", "two.npy") == 0
    assert (trained / "gan/config.yaml").read_bytes() == config
    assert not (trained / "gan/.lock").exists()


# The rest


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        shell("--version")
    assert capsys.readouterr().out == f"artifex-keras {artifex_keras.__version__}\n"


@pytest.mark.parametrize("name", [n for n, f in recipes.FAMILIES.items() if f.kinds != ("rows",)])
def test_every_default_is_a_setting_that_there_is(name):
    family = recipes.FAMILIES[name]
    for source in ("digits", "ring"):
        nothing = settings.validate({}, family)
        settings.validate(family.defaults(load(source), nothing), family)


# Augmentation


def test_images_are_altered_in_their_own_range(prepared):
    pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    assert shell("train", "gan", "--data", "digits", "--augment", "translate,rotate", *SMALL) == 0
    config, dataset, trainer = prepared
    assert config["data"]["augment"] == ["translate", "rotate"]
    batches = [np.asarray(batch) for batch in trainer.train_dataset]
    made = np.concatenate(batches)
    assert len(batches[0]) == trainer.batch_size and made.shape == dataset.train.shape
    assert made.min() == -1.0 and len(batches) == trainer.steps_per_epoch
    originals = {image.tobytes() for image in dataset.train}
    assert sum(image.tobytes() in originals for image in made) < len(made) / 2


def test_a_run_with_augmentation(folder):
    pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    assert shell("train", "vae", "--data", "digits", "--augment", "flip", *SMALL, *PLAIN) == 0
    assert len(history("runs/vae-1")) == 2 and config("runs/vae-1")["data"]["augment"] == ["flip"]


def test_augmentation_that_there_is_not(capsys):
    pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    said = error(capsys, "train", "vae", "--data", "digits", "--augment", "flop", *SMALL)
    assert "Unknown augmentation 'flop'. Did you mean 'flip'" in said
    said = error(capsys, "train", "vae", "--data", "ring", "--augment", "flip", *SMALL)
    assert "`augment` is for images. Received: vectors in 'ring'" in said


def test_the_doctor_looks_without_training(tmp_path, capsys):
    arguments = ["vae", "--data", "digits", *SMALL]
    assert shell("doctor", *arguments) == 0
    assert capsys.readouterr().out == "Nothing was found.\n"
    assert shell("doctor", *arguments, "--learning-rate", 0) == 1
    assert "is 0 for the whole run" in capsys.readouterr().out
    assert "Did you mean 'digits'" in error(capsys, "doctor", "vae", "--data", "digist")
    assert not list(tmp_path.iterdir())


def test_a_run_that_diverges_says_what_helps(capsys):
    assert shell("train", "vae", "--data", "digits", *SMALL, "--learning-rate", 1e18) == 1
    said = capsys.readouterr().err
    assert "error: Training diverged: in epoch 1" in said and "learning rate (now" in said
    assert "--debug" not in said and "Traceback" not in said
