"""Trainings that are killed, started again until they are done, and held against a straight one.

`Nursery()` starts a process that imports everything once and forks a child for each start of a
training: a start costs the building of the model, not the import of Keras and JAX. As a child may
not inherit a running JAX, that process never computes anything itself.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROWS, BATCH_SIZE, EPOCHS, SAVE_EVERY = 40, 8, 3, 2
STEPS = EPOCHS * ROWS // BATCH_SIZE
DELAY = 0.08  # seconds after a step's begin within which its kill comes: a save takes about as long
PATIENCE = 120.0  # seconds without a word from a child


class Nursery:
    """Killed trainings on request, in a process of their own.

    Close it, or use it in a `with`: `nursery.trial("vae", kills=5, seed=0)`.
    """

    def __init__(self):
        environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]),
        }
        self._cache = tempfile.TemporaryDirectory()
        environment["JAX_COMPILATION_CACHE_DIR"] = self._cache.name
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def trial(
        self,
        family,
        *,
        kills,
        seed=0,
        source="arrays",
        name="SIGKILL",
        keeper="artifex_keras",
        in_rewards=False,
    ):
        """Kills trainings of a row of `families` or `algorithms` until `kills` have hit.

        `name` is the signal's; `keeper` says whose checkpoints they go on from: ours, or those of
        "keras", whose `BackupAndRestore` is there to show that a difference is found. With
        `in_rewards` the kills come while a Python reward scores, between two parts of a step.

        Returns:
            a dict: `runs` that were finished, `exact`: how many of them equal the straight run,
            `differences`: names of what doesn't, `kills`, `in_a_save`: kills after which a save
            was unfinished, `lost_steps` of each kill, `unreadable`: checkpoints that a kill made
            so, `empty`: kills that came before the first checkpoint.
        """
        request = {"family": family, "kills": kills, "seed": seed, "source": source}
        request |= {"name": name, "keeper": keeper, "in_rewards": in_rewards}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The process that forks the trainings has died.")
        result = json.loads(answer)
        if "error" in result:
            raise RuntimeError(result["error"])
        return result

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._cache.cleanup()


# In the child: a training, from the beginning or from where it was killed


def train(request, folder, checkpoints, tell):
    """Trains and writes what came out into `folder/result.json`."""
    import keras
    from algorithms import ALGORITHMS
    from families import FAMILIES

    from artifex_keras.callbacks import CheckpointCallback, EvaluationCallback, LoggingCallback
    from artifex_keras.callbacks.checkpoint.arrays import snapshot

    class Tell(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            tell(f"step {self.epoch * ROWS // BATCH_SIZE + batch}")

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    family = {row.name: row for row in (*FAMILIES, *ALGORITHMS)}[request["family"]]
    slow = {"reward_fn": slow_reward(tell)} if request["in_rewards"] else {}
    model = family.make(seed=3, **slow)
    model.compile(keras.optimizers.Adam(1e-2))
    arrays, held_out = family.arrays(ROWS), family.arrays(12)
    evaluation = EvaluationCallback(held_out, 4, batch_size=BATCH_SIZE)
    log = folder / "log.csv"
    logging = LoggingCallback(2, console=False, file=log, performance=False)
    callbacks = [Tell(), evaluation, logging]
    ours = CheckpointCallback(
        folder / "checkpoints",
        save_every_n_steps=SAVE_EVERY,
        max_to_keep=2,
        resume="auto",
        end_on_sigterm=False,
        verbose=False,
    )
    if checkpoints and request["keeper"] == "keras":
        callbacks.append(keras.callbacks.BackupAndRestore(folder / "backup", SAVE_EVERY))
    elif checkpoints:
        callbacks.append(ours)
    tell("begin")
    history = model.fit(
        **SOURCES[request["source"]](arrays),
        epochs=EPOCHS,
        verbose=0,
        validation_data=held_out,
        callbacks=callbacks,
    )
    if ours.interrupted:
        return
    result = {array.name: _digest(array.value.tobytes()) for array in snapshot(model)}
    result["history"] = _digest(repr(sorted(history.history.items())).encode())
    result["evaluations"] = _digest(repr(evaluation.rows).encode())
    result["log"] = _digest(log.read_bytes())
    partial = folder / "result.partial"
    partial.write_text(json.dumps(result))
    partial.rename(folder / "result.json")


def slow_reward(tell):
    from algorithms import sevens

    def slow(prompts, completions, **columns):
        tell("reward")
        time.sleep(DELAY)
        return sevens(prompts, completions)

    return slow


def _digest(data):
    return hashlib.sha256(data).hexdigest()


def of_arrays(arrays):
    return {"x": arrays[0], "y": arrays[1] if arrays[1:] else None, "batch_size": BATCH_SIZE}


def of_tf_data(arrays):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(arrays if arrays[1:] else arrays[0])
    return {"x": data.shuffle(ROWS, seed=1).batch(BATCH_SIZE)}


def of_py_dataset(arrays):
    import keras
    import numpy as np

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.order = np.random.default_rng(4)
            self.rows = self.order.permutation(ROWS)

        def __len__(self):
            return ROWS // BATCH_SIZE

        def __getitem__(self, index):
            rows = self.rows[index * BATCH_SIZE :][:BATCH_SIZE]
            batch = tuple(array[rows] for array in arrays)
            return batch if batch[1:] else batch[0]

        def on_epoch_end(self):
            self.rows = self.order.permutation(ROWS)

    return {"x": Batches()}


def of_grain(arrays):
    import grain

    rows = [row if row[1:] else row[0] for row in zip(*arrays, strict=True)]
    return {"x": grain.MapDataset.source(rows).shuffle(seed=2).batch(BATCH_SIZE)}


SOURCES = {
    "arrays": of_arrays,
    "tf.data": of_tf_data,
    "PyDataset": of_py_dataset,
    "grain": of_grain,
}


def unreadable(folder):
    """The checkpoints in `folder` that can't be read whole, and the newest step, None without."""
    from artifex_keras.callbacks.checkpoint.orbax_files import Damaged
    from artifex_keras.callbacks.checkpoint.store import Store

    store = Store(folder)
    steps, bad = store.steps(), 0
    for step in steps:
        try:
            store.load(step)
        except Damaged as error:
            print(error, file=sys.stderr)
            bad += 1
    return bad, steps[0] if steps else None


