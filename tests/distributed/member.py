"""One process of a group: `member.py TASK ...`; what it found is a line of JSON at the end.

Who it is, it learns from Keras's environment variables; without them it is alone.
"""

import functools
import hashlib
import importlib.util
import json
import os
import sys
import time

import keras
import numpy as np

from artifex_keras import VAE
from artifex_keras.backend import processes as agreed
from artifex_keras.callbacks import CheckpointCallback, LoggingCallback
from artifex_keras.callbacks.checkpoint.arrays import snapshot
from artifex_keras.distributed import distributed_metrics, model_parallel, processes
from artifex_keras.distributed.own_rows import OwnRows

BATCH_SIZE, EPOCHS = 8, 3
X = np.random.default_rng(0).normal(size=(28, 4)).astype("float32")  # the last batch is of 4


class Part(keras.utils.PyDataset):
    """This process's rows of each whole batch."""

    def __len__(self):
        return len(X) // BATCH_SIZE

    def __getitem__(self, index):
        half = BATCH_SIZE // 2
        return X[index * BATCH_SIZE + processes.process_index() * half :][:half]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return -(-len(X) // BATCH_SIZE)

    def __getitem__(self, index):
        return X[index * BATCH_SIZE : (index + 1) * BATCH_SIZE]


def grain_batches():
    import grain

    return grain.MapDataset.source(X).batch(BATCH_SIZE)


def tf_batches():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(X).batch(BATCH_SIZE)


def generated():
    for _ in range(EPOCHS):
        for index in range(len(Batches())):
            yield (Batches()[index],)


class Taken(np.ndarray):
    """An array that notes which rows are taken."""

    rows = []

    def __getitem__(self, rows):
        taken = np.asarray(self)[rows]
        self.rows.append(taken[:, 0].tolist())
        return taken


def taken(shuffle):
    """The first column of what is taken of an array of three batches, in each call."""
    x = np.repeat(np.arange(24.0, dtype="float32")[:, None], 4, 1).view(Taken)
    clear = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *a: Taken.rows.clear())
    keras.utils.set_random_seed(2)
    model().fit(x, batch_size=8, shuffle=shuffle, verbose=0, callbacks=[clear])
    return Taken.rows[:]


def uneven(kind):
    """Own rows of an unknown number of batches, in one process others than in the others."""
    odd = processes.process_index() == 1
    for index in range(3 if odd and kind == "fewer" else 5):
        if odd and index == 2 and kind == "fails":
            raise OSError("no picture 2")
        yield (X[index * 4 :][: 2 if odd and index == 2 and kind == "short" else 4],)


class Careless(keras.utils.PyDataset):
    """Five batches, of which in one process one fails or is short."""

    def __init__(self, kind, rows):
        super().__init__()
        self.odd, self.rows = processes.process_index() == 1 and kind, rows

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if self.odd == "fails" and index == 2:
            raise OSError("no picture 2")
        rows = 2 if self.odd == "short" and index == 2 else self.rows
        return X[index * 4 :][:rows]


def careless():
    """What is raised where one process has other data, by what is careless about them."""

    def fit(make):
        model().fit(make(), shuffle=False, verbose=0)

    me = processes.process_index()
    data = {
        "fails within": lambda: OwnRows(Careless("fails", 4)),
        "fails within, of common rows": lambda: Careless("fails", 8),
        "short within": lambda: OwnRows(Careless("short", 4)),
        "no batch": lambda: OwnRows(X[: 8 * (1 - me)], batch_size=4),
        "nothing": lambda: OwnRows(batch for batch in [(X[:4],)] * (1 - me)),
    }
    return {name: error_of(functools.partial(fit, make)) for name, make in data.items()}


