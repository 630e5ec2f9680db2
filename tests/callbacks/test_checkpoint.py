"""Checkpoints: a run that stops anywhere and goes on equals one that did not, to the bit."""

import functools
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from families import FAMILIES, FEW, FEW_NAMES, NAMES
from fresh import again, fresh
from resumed import (
    BATCH,
    EPOCHS,
    ROWS,
    Crash,
    Crashes,
    assert_same_run,
    fused,
    new,
    numbers,
    outcome,
    plain,
)

import artifex_keras as ak
from artifex_keras.callbacks import (
    CheckpointCallback,
    EarlyStoppingCallback,
    export_checkpoint,
    restore_checkpoint,
)
from artifex_keras.callbacks.checkpoint.store import Store


def straight_and_resumed(make, fit, folder, *crashes, **options):
    """What came out without a stop, and of a run that crashed at each of `crashes`."""
    model = make()
    fit(model, [])
    straight = outcome(model)
    for crash in crashes:
        with pytest.raises(Crash):
            callback = CheckpointCallback(folder, resume="auto", verbose=False, **options)
            fit(make(), [callback, Crashes(*crash)])
        callback._writing.wait()  # a process that is killed has no such chance; see test_kill.py
    model = make()
    fit(model, [CheckpointCallback(folder, resume="auto", verbose=False, **options)])
    return straight, outcome(model)


def fit_arrays(model, callbacks, **options):
    x, y = numbers()
    options = {"epochs": EPOCHS, "validation_data": (x, y), **options}
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=callbacks, **options)


CRASHES = {
    "first batch": (new, [(0, 1)]),
    "in the middle of an epoch": (plain, [(1, 3)]),
    "at an epoch's end": (plain, [(1, 0)]),
    "four times": (plain, [(0, 2), (1, 1), (1, 4), (2, 4)]),
}


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize(("make", "crashes"), CRASHES.values(), ids=CRASHES.keys())
def test_a_plain_model_goes_on_to_the_bit(tmp_path, make, crashes):
    runs = straight_and_resumed(make, fit_arrays, tmp_path, *crashes, save_every_n_steps=1)
    assert_same_run(*runs)


def test_a_run_waits_for_what_one_that_broke_off_still_writes(tmp_path, monkeypatch, capsys):
    write = Store.save

    def late(self, *arguments):
        time.sleep(0.5)
        write(self, *arguments)

    with monkeypatch.context() as slow, pytest.raises(Crash):
        slow.setattr(Store, "save", late)
        keep = CheckpointCallback(tmp_path, save_every_n_steps=2)
        fit_arrays(plain(), [keep, Crashes(0, 3)])
    fit_arrays(plain(), [CheckpointCallback(tmp_path, resume="auto")])
    assert "Resuming after step 2" in capsys.readouterr().out


def fit_in_order(model, callbacks):
    fit_arrays(model, callbacks, shuffle=False)


def test_batches_since_the_checkpoint_are_done_again(tmp_path):
    runs = straight_and_resumed(plain, fit_in_order, tmp_path, (1, 4), save_every_n_steps=3)
    assert_same_run(*runs)


@pytest.mark.quick(4)
@pytest.mark.seam
@pytest.mark.parametrize("family", FEW, ids=FEW_NAMES)
def test_every_family_goes_on_to_the_bit(tmp_path, family):
    samples = []

    def fit(model, callbacks):
        model.fit(
            *family.arrays(ROWS),
            batch_size=BATCH,
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=callbacks,
        )
        samples.append(family.sample(model, 3, seed=None))

    make = functools.partial(fresh, family, seed=2)
    assert_same_run(*straight_and_resumed(make, fit, tmp_path, (1, 2), save_every_n_steps=1))
    np.testing.assert_array_equal(*samples)


def accumulated():
    return ak.create_optimizer("adamw", 1e-2, gradient_accumulation_steps=2, ema_decay=0.9)


