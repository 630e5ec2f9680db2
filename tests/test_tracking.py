"""What trackers keep is what was trained: read back from their own files and stores."""

import importlib.util
import json
import logging
import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from families import FAMILIES, NAMES

from artifex_keras import VAETrainer, tracking
from artifex_keras.backend import processes
from artifex_keras.callbacks.logging import LoggingCallback
from artifex_keras.tracking import guarded
from artifex_keras.tracking.mlflow import shortened
from artifex_keras.tracking.tensorboard import TensorBoard

FAMILY = FAMILIES[NAMES.index("vae")]
CONFIG = {"batch_size": 16, "num_epochs": 2, "verbose": 0, "log_frequency": 2, "seed": 3}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of its own to work in, without network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-own"))
    for name in ("MLFLOW_TRACKING_URI", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def train(options, callbacks=(), **config):
    x = FAMILY.data(48)
    trainer = VAETrainer(
        FAMILY.make(), {**CONFIG, **config}, x, x[:16], tracking=options, callbacks=callbacks
    )
    return trainer, trainer.train().history


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


class Shows(keras.callbacks.Callback):
    """Draws and writes something after each epoch, for whoever tracks the run."""

    def on_epoch_end(self, epoch, logs=None):
        from PIL import Image

        path = Path(f"squares-{epoch}.png").absolute()
        Image.new("RGB", (6 + epoch, 4), (255, 0, 0)).save(path)
        for tracker in tracking.active(self._model):
            tracker.picture("squares", path, 3 * (epoch + 1))
            tracker.text("said", [f"epoch {epoch}", "a | b"], 3 * (epoch + 1))


def assert_rows_are_the_history(rows, history, key="step"):
    assert [row[key] for row in rows] == [2, 3, 4, 6]
    for epoch, row in enumerate((rows[1], rows[3])):
        for name, values in history.items():
            assert row[name] == values[epoch]
    assert all("learning_rate" in row and "loss" in row for row in rows)


# JSON lines


def test_json_lines(folder):
    trainer, history = train({"jsonl": {"path": "all.jsonl"}}, [Shows()])
    rows = lines("all.jsonl")
    params = rows[0]["params"]
    assert params["model.class"] == "VAE" and params["config.optimizer.type"] == "adamw"
    assert params["model.beta"] == 1.0 and params["config.batch_size"] == 16
    assert params["parameters"] == trainer.model.count_params()
    assert params["versions.keras"] == keras.__version__
    assert_rows_are_the_history([row for row in rows if "loss" in row], history)
    pictures = [row for row in rows if "picture" in row]
    assert [(row["step"], row["path"]) for row in pictures] == [
        (3, str(folder / "squares-0.png")),
        (6, str(folder / "squares-1.png")),
    ]
    said = [row for row in rows if "text" in row][1]
    assert said["rows"] == [{"text": "epoch 1"}, {"text": "a | b"}]
    assert rows[-1]["summary"]["val_loss"] == history["val_loss"][-1]


def test_files_go_beside_the_checkpoints(folder):
    train({"jsonl": {}}, checkpoint_dir="run")
    assert (folder / "run" / "metrics.jsonl").is_file()


def test_json_lines_of_a_run_that_went_on(folder):
    resumed({"jsonl": {}})
    rows = lines("metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 3, 4, 6]
    assert [list(row) for row in (rows[0], rows[-1])] == [["params"], ["step", "summary"]]
    assert len(rows) == 6


# wandb


def wandb_records(path):
    """The records of a `.wandb` file, whose writer may still be at work when the run has ended."""
    for _ in range(100):
        records = list(read_wandb(path))
        if any(record.WhichOneof("record_type") == "exit" for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError("the run has no end")


def read_wandb(path):
    """LevelDB's log of protocol buffers after a header of 7."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            return  # the rest is not written yet
        parts.append(data[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


def wandb_rows(path):
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            row = {}
            for item in record.history.item:
                *outer, key = item.nested_key or [item.key]
                place = row
                for name in outer:
                    place = place.setdefault(name, {})
                place[key] = json.loads(item.value_json)
            yield row


def wandb_files(folder):
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


def test_wandb(folder):
    pytest.importorskip("wandb")
    trainer, history = train({"wandb": {"project": "squares", "name": "one"}}, [Shows()])
    (path,) = wandb_files(folder)
    records = wandb_records(path)
    (run,) = {r.run.run_id: r.run for r in records if r.WhichOneof("record_type") == "run"}.values()
    assert (run.project, run.display_name) == ("squares", "one")
    config = {
        "/".join(u.nested_key) or u.key: json.loads(u.value_json)
        for r in records
        for u in [*r.config.update, *r.run.config.update]
    }
    assert config["model.class"] == "VAE" and config["config.batch_size"] == 16
    rows = list(wandb_rows(path))
    assert_rows_are_the_history([r for r in rows if "loss" in r], history, "global_step")
    pictures = [row["squares"] for row in rows if "squares" in row]
    assert [p["width"] for p in pictures] == [6, 7]
    files = path.parent / "files"
    kept = [(files / p["path"]).read_bytes() for p in pictures]
    assert kept == [(folder / f"squares-{e}.png").read_bytes() for e in (0, 1)]
    table = json.loads((files / next(r["said"]["path"] for r in rows if "said" in r)).read_text())
    assert table == {"columns": ["text"], "data": [["epoch 0"], ["a | b"]]}
    axes = {
        r.metric.glob_name: r.metric for r in records if r.WhichOneof("record_type") == "metric"
    }
    assert axes["*"].step_metric == "global_step"
    (model,) = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"
                and r.artifact.type == "model"]  # fmt: skip
    assert [e.path for e in model.manifest.contents] == ["model.keras"]


def test_wandb_goes_on_under_the_same_id(folder):
    pytest.importorskip("wandb")
    states, log = resumed({"wandb": {}})
    one, other = wandb_files(folder)
    assert one.name == other.name == f"run-{states['trackers']['wandb']['id']}.wandb"
    steps = [[row["global_step"] for row in wandb_rows(path)] for path in (one, other)]
    assert steps == [[2, 3], [4, 6]]


class KeepsState(keras.callbacks.Callback):
    """Takes the state of another callback where a checkpoint would."""

    def __init__(self, log):
        super().__init__()
        self.log = log

    def on_epoch_end(self, epoch, logs=None):
        self.state = json.loads(json.dumps(self.log.get_state()))


class GivesState(keras.callbacks.Callback):
    def __init__(self, log, state):
        super().__init__()
        self.log, self.state = log, state

    def on_train_begin(self, logs=None):
        self.log.set_state(self.state)


def resumed(options, **more):
    """A run of one epoch, and another one that goes on from its state."""
    model = FAMILY.make()
    model.compile("adam")
    data = {"x": FAMILY.data(48), "batch_size": 16, "verbose": 0}
    log = LoggingCallback(2, tracking=options, console=False, **more)
    keep = KeepsState(log)
    model.fit(**data, epochs=1, callbacks=[log, keep])
    log = LoggingCallback(2, tracking=options, console=False, **more)
    give = GivesState(log, keep.state)
    model.fit(**data, epochs=2, initial_epoch=1, callbacks=[log, give])
    return keep.state, log


def test_a_run_of_the_users_is_used_and_left_open(folder):
    wandb = pytest.importorskip("wandb")
    with wandb.init(project="mine", dir=str(folder)) as run:
        train({"wandb": {}})
        assert wandb.run is run
        run.log({"after": 1})
    (path,) = wandb_files(folder)
    rows = list(wandb_rows(path))
    assert [row["global_step"] for row in rows if "loss" in row] == [2, 3, 4, 6]
    assert rows[-1]["after"] == 1


def test_a_callback_joins_the_trainers_run(folder):
    pytest.importorskip("wandb")
    train({"wandb": {}}, [LoggingCallback(1, use_wandb=True)])
    (path,) = wandb_files(folder)
    assert len([row for row in wandb_rows(path) if "loss" in row]) in (4, 6)


# MLflow


def mlflow_client(folder):
    mlflow = pytest.importorskip("mlflow")
    return mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")


def mlflow_rows(client, run, names):
    points = {n: {p.step: p.value for p in client.get_metric_history(run, n)} for n in names}
    steps = sorted({step for by_step in points.values() for step in by_step})
    return [{"step": s, **{n: p[s] for n, p in points.items() if s in p}} for s in steps]


def test_mlflow(folder):
    client = mlflow_client(folder)
    long = "x" * 7000
    options = {"experiment": "vae-experiments", "run_name": "one", "tags": {"kind": "test"}}
    trainer, history = train({"mlflow": options}, [Shows()])
    experiment = client.get_experiment_by_name("vae-experiments")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "one"
    assert run.data.tags["kind"] == "test"
    assert run.data.params["model.class"] == "VAE"
    assert run.data.params["config.batch_size"] == "16"
    rows = mlflow_rows(client, run.info.run_id, run.data.metrics)
    assert_rows_are_the_history(rows, history)
    kept = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"model.keras", "said.json", "summary.json", "images"} <= kept
    assert len(client.list_artifacts(run.info.run_id, "images")) >= 2
    path = client.download_artifacts(run.info.run_id, "model.keras", str(folder))
    loaded = keras.models.load_model(path)
    for one, other in zip(loaded.get_weights(), trainer.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert shortened(long, 6000).endswith("... (cut from 7000 characters)")
    assert len(shortened(long, 6000)) == 6000


def test_mlflow_goes_on_in_the_same_run(folder):
    client = mlflow_client(folder)
    resumed({"mlflow": {}})
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    rows = mlflow_rows(client, run.info.run_id, ["loss"])
    assert [row["step"] for row in rows] == [2, 3, 4, 6]


def test_a_run_that_breaks_off_has_failed(folder):
    client = mlflow_client(folder)

    class Broken(Shows):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        train({"mlflow": {}}, [Broken()])
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FAILED"


# TensorBoard


def events(path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(path), size_guidance={"images": 0, "tensors": 0})
    return found.Reload()


def test_tensorboard(folder):
    pytest.importorskip("tensorboard")
    trainer, history = train({"tensorboard": {}}, [Shows()])
    found = events("tensorboard")
    for name, values in history.items():
        points = {event.step: event.value for event in found.Scalars(name)}
        assert [points[3], points[6]] == values  # float32 both
    assert [event.step for event in found.Scalars("loss")] == [2, 3, 4, 6]
    pictures = found.Images("squares")
    assert [(p.step, p.width, p.height) for p in pictures] == [(3, 6, 4), (6, 7, 4)]
    assert pictures[0].encoded_image_string == (folder / "squares-0.png").read_bytes()
    (table,) = found.Tensors("said")[0].tensor_proto.string_val
    assert table.decode() == "| text |\n| --- |\n| epoch 0 |\n| a \\| b |"
    assert b"| model.class | VAE |" in found.Tensors("params")[0].tensor_proto.string_val[0]


def test_tensorboard_hides_what_was_taken_back(folder):
    pytest.importorskip("tensorboard")
    kind = TensorBoard()
    for step, values in ((0, {2: 0.5, 4: 0.25, 6: 9.0}), (4, {6: 0.125})):
        kind.begin(folder, {})
        kind.open({}, step)
        for at, value in values.items():
            kind.log({"loss": value}, at)
        kind.close("finished")
        time.sleep(0.01)
    assert [(e.step, e.value) for e in events("tensorboard").Scalars("loss")] == [
        (2, 0.5),
        (4, 0.25),
        (6, 0.125),
    ]


def test_tensorboard_needs_no_tensorflow(folder):
    pytest.importorskip("tensorboard")
    source = """
import sys
sys.modules["tensorflow"] = None
from artifex_keras.tracking.tensorboard import TensorBoard
kind = TensorBoard()
kind.begin(".", {})
kind.open({"a": 1}, 0)
kind.log({"loss": 1.0}, 1)
kind.close("finished")
"""
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert events("tensorboard").Scalars("loss")[0].value == 1.0


# What goes wrong


class Broken(tracking.Tracker):
    """Fails at each call."""

    name = "broken"

    def __init__(self):
        pass

    def begin(self, folder, state):
        pass

    def open(self, params, step):
        raise ConnectionError("no network for the key abcdefgh12345678")


class BrokenLater(Broken):
    name = "broken"

    def open(self, params, step):
        pass

    def _fail(self, *arguments):
        raise ConnectionError("no network for the key abcdefgh12345678")

    log = picture = text = artifact = summary = close = _fail
    keeps_model = True


class BrokenSlow(BrokenLater):
    slow = True


@pytest.mark.parametrize("kind", [Broken, BrokenLater, BrokenSlow])
def test_a_broken_tracker_is_one_warning(kind, monkeypatch, caplog):
    monkeypatch.setitem(tracking.TRACKERS, "broken", kind)
    monkeypatch.setenv("SOME_API_KEY", "abcdefgh12345678")
    _, history = train({"broken": {}, "jsonl": {}}, [Shows()])
    assert len(history["loss"]) == 2
    ours = [record for record in caplog.records if record.name == "artifex_keras"]
    warned = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert warned == [
        "broken fails, the run continues without it: ConnectionError: no network for the key ***"
    ]
    assert len([row for row in lines("metrics.jsonl") if "loss" in row]) == 4


METHODS = ("begin", "open", "log", "summary", "close", "state")


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("error", [ConnectionError, SystemExit, MemoryError, RecursionError])
def test_a_tracker_may_fail_anywhere(error, slow, caplog):
    """One warning each, whoever makes the calls; a library's `sys.exit` ends no run."""

    class Fails(tracking.Tracker):
        name = "fails"

        def __init__(self, method):
            def fail(*arguments):
                raise error(f"in {method}")

            for name in METHODS:
                setattr(self, name, fail if name == method else lambda *arguments: {})

    Fails.slow = slow
    for method in METHODS:
        caplog.clear()
        tracker = tracking.Guarded(Fails(method))
        tracker.begin(".", {})
        tracker.open({}, 0)
        for step in range(3):
            tracker.log({"loss": 1.0}, step)
        assert tracker.state() == {}
        tracker.summary({})
        tracker.close("finished")
        assert [f"{error.__name__}: in {method}" in r.getMessage() for r in caplog.records] == [
            True
        ]


class At(keras.callbacks.Callback):
    """Does something after the third batch."""

    def __init__(self, action):
        super().__init__()
        self.action, self.batches = action, 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == 3:
            self.action()


@pytest.mark.parametrize("lost", ["file", "folder", "another in its place"])
def test_what_is_deleted_in_the_middle_of_a_run_comes_back_whole(lost, folder):
    pytest.importorskip("tensorboard")
    run = folder / "run"

    def delete():
        if lost == "folder":
            shutil.rmtree(run)
        else:
            for path in (run / "losses.csv", run / "metrics.jsonl", *run.glob("tensorboard/*")):
                path.unlink()
                if lost != "file":
                    path.write_bytes(b"")

    log = LoggingCallback(
        1,
        file=run / "losses.csv",
        tracking={"jsonl": {}, "tensorboard": {}},
        console=False,
        folder=run,
    )
    model = FAMILY.make()
    model.compile("sgd")
    model.fit(FAMILY.data(48), batch_size=8, verbose=0, callbacks=[log, At(delete)])
    rows = (run / "losses.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "4", "5", "6"]
    steps = [row["step"] for row in lines(run / "metrics.jsonl") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events(run / "tensorboard").Scalars("loss")] == steps


def test_wandb_says_that_its_folder_was_deleted(folder, caplog):
    pytest.importorskip("wandb")
    log = LoggingCallback(1, tracking={"wandb": {"mode": "offline"}}, console=False, folder="run")
    model = FAMILY.make()
    model.compile("sgd")
    delete = At(lambda: shutil.rmtree(folder / "run"))
    model.fit(FAMILY.data(48), batch_size=8, verbose=0, callbacks=[log, delete])
    assert "wandb fails, the run continues without it: FileNotFoundError: its fold" in caplog.text


def test_a_tracker_that_hangs_keeps_nobody(monkeypatch, caplog):
    class Hangs(BrokenLater):
        slow = True

        def _wait(self, *arguments):
            time.sleep(30)

        open = log = picture = text = artifact = summary = close = _wait

    monkeypatch.setitem(tracking.TRACKERS, "hangs", Hangs)
    monkeypatch.setattr(guarded, "PATIENCE", 0.2)
    began = time.perf_counter()
    train({"hangs": {}})
    assert time.perf_counter() - began < 20
    assert "not done after 0.2 s" in caplog.text


def test_wandb_without_a_key(monkeypatch, caplog, folder):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    _, history = train({"wandb": {"mode": "online"}})
    assert len(history["loss"]) == 2
    assert "no key: run `wandb login`, set WANDB_API_KEY" in caplog.text


def test_nothing_is_open_before_and_after(folder):
    seen = []
    look = keras.callbacks.LambdaCallback(
        on_train_end=lambda logs: seen.append([t.name for t in tracking.active(trainer.model)])
    )
    x = FAMILY.data(48)
    trainer = VAETrainer(FAMILY.make(), CONFIG, x, tracking={"jsonl": {}}, callbacks=[look])
    assert tracking.active(trainer.model) == []
    trainer.train()
    assert seen == [["jsonl"]]
    assert tracking.active(trainer.model) == []


def test_the_first_process_alone_tracks(folder, monkeypatch):
    monkeypatch.setattr(processes, "index", lambda: 1)
    train({"jsonl": {}})
    assert not (folder / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wandbb": {}}, "Unknown tracker 'wandbb'. Did you mean 'wandb'"),
        ({"wandb": {"projct": "a"}}, "option of the tracker 'wandb' 'projct'. Did you mean 'proj"),
        ({"jsonl": {"file": "a"}}, "option of the tracker 'jsonl' 'file'"),
        ({"jsonl": {"path": "a.jsn"}}, "Did you mean '.jsonl'"),
        ({"jsonl": 3}, "options of the tracker 'jsonl' must be a dict. Received: a int"),
        ("wandb", "`tracking` must be a dict such as"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        train(options)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_is_said_at_once(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"pip install 'artifex-keras\[{name}\]'"):
        tracking.Trackers({name: {}})


# Secrets

KEY = "5ecre7" * 6 + "abcd"  # as long as a real one


@pytest.mark.parametrize(
    ("options", "way_out"),
    [
        ({"wandb": {"api_key": KEY}}, "WANDB_API_KEY"),
        ({"wandb": {"token": KEY}}, "WANDB_API_KEY"),
        ({"mlflow": {"password": KEY}}, "MLFLOW_TRACKING_PASSWORD"),
        ({"mlflow": {"tracking_uri": f"https://me:{KEY}@host"}}, "MLFLOW_TRACKING_URI"),
        ({"mlflow": {"tags": {"access_token": KEY}}}, "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_a_secret_is_an_error_that_does_not_repeat_it(options, way_out):
    with pytest.raises(ValueError, match=f"environment: set .*{way_out}") as raised:
        train(options)
    assert KEY not in str(raised.value)


def test_no_secret_is_in_any_file(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MY_SECRET"):
        monkeypatch.setenv(name, KEY)
    options = {"jsonl": {}}
    for name in ("wandb", "mlflow", "tensorboard"):
        if importlib.util.find_spec(name):
            options[name] = {}
    model = FAMILY.make()
    model.api_key, model.note = KEY, f"https://me:{KEY}@host and {KEY}"
    model.password = KEY[::-1]  # which no variable of the environment has
    model.options = (*model.options, "api_key", "password", "note")  # a family of somebody else's
    x = FAMILY.data(48)
    model.get_config = lambda: {}
    VAETrainer(model, CONFIG, x, tracking=options).train()
    params = lines("metrics.jsonl")[0]["params"]
    assert params["model.api_key"] == params["model.password"] == "***"
    assert params["model.note"] == "https://***@host and ***"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > len(options)
    for key in (KEY.encode(), model.password.encode()):
        assert [path for path in files if key in path.read_bytes()] == []
