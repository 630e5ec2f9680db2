"""One row, many readers: steps that only rise, metrics of the history, the rate of the update."""

import csv
import json
import logging
import re
import time

import keras
import numpy as np
import pytest
from families import FAMILIES, FEW, FEW_NAMES, NAMES
from fresh import again

from artifex_keras import VAE, VAETrainer
from artifex_keras.backend.chips import CHIPS, Chip
from artifex_keras.backend.utilization import steps_at_peak
from artifex_keras.callbacks.logging import LoggingCallback


def read(path):
    """The rows of a log file, numbers as floats."""
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    rows = list(csv.DictReader(text.splitlines()))
    return [{k: v if k == "row" else float(v) for k, v in row.items() if v} for row in rows]


def schedule(peak=0.01, steps=20):
    return keras.optimizers.schedules.CosineDecay(peak, steps)


def new(optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile(optimizer or keras.optimizers.SGD(schedule()), "mse", metrics=["mae"])
    return model


X = np.random.default_rng(0).normal(size=(22, 2)).astype("float32")
Y = X.sum(1, keepdims=True)
# The model of `new`, the same one each time and as if newly made: it is compiled once.
same = again(new, X[:4], Y[:4], seed=1)


def plain(optimizer=None):
    return new(optimizer) if optimizer else same()


def fit(callback, model=None, epochs=2, **arguments):
    model = model or plain()
    arguments = {"batch_size": 4, "verbose": 0, "shuffle": False, **arguments}
    callbacks = callback if isinstance(callback, list) else [callback]
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **arguments)


# Rows


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_rows_of_a_plain_model(ending, tmp_path):
    path = tmp_path / f"log.{ending}"
    history = fit(LoggingCallback(4, file=path), validation_data=(X, Y)).history
    rows = read(path)
    assert [(row["step"], row["epoch"], row["row"]) for row in rows] == [
        (4, 1, "step"),
        (6, 1, "epoch"),
        (8, 2, "step"),
        (12, 2, "epoch"),  # due as a step, too: one row
    ]
    for row in rows:
        assert row["learning_rate"] == pytest.approx(float(schedule()(row["step"])), rel=1e-6)
    ends = [row for row in rows if row["row"] == "epoch"]
    for name in ("loss", "mae", "val_loss", "val_mae"):
        assert [row[name] for row in ends] == history[name]
        assert name.startswith("val_") is not any(name in rows[i] for i in (0, 2))


def test_a_row_within_an_epoch_holds_the_mean_so_far(tmp_path):
    fit(LoggingCallback(3, file=tmp_path / "a.csv"), plain(keras.optimizers.SGD(0.0)), epochs=1)
    model = plain(keras.optimizers.SGD(0.0))
    expected = model.evaluate(X[:12], Y[:12], verbose=0, return_dict=True)
    (row, _) = read(tmp_path / "a.csv")
    assert row["step"] == 3
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.backends("jax", "tensorflow")  # Keras has none on torch
def test_calls_of_several_steps(tmp_path):
    model = new()
    model.compile(keras.optimizers.SGD(schedule()), "mse", steps_per_execution=4)
    fit(LoggingCallback(3, file=tmp_path / "a.csv"), model)
    assert [row["step"] for row in read(tmp_path / "a.csv")] == [4, 6, 10, 12]


def batches():
    for start in range(0, 20, 4):
        yield X[start : start + 4], Y[start : start + 4]


def test_an_epoch_of_unknown_length(tmp_path):
    model, callback = plain(), LoggingCallback(3, file=tmp_path / "a.csv")
    model.fit(batches(), epochs=1, verbose=0, callbacks=[callback])
    assert [row["step"] for row in read(tmp_path / "a.csv")] == [3, 5]


@pytest.mark.parametrize("family", FEW[:3], ids=FEW_NAMES[:3])
def test_every_family(family, tmp_path):
    model = family.make()
    model.compile(keras.optimizers.Adam(schedule(steps=100)))
    log = LoggingCallback(2, file=tmp_path / "a.jsonl")
    data = family.arrays()
    history = model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[log]).history
    rows = read(tmp_path / "a.jsonl")
    assert [row["step"] for row in rows] == [2, 3, 4, 6]
    for epoch, row in enumerate(row for row in rows if row["row"] == "epoch"):
        assert {name: row[name] for name in history} == {n: v[epoch] for n, v in history.items()}
        assert list(history)[0] in rows[2 * epoch]
    parts = getattr(model.optimizer, "parts", {"": model.optimizer})
    for name, optimizer in parts.items():
        key = f"learning_rate/{name}" if name else "learning_rate"
        assert rows[-1][key] == pytest.approx(_rate(optimizer), rel=1e-6)
        assert rows[0][key] > rows[-1][key] > 0
    assert {"steps_per_second", f"{model.counts}_per_second"} <= set(rows[-1])


