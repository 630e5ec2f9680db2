"""Metrics of a model's samples, beside real examples, after every few epochs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from artifex_keras import tracking
from artifex_keras.aliases import Data
from artifex_keras.arguments import boolean, broken_rule, checked, count, dictionary, random_seed
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.drawing import examples
from artifex_keras.metrics.features import extracted
from artifex_keras.metrics.named import checked_metrics, measured

__all__ = ["SampleMetricsCallback"]


def _metrics(name, value):
    checked_metrics(name, value)
    return value


def _features(name, value):
    if value is not None and not callable(value):
        raise broken_rule(name, value, "a Keras model, a function of a batch, or None")
    return value


@checked(
    metrics=_metrics,
    features=_features,
    num_samples=count(4),
    every_n_epochs=count(),
    sampling=dictionary,
    seed=random_seed,
    verbose=boolean,
)
class SampleMetricsCallback(BaseCallback):
    """Compares samples of the model with real examples every few epochs.

    The numbers stand in the logs of `fit`, in the history and in trackers like other metrics:
    `frechet_distance`, `precision`, `recall`. Callbacks that come later in the list, such as
    `EarlyStoppingCallback`, may watch them. Sampling starts from `seed` each time and leaves the
    model's own seeds as they were, so the run stays the same to the bit.

    Args:
        metrics: names of `metrics.METRICS` ("frechet", "kernel", "precision_recall",
            "density_coverage", "sliced_wasserstein", "mmd", "classifier_two_sample"), functions of
            `(real, generated)`, or a list of both.
        data: real examples that the model wasn't trained on: an array x, a tuple (x, y), or a
            dataset of batches. A conditional model samples with the conditions y.
        features: what compares them: a `keras.Model` of examples to features, such as
            `metrics.classifier_features` gives, or a function of a batch; None for the examples.
        num_samples: how many samples, and real examples, are compared.
        every_n_epochs: epochs from one comparison to the next.
        sampling: further arguments of `model.sample`, such as `{"num_steps": 20}`.
        seed: the seed of the samples.
        verbose: whether to print a line for each comparison.

    Raises:
        ValueError: for an unknown metric, data with fewer than 4 examples, or, at the start of
            `fit`, a model that can't sample.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak
        from artifex_keras import networks

        x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
        flow = ak.NormalizingFlow(networks.realnvp(2, num_layers=2, units=(8,)))
        flow.compile("adam")
        compare = ak.callbacks.SampleMetricsCallback("frechet", x, num_samples=64)
        history = flow.fit(x, verbose=0, callbacks=[compare]).history
        assert len(history["frechet_distance"]) == 1
        ```
    """

    def __init__(
        self,
        metrics: str | Sequence[str],
        data: Data,
        features: keras.Model | Callable[..., Any] | None = None,
        num_samples: int = 1000,
        *,
        every_n_epochs: int = 1,
        sampling: Mapping[str, Any] | None = None,
        seed: int = 0,
        verbose: bool | int | str = False,
    ):
        super().__init__()
        self.metrics = metrics
        self.features, self.every_n_epochs = features, every_n_epochs
        self.sampling, self.seed, self.verbose = dict(sampling or {}), seed, verbose
        self.num_samples = num_samples
        x, self._given = examples(data, num_samples)
        if x is None or len(x) < 4:
            raise ValueError(
                f"`data` must hold at least 4 examples. Received: {0 if x is None else len(x)}."
            )
        self._real = extracted(features, x)
        self.rows = []

    def on_train_begin(self, logs=None):
        self.rows = []
        if not callable(getattr(self.running_model, "sample", None)):
            raise ValueError(
                "`SampleMetricsCallback` needs a model with a method `sample(n)`, as the families "
                f"have it. Received: a {type(self.running_model).__name__}. Give your own class "
                "that method."
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_n_epochs:
            return
        model = self.model  # fetches what a compiled run holds
        generated = extracted(self.features, self._samples(model))
        found = measured(self.metrics, self._real, generated, seed=self.seed)
        self.rows.append({"epoch": epoch + 1, **found})
        if logs is not None:
            logs.update(found)
        for tracker in tracking.active(model):
            tracker.log({"epoch": epoch + 1, **found}, self._steps(epoch))
        if self.verbose:
            shown = " - ".join(f"{name}: {value:.4g}" for name, value in found.items())
            print(f"epoch {epoch + 1} - {shown}", flush=True)

    def _samples(self, model):
        options = dict(self.sampling)
        if "seed" in inspect.signature(model.sample).parameters:
            options.setdefault("seed", self.seed)
        if getattr(model, "conditional", False):
            options.setdefault("condition", self._conditions())
        return keras.ops.convert_to_numpy(model.sample(self.num_samples, **options))

    def _conditions(self):
        """The conditions of the real examples, in turn."""
        if self._given is None:
            raise ValueError(
                "The model takes a condition: pass `data=(x, condition)`, or "
                "`sampling={'condition': ...}`."
            )
        return self._given[np.arange(self.num_samples) % len(self._given)]

    def _steps(self, epoch):
        return (epoch + 1) * ((self.params or {}).get("steps") or 1)

    def get_state(self):
        return {"rows": [dict(row) for row in self.rows]}

    def set_state(self, state):
        """Continues the rows from a state of `get_state`."""
        self.rows = [dict(row) for row in state["rows"]]