OPTIMIZERS = {
    "adafactor": lambda: ak.create_optimizer("adafactor", 1e-2),
    "muon": lambda: ak.create_optimizer("muon", 1e-2),
    "schedule_free": lambda: ak.create_optimizer("schedule_free_adamw", 1e-2),
    "accumulated, averaged": accumulated,
    "scaled loss": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)),
    "averaged by Keras": lambda: keras.optimizers.SGD(
        1e-2, momentum=0.9, use_ema=True, ema_overwrite_frequency=3
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_state_of_an_optimizer_is_kept(tmp_path, optimizer):
    (x,) = FAMILIES[NAMES.index("vae")].arrays(ROWS)

    def make():
        model = FAMILIES[NAMES.index("vae")].make(seed=2)
        model.compile(OPTIMIZERS[optimizer]())
        return model

    def fit(model, callbacks):
        model.fit(x, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)

    crashes = [(0, 3), (1, 2)]
    runs = straight_and_resumed(again(make, x), fit, tmp_path, *crashes, save_every_n_steps=1)
    assert_same_run(*runs)


@pytest.mark.backends("jax")
@pytest.mark.parametrize("crash", [(1, 2), (1, 4), (2, 0)])
def test_fused_steps_go_on_to_the_bit(tmp_path, crash):
    runs = straight_and_resumed(fused, fit_arrays, tmp_path, crash, save_every_n_steps=1)
    assert_same_run(*runs)


# Sources of data


class Shuffling(keras.utils.PyDataset):
    """Takes a new order at the end of each epoch, as many people's datasets do."""

    def __init__(self):
        super().__init__()
        self.x, self.y = numbers()
        self.generator = np.random.default_rng(3)
        self.order = np.arange(ROWS)

    def __len__(self):
        return ROWS // BATCH

    def __getitem__(self, index):
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return self.x[rows], self.y[rows]

    def on_epoch_end(self):
        self.generator.shuffle(self.order)


def tf_data(seed=4):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(numbers()).shuffle(ROWS, seed=seed).batch(BATCH)


def grain_data():
    import grain

    pairs = list(zip(*numbers(), strict=True))
    return grain.MapDataset.source(pairs).shuffle(seed=4).to_iter_dataset().batch(BATCH)


def torch_loader():
    import torch

    torch.manual_seed(8)
    tensors = torch.utils.data.TensorDataset(*map(torch.from_numpy, numbers()))
    return torch.utils.data.DataLoader(tensors, batch_size=BATCH, shuffle=True)


def generator():
    x, y = numbers()
    random = np.random.default_rng(5)
    while True:
        rows = random.integers(ROWS, size=BATCH)
        yield x[rows], y[rows]


SOURCES = {
    "PyDataset": (Shuffling, {}),
    "PyDataset shuffled by Keras": (Shuffling, {"shuffle": True}),
    "tf.data": (tf_data, {}),
    "tf.data across epochs": (lambda: tf_data().repeat(), {"steps_per_epoch": 3}),
    "tf.data without length": (lambda: tf_data().filter(lambda *batch: True), {}),
    "grain": (grain_data, {}),
    "torch": (torch_loader, {}),
    "generator": (generator, {"steps_per_epoch": 4}),
}
NEEDS = {
    "tf.data": "tensorflow",
    "tf.data without length": "tensorflow",
    "tf.data across epochs": "tensorflow",
    "grain": "grain",
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_goes_on_where_it_was(tmp_path, source):
    pytest.importorskip(NEEDS.get(source, "torch" if source == "torch" else "keras"))
    make_data, options = SOURCES[source]

    def fit(model, callbacks):
        keras.utils.set_random_seed(8)
        model.fit(make_data(), epochs=EPOCHS, verbose=0, callbacks=callbacks, **options)

    crashes = [(1, 0), (1, 2), (2, 1)]
    assert_same_run(*straight_and_resumed(plain, fit, tmp_path, *crashes, save_every_n_steps=1))


@pytest.mark.backends("jax", "torch")
def test_a_source_with_another_order_is_a_warning(tmp_path):
    pytest.importorskip("tensorflow")
    seeds = iter(range(10))

    def fit(model, callbacks):
        model.fit(tf_data(next(seeds)), epochs=EPOCHS, verbose=0, callbacks=callbacks)

    with pytest.warns(UserWarning, match="come in another order than before"):
        straight_and_resumed(plain, fit, tmp_path, (1, 2), save_every_n_steps=1)


def test_a_source_that_has_become_shorter_is_an_error(tmp_path):
    x, y = numbers()

    def fit(model, rows, callbacks):
        model.fit(x[:rows], y[:rows], batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks)

    callback = CheckpointCallback(tmp_path, save_every_n_steps=1, asynchronous=False)
    with pytest.raises(Crash):
        fit(plain(), ROWS, [callback, Crashes(0, 4)])
    again = CheckpointCallback(tmp_path, resume="auto", verbose=False)
    with (
        pytest.warns(UserWarning, match="5 batches and has 2 now"),
        pytest.raises(ValueError, match="the data now have fewer"),
    ):
        fit(plain(), 16, [again])


# What else is carried


def test_callbacks_go_on_with_their_patience_and_best(tmp_path):
    def callbacks():
        return [
            EarlyStoppingCallback(2, "val_loss", min_delta=1e9, restore_best=True, verbose=False),
            keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=1e9, factor=0.5),
        ]

    def make():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(1e-2), loss="mse")
        return model

    def fit(model, more):
        fit_arrays(model, [*callbacks(), *more], epochs=6, shuffle=False)

    straight, resumed = straight_and_resumed(make, fit, tmp_path, (2, 2), save_every_n_steps=1)
    assert straight.epochs == [0, 1, 2]  # the first is the best: two more are tolerated
    assert_same_run(straight, resumed)