def _rate(optimizer):
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return float(keras.ops.convert_to_numpy(inner.learning_rate))


def test_it_changes_no_number(tmp_path):
    family = FAMILIES[NAMES.index("wgan-gp")]
    weights = []
    for callbacks in ([], [LoggingCallback(1, file=tmp_path / "a.csv")]):
        model = family.make()
        model.compile("adam")
        model.fit(*family.arrays(), batch_size=16, epochs=2, verbose=0, callbacks=callbacks)
        weights.append([w.numpy() for w in map(_array, model.variables)])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


class _array:
    def __init__(self, variable):
        self.value = variable

    def numpy(self):
        return keras.ops.convert_to_numpy(self.value.value)


# Learning rates


def rates(optimizer, tmp_path, every=1, epochs=1):
    fit(LoggingCallback(every, file=tmp_path / "a.csv"), plain(optimizer), epochs=epochs)
    return [{k: v for k, v in r.items() if "rate" in k} for r in read(tmp_path / "a.csv")]


def test_a_rate_that_a_callback_lowers(tmp_path):
    lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.5 / (1 + epoch))
    log = LoggingCallback(3, file=tmp_path / "a.csv")
    fit([lower, log], plain(keras.optimizers.SGD(1.0)))
    assert [row["learning_rate"] for row in read(tmp_path / "a.csv")] == [0.5, 0.5, 0.25, 0.25]