def own_shard():
    """A grain loader of this process's rows: one half of them."""
    import grain

    shards = grain.sharding.ShardByJaxProcess(drop_remainder=True)
    sampler = grain.samplers.IndexSampler(len(X), shards, shuffle=False, num_epochs=1)
    batches = grain.transforms.Batch(BATCH_SIZE // 2, drop_remainder=True)
    return grain.DataLoader(data_source=X, sampler=sampler, operations=[batches])


class Halves(keras.utils.PyDataset):
    """The batches that `own_shard` gives to two processes together."""

    def __len__(self):
        return len(X) // BATCH_SIZE

    def __getitem__(self, index):
        half, size = len(X) // 2, BATCH_SIZE // 2
        return np.concatenate([x[index * size :][:size] for x in (X[:half], X[half:])])


class Fails(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if (int(self.model.step.numpy()), batch) == (5, 2):
            raise InterruptedError


def resumed_shard(folder):
    """The same as `fitted` of a run that broke off in its second epoch."""
    keep = {"save_every_n_steps": 1, "resume": "auto", "verbose": False, "asynchronous": False}
    for more in ([Fails()], []):
        made, keeper = model(), CheckpointCallback(f"{folder}/shard", **keep)
        try:
            history = made.fit(own_shard(), epochs=EPOCHS, verbose=0, callbacks=[keeper, *more])
        except InterruptedError:
            continue
    return {"losses": history.history["loss"], "weights": weights(made)}


def endless():
    """A generator that ends in one process before it does in the others."""
    for index in range(3 if processes.process_index() else 5):
        yield (Batches()[index % 3],)


def model():
    keras.utils.set_random_seed(1)
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="code")])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, name="picture")])
    made = VAE(encoder, decoder, seed=1)
    made.compile(keras.optimizers.Adam(1e-2))
    return made


def weights(made):
    return [variable.numpy().tolist() for variable in made.trainable_variables]


def fitted(data, **options):
    """Losses and weights after a training on `data`."""
    made = model()
    history = made.fit(data, epochs=EPOCHS, verbose=0, **options)
    return {"losses": history.history["loss"], "weights": weights(made)}


def basics(folder):
    """How a group trains, measures and agrees."""
    me = processes.process_index()
    found = {"drawn": float(np.random.rand()), "processes": processes.process_count()}
    found["arrays"] = fitted(X, batch_size=BATCH_SIZE)
    found["PyDataset"] = fitted(Batches(), shuffle=False)
    found["grain"] = fitted(grain_batches(), shuffle=False)
    if importlib.util.find_spec("tensorflow"):
        found["tf.data"] = fitted(tf_batches(), shuffle=False)
    found["generator"] = fitted(generated(), steps_per_epoch=len(Batches()))
    found["own"] = fitted(OwnRows(Part()), shuffle=False)
    made = model()
    log = LoggingCallback(1, file=f"{folder}/log.csv", console=False)
    made.fit(X, batch_size=BATCH_SIZE, verbose=0, callbacks=[log])
    found["evaluated"] = made.evaluate(X, batch_size=BATCH_SIZE, verbose=0)
    found["predicted"] = np.sum(made.predict(X, batch_size=BATCH_SIZE, verbose=0), 0).tolist()
    shard = {"loss": [1.0, 5.0][me], "rewards": np.full(3, me)}
    found["mean"] = distributed_metrics.mean(shard, count=[1, 3][me])["loss"]
    found["sum"] = distributed_metrics.sum(shard)["rewards"].tolist()
    found["max"] = float(distributed_metrics.max(shard["loss"]))
    found["empty"] = float(distributed_metrics.mean([2.0, np.nan][me], count=[4, 0][me]))
    found["uneven"] = len(model().fit(endless(), verbose=0).history["loss"])
    made = model()
    made.fit(OwnRows(uneven("fewer")), verbose=0)
    found["fewer"] = int(made.step.numpy())
    for kind in ("short", "fails"):
        found[kind] = error_of(lambda: model().fit(OwnRows(uneven(kind)), verbose=0))  # noqa: B023
    found["careless"] = careless()
    rows = OwnRows(X[: 16 - me], batch_size=4)
    found["last"] = error_of(lambda: model().fit(rows, verbose=0))
    found["counts"] = error_of(lambda: OwnRows(X[: 8 + 4 * me], batch_size=4))
    found["taken"], found["taken shuffled"] = taken(False), taken(True)
    found["shard"] = fitted(own_shard(), shuffle=False)
    found["resumed"] = resumed_shard(folder)
    found["error"] = error_of(lambda: agreed.on_first_process(lambda: [].pop()))
    found["other data"] = error_of(lambda: model().fit(Part(), verbose=0))
    found["shapes"] = error_of(lambda: distributed_metrics.sum(np.zeros(2 + me)))
    found["straight"] = train(None)
    return found