def test_a_finished_run_gives_its_history_and_can_be_made_longer(tmp_path):
    def fit(model, callbacks, epochs):
        fit_arrays(model, callbacks, epochs=epochs)
        return outcome(model)

    def callback():
        return CheckpointCallback(tmp_path, resume="auto", verbose=False)

    straight = fit(plain(), [], 5)
    first = fit(plain(), [callback()], 3)
    again = fit(plain(), [callback()], 3)
    assert_same_run(first, again)
    if keras.config.backend() != "tensorflow":  # there arrays are shuffled by an unseeded graph
        assert_same_run(straight, fit(plain(), [callback()], 5))


def test_the_next_fit_without_the_callback_starts_at_its_initial_epoch(tmp_path):
    for _ in range(2):
        model = plain()
        fit_arrays(model, [CheckpointCallback(tmp_path, resume="auto", verbose=False)])
    model.fit(*numbers(), batch_size=BATCH, epochs=2, verbose=0)
    assert model.history.epoch == [0, 1]


# Which are kept


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path):
    class Scores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["score"] = [0.3, 0.9, 0.1, 0.5, 0.2][epoch]

    callback = CheckpointCallback(
        tmp_path, save_best=True, metric="score", mode="max", max_to_keep=2, best_to_keep=1
    )
    fit_arrays(plain(), [Scores(), callback], epochs=5)
    assert names(tmp_path) == ["step-00000010", "step-00000020", "step-00000025"]
    assert callback.store.best()[0] == 10


@pytest.mark.parametrize(
    "options, steps",
    [
        ({}, [5, 10, 15]),
        ({"save_every_n_epochs": 2}, [10, 15]),
        ({"save_every_n_epochs": None}, [15]),
        ({"save_every_n_epochs": None, "save_every_n_steps": 4}, [4, 8, 12, 15]),
        ({"save_every_n_epochs": None, "save_every_n_minutes": 1e-9}, list(range(1, 16))),
        ({"save_every_n_epochs": None, "save_every_n_minutes": 60}, [15]),
        (
            {"save_every_n_epochs": 10, "save_best": True, "metric": "count", "mode": "min"},
            [10, 15],
        ),
    ],
)
def test_checkpoints_are_written_when_asked(tmp_path, options, steps):
    class Counts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["count"] = [float("nan"), 1.0, 2.0][epoch]

    callback = CheckpointCallback(tmp_path, max_to_keep=None, **options)
    fit_arrays(plain(), [Counts(), callback])
    assert callback.store.steps() == steps[::-1]


def test_a_new_run_sets_the_checkpoints_of_an_earlier_one_aside(tmp_path, capsys):
    for _ in range(2):
        fit_arrays(plain(), [CheckpointCallback(tmp_path, max_to_keep=1)])
    assert names(tmp_path) == ["earlier-1", "step-00000015"]
    assert names(tmp_path / "earlier-1") == ["step-00000015"]
    assert "earlier run are now in" in capsys.readouterr().out


def test_the_same_callback_goes_on_counting_in_another_fit(tmp_path):
    callback, model = CheckpointCallback(tmp_path), plain()
    fit_arrays(model, [callback], epochs=1)
    fit_arrays(model, [callback], epochs=2, initial_epoch=1)
    assert names(tmp_path) == ["step-00000005", "step-00000010"]


# Damage


