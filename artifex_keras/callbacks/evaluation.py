"""Evaluation every so many steps, within epochs too."""

import contextlib

import keras
from keras import ops

from artifex_keras import tracking
from artifex_keras.aliases import Data
from artifex_keras.arguments import boolean, broken_rule, checked, count
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint.randomness import randomness, restore_randomness

__all__ = ["EvaluationCallback"]


def _prefix(name, value):
    if not isinstance(value, str):
        raise broken_rule(name, value, "a text")
    return value


@checked(
    every_n_steps=count(),
    batch_size=count(optional=True),
    steps=count(optional=True),
    prefix=_prefix,
    verbose=boolean,
)
class EvaluationCallback(BaseCallback):
    """Evaluates the model on other data every `every_n_steps` steps, within epochs too.

    The run stays the same to the bit: metrics of the running epoch, batch statistics and seeds are
    restored after each evaluation. `rows` holds a dict for each evaluation: `step` (batches of the
    run so far), `epoch` (from 1), and the metrics, their names after the prefix. Trackers get the
    same rows. A run resumed from a checkpoint continues its rows.

    Args:
        dataset: arrays, a tuple (x, y) or (x, y, sample_weight), or a dataset of batches that can
            be iterated repeatedly, as for `evaluate`.
        every_n_steps: batches from one evaluation to the next. With `steps_per_execution` an
            evaluation comes after the execution that passes the multiple.
        batch_size: for arrays; by default the trainer's, or 32 as in Keras.
        steps: the number of batches to evaluate on; None for all.
        prefix: a string before the names of the metrics.
        verbose: whether to print a line for each evaluation.

    Raises:
        ValueError: for arguments out of range.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(32, 4))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        evaluation = ak.callbacks.EvaluationCallback((x[:8], x[:8, :1]), every_n_steps=2)
        model.fit(x, x[:, :1], batch_size=8, verbose=0, callbacks=[evaluation])
        assert [row["step"] for row in evaluation.rows] == [2, 4]
        assert "eval_loss" in evaluation.rows[0]
        ```
    """

    def __init__(
        self,
        dataset: Data,
        every_n_steps: int,
        *,
        batch_size: int | None = None,
        steps: int | None = None,
        prefix: str = "eval_",
        verbose: bool | int | str = False,
    ):
        super().__init__()
        self.dataset = dataset
        self.every_n_steps = every_n_steps
        self.batch_size, self.steps = batch_size, steps
        self.prefix, self.verbose = prefix, verbose
        self._reset()

    def _reset(self):
        self.rows = []
        self._base = None  # steps before this epoch
        self._batch = self._last = self._epoch = 0

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        if self._base is None:
            self._base = self._last = epoch * (self.params.get("steps") or 0)
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self._batch = batch
        self._advance(self._base + batch)

    def on_epoch_end(self, epoch, logs=None):
        done = self._batch + (getattr(self.running_model, "steps_per_execution", None) or 1)
        steps = self.params.get("steps")
        self._base += min(done, steps) if steps else done
        self._batch = 0
        self._advance(self._base)

    def _advance(self, step):
        """Evaluates if a multiple of the steps lies between the last step seen and this one."""
        if step // self.every_n_steps > self._last // self.every_n_steps:
            self._evaluate(step)
        self._last = step

    def _evaluate(self, step):
        model = self.model  # fetches what a compiled run holds
        with _preserve_state(model):
            metrics = model.evaluate(
                **self._arguments(), steps=self.steps, return_dict=True, verbose=0
            )
        metrics = {f"{self.prefix}{name}": float(value) for name, value in metrics.items()}
        self.rows.append({"step": step, "epoch": self._epoch + 1, **metrics})
        for tracker in tracking.active(model):
            tracker.log({"epoch": self._epoch + 1, **metrics}, step)
        if self.verbose:
            shown = " - ".join(f"{name}: {value:.4g}" for name, value in metrics.items())
            print(f"step {step} - {shown}", flush=True)

    def _arguments(self):
        if isinstance(self.dataset, tuple | list):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(tuple(self.dataset))
            return {"x": x, "y": y, "sample_weight": weight, "batch_size": self._size()}
        arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(self.dataset))
        return {"x": self.dataset, "batch_size": self._size() if arrays else None}

    def _size(self):
        return self.batch_size or getattr(self.trainer, "batch_size", None)

    def get_state(self):
        place = {"base": self._base, "batch": self._batch, "last": self._last}
        return {**place, "rows": [dict(row) for row in self.rows]}

    def set_state(self, state):
        """Continues from a state of `get_state`."""
        self.rows = [dict(row) for row in state["rows"]]
        self._base, self._batch, self._last = state["base"], state["batch"], state["last"]


@contextlib.contextmanager
def _preserve_state(model):
    """Restores at the end what an evaluation changes: metrics, statistics, seeds, the mode."""
    variables = {id(v): v for v in [*model.metrics_variables, *model.non_trainable_variables]}
    kept = [(v, ops.copy(v.value)) for v in variables.values()]  # JAX gives the buffers away
    generators = randomness()
    mode = getattr(model, "training", None)  # of a torch module
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
        restore_randomness(generators)
        if mode is not None and hasattr(model, "train"):
            model.train(mode)