def reference(folder):
    """What one process alone comes to."""
    made = model()
    made.fit(X, batch_size=BATCH_SIZE, verbose=0)
    return {
        "arrays": fitted(X, batch_size=BATCH_SIZE),
        "own": fitted(X[: len(X) // BATCH_SIZE * BATCH_SIZE], batch_size=BATCH_SIZE, shuffle=False),
        "PyDataset": fitted(Batches(), shuffle=False),
        "shard": fitted(Halves(), shuffle=False),
        "evaluated": made.evaluate(X, batch_size=BATCH_SIZE, verbose=0),
        "predicted": np.sum(made.predict(X, batch_size=BATCH_SIZE, verbose=0), 0).tolist(),
        "mean": distributed_metrics.mean(2.5, count=0),
    }


def rows(folder):
    """Losses of families and algorithms, of every one with ARTIFEX_KERAS_ROWS=all."""
    from algorithms import ALGORITHMS
    from families import FAMILIES

    found, every = {}, os.environ.get("ARTIFEX_KERAS_ROWS") == "all"
    for row in (*FAMILIES, *ALGORITHMS):
        if not every and row.name not in SOME:
            continue
        made = row.make(seed=1)
        made.compile(keras.optimizers.Adam(1e-2))
        history = made.fit(*row.arrays(16), batch_size=8, epochs=2, verbose=0, shuffle=False)
        found[row.name] = history.history["loss"]
    return found


def count_sevens(prompts, completions):
    return [completion.count(7) for completion in completions]


def rollouts(folder):
    """What GRPO comes to whose rollouts have a mesh of their own, over eight devices if there are
    as many."""
    from artifex_keras import GRPO
    from artifex_keras.networks import CausalTransformer

    keras.utils.set_random_seed(0)
    policy = CausalTransformer(24, 8, num_layers=1, num_heads=4, width=16)
    made = GRPO(policy, count_sevens, max_new_tokens=4, num_generations=4, seed=1)
    made.compile("adam")
    if agreed.count() > 1:
        rules = {"rollout_mesh": (2, 4), "min_bytes": 0}
        keras.distribution.set_distribution(model_parallel((8,), **rules))
    prompts = np.random.default_rng(0).integers(0, 24, (16, 4))
    fit = made.fit(prompts, batch_size=8, shuffle=False, verbose=0).history
    evaluated = made.evaluate(prompts, batch_size=8, return_dict=True, verbose=0)
    return {"reward": fit["reward"], "entropy": fit["entropy"], "evaluated": evaluated["reward"]}


def groups(folder):
    """What a mesh of three axes comes to, whose groups are the processes."""
    if agreed.count() > 1:
        keras.distribution.set_distribution(model_parallel((2, 2, 2), min_bytes=0))
    found = {"arrays": fitted(X, batch_size=BATCH_SIZE)}
    return found | {"PyDataset": fitted(Batches(), shuffle=False)}


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Tell(keras.callbacks.Callback):
    """Says where it is, so that somebody can send a signal, and leaves time for it."""

    def on_train_batch_begin(self, batch, logs=None):
        step = int(self.model.step.numpy())
        print(f"pid {os.getpid()} step {step}", flush=True)
        time.sleep(0.4)  # JAX looks for signals once a second


def sharded():
    """Rows over the processes; weights over both, so that none of them has a whole one."""
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[".*kernel"] = ("batch", "model")
    return keras.distribution.ModelParallel(
        layout_map=layouts, batch_dim_name="batch", auto_shard_dataset=False
    )


def train(folder):
    """A digest of all that a training leaves, which goes on from checkpoints in `folder`."""
    with sharded().scope():
        return trained(model(), folder)


def trained(made, folder):
    kernel = made.trainable_variables[0].value
    assert not kernel.is_fully_replicated and not kernel.is_fully_addressable
    callbacks = []
    if folder:
        keeper = CheckpointCallback(folder, save_every_n_steps=2, resume="auto", verbose=False)
        callbacks = [keeper, Tell()]
    history = made.fit(
        X, batch_size=BATCH_SIZE, epochs=4, verbose=0, callbacks=callbacks, validation_data=X
    )
    if folder and keeper.interrupted:
        return {"interrupted": keeper.interrupted, "step": keeper._saved}
    digest = hashlib.sha256(repr(history.history).encode())
    for array in snapshot(made):
        digest.update(array.value.tobytes())
    return digest.hexdigest()


def idle(folder):
    """Does nothing, for long."""
    print("idle", os.getpid(), flush=True)
    time.sleep(60)


SOME = ("vae-everything", "wgan-gp", "autoregressive", "grpo", "dpo")
TASKS = {task.__name__: task for task in (basics, groups, idle, reference, rollouts, rows, train)}


def main(task, folder):
    if int(os.environ.get(processes.COUNT, 1)) > 1:
        processes.initialize(initialization_timeout=120)
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )
    print(json.dumps(TASKS[task](folder)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