def damaged(path, how):
    files = [f for f in path.rglob("*") if f.is_file() and f.stat().st_size > 200]
    biggest = max(files, key=lambda f: f.stat().st_size)
    meta = path / "meta" / "metadata"
    if how == "a truncated file":
        biggest.write_bytes(biggest.read_bytes()[: biggest.stat().st_size // 2])
    elif how == "a flipped bit":
        data = bytearray(biggest.read_bytes())
        data[len(data) // 2] ^= 4
        biggest.write_bytes(data)
    elif how == "a missing file":
        biggest.unlink()
    elif how == "an empty folder":
        for file in path.rglob("*"):
            if file.is_file():
                file.unlink()
    elif how == "another word in the metadata":
        meta.write_text(meta.read_text().replace("epoch", "epocg", 1))


@pytest.mark.parametrize(
    "how",
    [
        "a truncated file",
        "a flipped bit",
        "a missing file",
        "an empty folder",
        "another word in the metadata",
    ],
)
def test_a_damaged_checkpoint_is_passed_over_aloud(tmp_path, how):
    def fit(model, callbacks):
        fit_arrays(model, callbacks, shuffle=False)
        return outcome(model)

    straight = fit(plain(), [])
    with pytest.raises(Crash):
        fit(plain(), [CheckpointCallback(tmp_path, asynchronous=False), Crashes(2, 1)])
    damaged(tmp_path / "step-00000010", how)
    with pytest.warns(UserWarning, match="step-00000010.*Trying the one before"):
        resumed = fit(plain(), [CheckpointCallback(tmp_path, resume="auto", verbose=False)])
    assert_same_run(straight, resumed)


def test_nothing_readable_is_an_error_rather_than_a_new_beginning(tmp_path):
    fit_arrays(plain(), [CheckpointCallback(tmp_path, max_to_keep=1)])
    damaged(tmp_path / "step-00000015", "an empty folder")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="can be read.*never"):
        fit_arrays(plain(), [CheckpointCallback(tmp_path, resume="auto")])


def test_another_model_is_an_error_with_the_differences(tmp_path):
    fit_arrays(plain(), [CheckpointCallback(tmp_path)])
    keras.utils.set_random_seed(0)
    other = keras.Sequential([keras.layers.Dense(9), keras.layers.Dense(1)])
    other.compile("adam", loss="mse", metrics=["mae"])
    with pytest.raises(ValueError, match=r"another training.*kernel is float32 \(6, 9\) in the"):
        fit_arrays(other, [CheckpointCallback(tmp_path, resume="auto")])


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.warns(UserWarning, match="could not be written.*The run continues"):
        fit_arrays(plain(), [CheckpointCallback(blocked / "checkpoints")])


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    callback = CheckpointCallback(tmp_path, max_to_keep=1, asynchronous=False)
    fit_arrays(plain(), [callback], epochs=1)

    import orbax.checkpoint as ocp

    def full(self, directory, *args, **kwargs):
        (directory / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CompositeCheckpointHandler, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        fit_arrays(plain(), [CheckpointCallback(tmp_path, resume="auto", max_to_keep=1)], epochs=2)
    assert names(tmp_path) == ["step-00000005"]
    callback.store.load(5)


# Signals


class Signalled(keras.callbacks.Callback):
    def __init__(self, number, epoch, batch):
        super().__init__()
        self.number, self.at = number, (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            signal.raise_signal(self.number)  # to this thread: two in a row are two


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("at", [(1, 0), (1, 4)])
def test_a_signal_saves_stops_and_the_run_goes_on_to_the_bit(tmp_path, number, at, capsys):
    straight = plain()
    fit_arrays(straight, [])
    straight = outcome(straight)
    before = signal.getsignal(number)
    callback = CheckpointCallback(tmp_path, save_every_n_epochs=None, end_on_sigterm=False)
    stopped = plain()
    fit_arrays(stopped, [Signalled(number, *at), callback])
    assert signal.getsignal(number) is before
    assert callback.interrupted == number.name and callback.store.steps() == [5 + at[1]]
    assert f"{number.name}: saving after this step" in capsys.readouterr().out
    resumed = plain()
    fit_arrays(resumed, [CheckpointCallback(tmp_path, resume="auto", verbose=False)])
    assert_same_run(straight, outcome(resumed))


@pytest.mark.backends("jax", "torch")
def test_a_run_that_somebody_else_ends_within_an_epoch_goes_on_to_the_bit(tmp_path):
    class Ends(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 8:
                self.model.stop_training = True

    straight = plain()
    fit_arrays(straight, [])
    straight = outcome(straight)
    fit_arrays(plain(), [Ends(), CheckpointCallback(tmp_path, save_every_n_epochs=None)])
    assert names(tmp_path) == ["step-00000008"]
    resumed = plain()
    fit_arrays(resumed, [CheckpointCallback(tmp_path, resume="auto", verbose=False)])
    assert_same_run(straight, outcome(resumed))


ENDED = """
import sys, signal
import keras, numpy as np
from artifex_keras.callbacks import CheckpointCallback

class Sent(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            signal.raise_signal(signal.SIGTERM)

model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
for name, options in (("on", {"end_on_sigterm": False}), ("end", {})):
    keep = CheckpointCallback(f"{sys.argv[1]}/{name}", verbose=False, **options)
    model.fit(np.ones((32, 2)), np.ones(32), batch_size=4, verbose=0, callbacks=[Sent(), keep])
    print("went on", keep.interrupted, flush=True)
"""


def test_after_sigterm_and_its_save_the_process_ends_as_without_the_callback(tmp_path):
    """A first `fit` is asked to let the process go on; the second one ends it."""
    command = [sys.executable, "-c", ENDED, tmp_path]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert names(tmp_path) == ["end", "on"]
    for folder in ("on", "end"):
        assert names(tmp_path / folder) == ["step-00000002"]
    assert ended.stdout == "went on SIGTERM\n"
    assert ended.returncode == -signal.SIGTERM


def test_a_second_signal_stops_at_once(tmp_path):
    callbacks = [
        Signalled(signal.SIGINT, 0, 1),
        Signalled(signal.SIGINT, 0, 1),
        CheckpointCallback(tmp_path, save_every_n_epochs=None, verbose=False),
    ]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    with pytest.raises(KeyboardInterrupt):
        fit_arrays(plain(), callbacks)
    signal.signal(signal.SIGINT, before)


# Afterwards


@pytest.mark.seam
def test_a_checkpoint_is_restored_and_exported(tmp_path):
    family = FAMILIES[NAMES.index("vae")]
    model = family.make(seed=2)
    model.compile(keras.optimizers.Adam(1e-2))
    folder = tmp_path / "run"
    model.fit(*family.arrays(), verbose=0, epochs=2, callbacks=[CheckpointCallback(folder)])
    path = export_checkpoint(folder, tmp_path / "model.keras")
    loaded = keras.saving.load_model(path)
    other = family.make(seed=3)
    other.compile(keras.optimizers.Adam(1e-2))
    other.build((None, *family.event_shape))
    assert restore_checkpoint(other, folder) == 4
    samples = [family.sample(m, 4, seed=1) for m in (model, loaded, other)]
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])


def test_a_model_that_cannot_be_described_is_kept_all_the_same(tmp_path):
    class Odd(keras.Sequential):
        def get_config(self):
            return {**super().get_config(), "odd": object()}

    def make():
        keras.utils.set_random_seed(0)
        model = Odd([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile("adam", loss="mse")
        return model

    make = again(make, *numbers(BATCH))
    runs = straight_and_resumed(make, fit_in_order, tmp_path / "run", (1, 2), save_every_n_steps=1)
    assert_same_run(*runs)
    with pytest.raises(ValueError, match="pass `model`"):
        export_checkpoint(tmp_path / "run", tmp_path / "model.keras")
    assert restore_checkpoint(make(), tmp_path / "run") == 15


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="save_every_n_steps=0"):
        CheckpointCallback(tmp_path, save_every_n_steps=0)
    with pytest.raises(ValueError, match="resume"):
        CheckpointCallback(tmp_path, resume="yes")
    with pytest.raises(ValueError, match="there is no checkpoint 'newest'"):
        export_checkpoint(tmp_path, tmp_path / "x.keras")


# Without an Input TensorFlow's Sequential builds its layers under other names: give it `model=`.
WITHOUT_INPUT = pytest.param([], marks=pytest.mark.backends("jax", "torch"), id="without")


@pytest.mark.parametrize("entry", [pytest.param([keras.Input((6,))], id="with"), WITHOUT_INPUT])
def test_a_sequential_model_is_exported(entry, tmp_path):
    model = keras.Sequential([*entry, keras.layers.Dense(1)])
    model.compile("adam", loss="mse")
    fit_arrays(model, [CheckpointCallback(tmp_path)])
    path = export_checkpoint(tmp_path, tmp_path / "model.keras")
    for found, expected in zip(
        keras.saving.load_model(path).get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
