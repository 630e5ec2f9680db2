"""What a model measures: its metrics, which way each is better, and the norms of its gradients."""

import keras
from keras import ops

from artifex_keras.backend import assign_all, keras_internals
from artifex_keras.models.metrics import Latest

GRADIENT_NORM = "gradient_norm"


class Measured:
    """The part of a model that has metrics besides `loss`.

    Attributes:
        metric_names: a dict of their names: "max" for a metric that should rise, "min" for one that
            should fall, None for one of which neither is better.
        metric_types: those that are another `keras.metrics.Metric` than the mean, by name.
        latest_metrics: names of those that show the latest step, no mean.
        quiet_metrics: names of those that the progress bar and the picture of the losses leave
            out, since others say the same or they don't change; logs and `History` have all.
    """

    metric_names = {}
    latest_metrics = ()
    quiet_metrics = ()
    metric_types = {}
    _gradient_norms = False

    def make_metrics(self, metric_names=None):
        """Creates the metrics; `metric_names` where they depend on what the model is made of."""
        if metric_names is not None:
            self.metric_names = metric_names
        self._trackers = {name: self._tracker_type(name)(name=name) for name in self.metric_names}

    def watch(self, names):
        """Adds metrics, a dict like `metric_names`, but for those that are there."""
        with keras_internals.unlocked(self):
            self.metric_names = {**self.metric_names, **names}
            for name in names:
                if name not in self._trackers:
                    self._trackers[name] = self._tracker_type(name)(name=name)

    @property
    def metric_modes(self):
        """Which way each metric is better, by its name: "max", "min", or None for neither way.

        Metrics of which nothing says it are left out.
        """
        declared = dict(self.metric_names) if hasattr(self.metric_names, "items") else {}
        parts = getattr(self.optimizer, "parts", ()) if self.compiled else ()
        norms = [GRADIENT_NORM, *(f"{part}_{GRADIENT_NORM}" for part in parts)]
        return {"loss": "min", **dict.fromkeys(norms), **declared}

    def _tracker_type(self, name):
        return self.metric_types.get(
            name, Latest if name in self.latest_metrics else keras.metrics.Mean
        )

    @property
    def gradient_norms(self):
        """Whether a step measures the norm of its gradients, before they are clipped.

        Set to True on a compiled model, it adds the metric `gradient_norm`, of several optimizers
        `generator_gradient_norm` and so on, of the latest step. The step reads the gradients once
        more for it, and is compiled anew.
        """
        return self._gradient_norms

    @gradient_norms.setter
    def gradient_norms(self, measured):
        if measured != self._gradient_norms:
            self.train_function = None
        self._gradient_norms = measured
        parts = getattr(self.optimizer, "parts", {}).values() or [self.optimizer]
        for name in map(self._norm_name, parts if measured else ()):
            if name not in self._trackers:
                with keras_internals.unlocked(self):
                    self._trackers[name] = Latest(name=name)

    def _norm_name(self, optimizer):
        parts = getattr(self.optimizer, "parts", {}).items()
        names = [f"{name}_{GRADIENT_NORM}" for name, part in parts if part is optimizer]
        return names[0] if names else GRADIENT_NORM

    def _recorded(self, logs, weight, weights=None):
        """Adds a step's values to the running means. Gives the means so far.

        A value counts as much as the sum of `weight`, or what `weights` says by its name.
        """
        total, weights = ops.sum(weight), weights or {}
        trackers = {**self._trackers, "loss": keras_internals.loss_metric(self)}
        means, variables, values = {}, [], []
        for name, value in logs.items():
            known = trackers[name].variables
            state = trackers[name].stateless_update_state(
                [variable.value for variable in known], value, weights.get(name, total)
            )
            means[name] = trackers[name].stateless_result(state)
            variables, values = variables + known, values + list(state)
        assign_all(variables, values)
        return means