# In the process that forks: kills, by a clock that the child's own words set


class Child:
    """One start of a training."""

    def __init__(self, request, folder, checkpoints=True):
        reading, writing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(reading)
            _live(request, folder, checkpoints, writing)
        os.close(writing)
        self._words = reading
        self._rest = b""

    def word(self):
        """The next word; None when it has ended."""
        while b"\n" not in self._rest:
            ready, *_ = select.select([self._words], [], [], PATIENCE)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                raise TimeoutError(f"A training said nothing for {PATIENCE:.0f} s.")
            read = os.read(self._words, 4096)
            if not read:
                return None
            self._rest += read
        word, self._rest = self._rest.split(b"\n", 1)
        return word.decode()

    def end(self):
        """Waits for its end. Gives the exit status, negative after a signal."""
        while self.word() is not None:
            pass
        os.close(self._words)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _live(request, folder, checkpoints, writing):
    """All that a child does; it never returns."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)  # the parent's answers go through what was our output

        def tell(word):
            os.write(writing, f"{word}\n".encode())

        if checkpoints:
            bad, newest = unreadable(folder / "checkpoints")
            tell(f"found {bad} {-1 if newest is None else newest}")
        train(request, folder, checkpoints, tell)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(request, straight, folder, chance, tally):
    """One training, killed at random moments until enough have hit, then left to end."""
    while True:
        before = _unfinished(folder)
        child = Child(request, folder)
        _, bad, newest = child.word().split()
        newest = int(newest)
        tally["unreadable"] += int(bad)
        if tally["at"] is not None:
            tally["lost_steps"].append(max(tally["at"] - max(newest, 0), 0))
            tally["empty"] += newest < 0
            tally["at"] = None
        if tally["kills"] >= request["kills"]:
            if child.end():
                raise RuntimeError("A training that nobody killed has failed.")
            break
        if not _killed(child, chance, max(newest, 0), request, tally):
            break
        tally["in_a_save"] += bool(_unfinished(folder) - before)
    result = json.loads((folder / "result.json").read_text())
    differences = [name for name in straight if result.get(name) != straight[name]]
    differences += [name for name in result if name not in straight]
    tally["runs"] += 1
    tally["exact"] += not differences
    tally["differences"] += [name for name in differences if name not in tally["differences"]]


def _unfinished(folder):
    """The saves that nobody has finished, told apart even if two were of the same step."""
    found = (folder / "checkpoints").glob("*orbax-checkpoint-tmp*")
    return {(path.name, path.stat().st_ino) for path in found}


def _killed(child, chance, done, request, tally):
    """Sends the signal after a random step and a random while. False if it was done before."""
    name = request["name"]
    target = chance.randrange(done - 1, STEPS)  # below `done`: while it reads its checkpoint
    awaited = "begin" if target < done else "reward" if request["in_rewards"] else "step"
    at = done
    while (word := child.word()) is not None:
        kind, *number = word.split()
        at = int(*number) if number else at
        if at >= target and kind == awaited:
            time.sleep(chance.uniform(0, DELAY))
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, getattr(signal, name))
            break
    status = child.end()
    if name == "SIGTERM" and not status:
        tally["at"] = None
        tally["kills"] += 1
        return True
    if status == -getattr(signal, name):
        tally["kills"] += 1
        tally["at"] = at
        return True
    if status:
        raise RuntimeError(f"A training has failed by itself, with status {status}.")
    return False


@functools.cache
def straight_run(family, source, in_rewards):
    """What comes out of a training that nobody kills."""
    request = {"family": family, "source": source, "in_rewards": in_rewards, "keeper": None}
    with tempfile.TemporaryDirectory() as folder:
        if Child(request, Path(folder), checkpoints=False).end():
            raise RuntimeError("The training without kills has failed.")
        return json.loads((Path(folder) / "result.json").read_text())


def answer(request):
    """What `Nursery.trial` gives."""
    chance = random.Random(f"{request['family']} {request['source']} {request['seed']}")
    tally = {"runs": 0, "exact": 0, "differences": [], "kills": 0, "in_a_save": 0}
    tally |= {"lost_steps": [], "unreadable": 0, "empty": 0, "at": None}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        straight = straight_run(request["family"], request["source"], request["in_rewards"])
        while tally["kills"] < request["kills"] or not tally["runs"]:
            place = folder / f"run-{tally['runs']}"
            place.mkdir()
            run(request, straight, place, chance, tally)
    del tally["at"]
    return tally


def main():
    import algorithms  # noqa: F401
    import families  # noqa: F401

    import artifex_keras.callbacks  # noqa: F401
    from artifex_keras.callbacks.checkpoint.orbax_files import orbax

    orbax()
    for name in ("tensorflow", "grain"):  # Keras looks at what data are by the one, where it is
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception:
            result = {"error": traceback.format_exc()}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