@pytest.mark.seam
def test_wrappers_count_updates(tmp_path):
    from artifex_keras import GradientAccumulation

    wrapped = keras.optimizers.LossScaleOptimizer(
        GradientAccumulation(keras.optimizers.SGD(schedule()), 3)
    )
    found = [row["learning_rate"] for row in rates(wrapped, tmp_path)]
    assert found == pytest.approx([float(schedule()(k // 3)) for k in range(1, 7)], rel=1e-6)


def test_several_optimizers(tmp_path):
    which = keras.optimizers.OptimizerMap(default_optimizer=keras.optimizers.SGD(schedule()))
    which[".*kernel"] = keras.optimizers.SGD(0.25)
    several = keras.optimizers.MultiOptimizer(which)
    found = rates(several, tmp_path)
    assert found[1] == {
        "learning_rate/0": 0.25,
        "learning_rate/1": pytest.approx(0.00976, rel=1e-3),
    }


@pytest.mark.backends("jax")
def test_optax_rates(tmp_path):
    pytest.importorskip("optax")
    from artifex_keras import OptaxOptimizer

    assert rates(OptaxOptimizer("sgd", learning_rate=0.25), tmp_path)[1] == {"learning_rate": 0.25}


# Norms


@pytest.mark.seam
def test_norms_by_hand(tmp_path):
    """(w - x)² has the gradient 2 (w - x): from w = 0 to x = 1 at rate 0.1."""
    from trainers.line import Line, ones

    model = Line()
    model.compile(keras.optimizers.SGD(0.1, global_clipnorm=0.5))
    log = LoggingCallback(1, file=tmp_path / "a.csv", norms=True)
    history = model.fit(ones(12), batch_size=4, epochs=1, verbose=0, callbacks=[log]).history
    rows = read(tmp_path / "a.csv")
    w = 0.05 * np.arange(4)  # clipped to 0.5
    assert [row["weight_norm"] for row in rows] == pytest.approx(w[1:], rel=1e-5)
    assert [row["gradient_norm"] for row in rows] == pytest.approx(2 * (1 - w[:3]), rel=1e-5)
    assert history["gradient_norm"] == [rows[-1]["gradient_norm"]]


@pytest.mark.parametrize("name", ["vae", "wgan-gp"])
def test_norms_train_the_same_weights(name, tmp_path):
    family = FAMILIES[NAMES.index(name)]
    weights = []
    for norms in (False, True):
        model = family.make()
        model.compile("adam")
        log = LoggingCallback(2, file=tmp_path / "a.jsonl", norms=norms)
        model.fit(*family.arrays(), batch_size=16, epochs=1, verbose=0, callbacks=[log])
        weights.append([_array(w).numpy() for w in model.trainable_variables])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    parts = list(getattr(model.optimizer, "parts", {}))
    names = [f"{part}_gradient_norm" for part in parts] or ["gradient_norm"]
    assert all(read(tmp_path / "a.jsonl")[-1][name] > 0 for name in names)


def test_the_norm_knows_nothing_of_the_loss_scale(tmp_path):
    from trainers.line import Line, ones

    model = Line()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    log = LoggingCallback(1, file=tmp_path / "a.csv", norms=True)
    model.fit(ones(4), batch_size=4, epochs=1, verbose=0, callbacks=[log])
    assert read(tmp_path / "a.csv")[0]["gradient_norm"] == pytest.approx(2.0)


# Speed


def test_speed_leaves_out_compilation_and_validation(tmp_path, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    fit(LoggingCallback(2, file=tmp_path / "a.csv"), validation_data=(X, Y))
    rows = read(tmp_path / "a.csv")
    # Looks at the clock lie 1 s apart: one from row to row, before and after validation one each.
    assert [row["steps_per_second"] for row in rows] == [1.0, 2.0, 1.0, 2.0, 2.0, 1.0]
    assert [row["examples_per_second"] for row in rows] == [4.0, 8.0, 3.0, 8.0, 8.0, 3.0]
    assert all(row["host_memory_bytes"] > 1e6 for row in rows)


# Files


def test_what_is_no_number(tmp_path):
    model = plain(keras.optimizers.SGD(float("inf")))
    fit([LoggingCallback(2, file=tmp_path / f"a.{e}") for e in ("csv", "jsonl")], model, epochs=1)
    text = (tmp_path / "a.jsonl").read_text()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert [row["learning_rate"] for row in rows] == ["inf"] * 3
    assert rows[-1]["loss"] == "nan"
    assert all(np.isnan(row["loss"]) for row in read(tmp_path / "a.csv")[1:])


# Going on after a checkpoint


def drive(callback, model, epochs, batch=0, steps=5, state=None, until=None):
    """The hooks of a fit of `steps` batches an epoch, from a batch of the first of `epochs` on."""
    callback.set_params({"steps": steps, "epochs": 3, "verbose": 0})
    callback.set_model(model)
    callback.on_train_begin()
    if state is not None:
        callback.set_state(state)
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        for b in range(batch, steps):
            callback.on_train_batch_begin(b)
            if (epoch, b) == until:
                return callback.get_state()
        batch = 0
        callback.on_epoch_end(epoch, {"loss": 1 / (1 + epoch)})
    before = callback.get_state()
    callback.on_train_end()
    return before


def logger_of(path, **more):
    more = {"performance": False, "console": False, **more}
    return LoggingCallback(2, file=path, **more)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 3), (1, 0), (1, 1), (1, 4), (2, 2)])
def test_a_file_is_cut_back_to_the_checkpoint(ending, seen, epoch, batch, tmp_path):
    """`seen`: whether the checkpoint was written after the callback saw the batch, or before."""
    model, path = plain(), tmp_path / f"b.{ending}"
    drive(logger_of(tmp_path / f"a.{ending}"), model, range(3))
    straight = (tmp_path / f"a.{ending}").read_text()
    saved = (epoch, batch) if seen or batch == 0 else (epoch, batch - 1)
    state = drive(logger_of(path), model, range(3), until=saved)
    drive(logger_of(path), model, range(3), until=(2, 4))  # what the killed run had written
    with open(path, "a") as file:
        file.write('{"step": 1')  # half a line
    drive(logger_of(path), model, range(epoch, 3), batch, state=state)
    assert path.read_text() == straight


def test_a_checkpoint_between_two_epochs_before_the_row_was_written(tmp_path):
    model, path = plain(), tmp_path / "b.csv"
    state = drive(logger_of(path), model, [0], until=(0, 4))
    drive(logger_of(path), model, range(1), 0)
    written = path.read_text()
    drive(logger_of(path), model, [1], state=state)
    assert path.read_text().startswith(written)
    assert [row["step"] for row in read(path)] == [2, 4, 5, 6, 8, 10]


def test_initial_epoch_goes_on_and_a_run_from_the_start_begins_anew(tmp_path):
    path = tmp_path / "a.csv"
    log = LoggingCallback(4, file=path)
    fit(log)
    fit(log, epochs=3, initial_epoch=2)
    assert [row["step"] for row in read(path)] == [4, 6, 8, 12, 16, 18]
    fit(log, epochs=1)
    assert [row["step"] for row in read(path)] == [4, 6]


def test_seconds_go_on(tmp_path):
    log = logger_of(tmp_path / "a.csv", performance=True)
    drive(log, plain(), [1], state={"epoch": 1, "base": 5, "batch": 0, "seconds": 1000.0})
    assert read(tmp_path / "a.csv")[-1]["seconds"] > 1000


# The console


def lines(capsys):
    return re.findall("epoch ./.*", capsys.readouterr().out)  # also after a bar


@pytest.mark.parametrize(
    ("console", "verbose", "count"),
    [("auto", 0, 4), ("auto", 1, 0), (True, 1, 4), (False, 0, 0), ("log", 0, 0)],
)
def test_lines(console, verbose, count, capsys):
    fit(LoggingCallback(3, console=console), verbose=verbose)
    found = lines(capsys)
    assert len(found) == count
    if count:
        assert found[1].startswith("epoch 1/2, step 6/6 - loss: ")
        assert " - learning_rate: 0.007939 - " in found[1] and found[1].endswith(" steps/s")


def test_the_logger_is_preferred(caplog, capsys):
    with caplog.at_level(logging.INFO, "artifex_keras"):
        fit(LoggingCallback(3))
    assert len(caplog.records) == 4 and not lines(capsys)


def test_a_trainer_leaves_the_console_to_a_callback_of_the_users(capsys):
    family = FAMILIES[NAMES.index("vae")]
    config = {"batch_size": 16, "num_epochs": 1, "verbose": 2, "log_frequency": 1}
    VAETrainer(family.make(), config, *family.arrays()).train()
    assert len(lines(capsys)) == 3
    log = LoggingCallback(3)
    VAETrainer(family.make(), config, *family.arrays(), callbacks=[log]).train()
    assert len(lines(capsys)) == 1


# Wrong input and bad luck


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_every_n_steps": 0}, "`log_every_n_steps` must be an integer of at least 1"),
        ({"file": "log.cvs"}, "Unknown ending of a log file '.cvs'. Did you mean '.csv'"),
        ({"console": "of"}, "`console` must be 'auto', 'log', True or False"),
        ({"use_wandb": "project"}, "`use_wandb` must be True, False or a dict"),
        ({"use_wandb": {"projekt": "a"}}, "'projekt'. Did you mean 'project'"),
        ({"use_tensorboard": True, "tracking": {"tensorboard": {}}}, "given twice"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoggingCallback(**arguments)


def test_a_file_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    history = fit(LoggingCallback(1, file=tmp_path / "file" / "a.csv", console=False))
    assert len(history.epoch) == 2
    ours = [record for record in caplog.records if record.name == "artifex_keras"]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert "file fails, the run continues without it" in caplog.text


def test_a_run_that_broke_off(tmp_path):
    def stop(batch, logs):
        raise KeyboardInterrupt

    log = LoggingCallback(1, file=tmp_path / "a.csv")
    with pytest.raises(KeyboardInterrupt):
        fit([log, keras.callbacks.LambdaCallback(on_epoch_end=stop)])
    assert len(read(tmp_path / "a.csv")) == 6
    fit(log, epochs=1)
    assert len(read(tmp_path / "a.csv")) == 6


def test_a_run_after_one_that_broke_off_has_its_own_trackers(tmp_path):
    def stop(epoch, logs):
        raise KeyboardInterrupt

    model = plain("sgd")
    first, second = (
        LoggingCallback(1, tracking={"jsonl": {}}, folder=tmp_path / name) for name in "ab"
    )
    with pytest.raises(KeyboardInterrupt):
        fit([first, keras.callbacks.LambdaCallback(on_epoch_end=stop)], model)
    fit(second, model, epochs=1)
    for name in "ab":
        rows = read(tmp_path / name / "metrics.jsonl")
        assert "params" in rows[0]
        assert [row["step"] for row in rows if "loss" in row][:6] == [1, 2, 3, 4, 5, 6]


def test_beside_others(tmp_path):
    others = [
        keras.callbacks.CSVLogger(tmp_path / "keras.csv"),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1),
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
    ]
    logs = [LoggingCallback(n, file=tmp_path / f"{n}.csv") for n in (1, 4)]
    fit([*others, *logs], plain("sgd"), epochs=3, validation_data=(X, Y))
    ends = [[r for r in read(tmp_path / f"{n}.csv") if r["row"] == "epoch"] for n in (1, 4)]
    theirs = list(csv.DictReader((tmp_path / "keras.csv").read_text().splitlines()))
    for row, one, other in zip(theirs, *ends, strict=True):
        assert float(row["val_loss"]) == one["val_loss"] == other["val_loss"]


# With real checkpoints


class Dies(keras.callbacks.Callback):
    """Ends a run as a kill does, at the begin of a batch."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.place = epoch, batch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.place:
            raise KeyboardInterrupt


@pytest.mark.quick(3)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("place", [(0, 5), (1, 1), (2, 3)])
def test_a_resumed_run_has_the_rows_of_the_straight_one(place, last, tmp_path):
    pytest.importorskip("orbax.checkpoint")
    from artifex_keras.callbacks import CheckpointCallback

    def run(name, *more):
        log = logger_of(tmp_path / f"{name}.csv", norms=True, tracking={"jsonl": {}},
                        folder=tmp_path / name)  # fmt: skip
        keep = CheckpointCallback(tmp_path / name / "checkpoints", save_every_n_steps=2,
                                  resume="auto", verbose=False)  # fmt: skip
        callbacks = [log, keep, *more] if last else [keep, log, *more]
        fit(callbacks, new(), epochs=3, shuffle=True)  # as in a new process

    run("straight")
    with pytest.raises(KeyboardInterrupt):
        run("killed", Dies(*place))
    run("killed")
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "straight.csv").read_text()
    one, other = (read(tmp_path / name / "metrics.jsonl") for name in ("killed", "straight"))
    assert one[1:] == other[1:]  # the first has the names that Keras makes up


# MFU


@pytest.fixture
def known_cpu(monkeypatch):
    """A CPU with peak figures."""
    chip = Chip("cpu", 2e9, 1e9, 1 << 30, 1e9, 1e9, 1, None, kind="cpu")
    monkeypatch.setitem(CHIPS, "mine", chip)


def logged_vae(path, x, **options):
    """Rows of a VAE of two dense layers, 4 to 4 and 2 to 4."""
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    model = VAE(encoder, decoder, seed=0)
    model.compile("adam", **options)
    log = LoggingCallback(2, file=path, console=True)
    model.fit(x, batch_size=8, epochs=1, verbose=0, callbacks=[log])
    return read(path)


# Multiplications and additions of a row: forward and for the kernels' gradients 2·N each, and for
# the gradient of the codes; none for that of the pictures.
PER_ROW = 2 * (16 + 8) + 2 * (16 + 8) + 2 * 8


@pytest.mark.backends("jax")
@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_the_share_of_the_peak_of_a_known_chip(tmp_path, known_cpu, capsys, steps_per_execution):
    x = np.zeros((44, 4), "float32")  # the last batch is of 4
    rows = logged_vae(tmp_path / "a.csv", x, steps_per_execution=steps_per_execution)
    measured = [row for row in rows if "steps_per_second" in row]
    assert measured and "mfu: " in capsys.readouterr().out
    for row in measured:
        assert row["mfu"] == pytest.approx(row["steps_per_second"] * 8 * PER_ROW / 1e9)


@pytest.mark.backends("jax")
def test_in_half_precision_by_its_own_peak(known_cpu):
    model = VAE(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, dtype="mixed_bfloat16")]),
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, dtype="mixed_bfloat16")]),
        seed=0,
    )
    model.compile("adam")
    assert steps_at_peak(model) is None
    model.fit(np.zeros((8, 4), "float32"), batch_size=8, verbose=0)
    assert steps_at_peak(model) == 2e9 / (8 * PER_ROW)


def test_an_unknown_chip_has_no_share(tmp_path):
    rows = logged_vae(tmp_path / "a.csv", np.zeros((40, 4), "float32"))
    assert any("steps_per_second" in row for row in rows)
    assert not any("mfu" in row for row in rows)


def test_neither_has_a_model_that_is_not_ours(tmp_path, known_cpu):
    path = tmp_path / "a.csv"
    fit(LoggingCallback(2, file=path))
    assert not any("mfu" in row for row in read(path))
