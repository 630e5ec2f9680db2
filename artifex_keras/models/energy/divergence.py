"""A run that has gone wrong is stopped, and said to have."""

import math

import keras

from artifex_keras.backend import keras_internals

__all__ = ["fit_watched"]

REMEDY = (
    "What helps: a smaller learning rate or `step_size`, `energy_regularization` (0.1, say), "
    "`gradient_penalty_weight`, clipped gradients (`clipnorm` of the optimizer, "
    "`gradient_clip_norm` of a config), or spectral normalisation of the network "
    "(`networks.mlp_critic(..., spectral_norm=True)`)."
)


class DivergenceGuard(keras.callbacks.Callback):
    """Ends training after an epoch whose energies have blown up.

    It looks at the means of the epoch, which Keras has fetched by then: no step waits for it. One
    loss that is no number makes the mean one.
    """

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold
        self.found = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        for name, limit in (("loss", math.inf), ("energy_gap", self.threshold)):
            value = float(logs.get(name, 0.0))
            if not abs(value) < limit:
                self.found = f"in epoch {epoch + 1} the mean of `{name}` was {value:.4g}"
                keras_internals.model_of(self).stop_training = True
                return


def fit_watched(model, fit, arguments, callbacks=None, *args, **kwargs):
    """`fit(*arguments, callbacks, ...)` of an energy model, under a `DivergenceGuard`.

    Raises:
        FloatingPointError: if it had to end training, once `fit` has put the weights back.
    """
    guard = DivergenceGuard(model.divergence_threshold)
    if isinstance(callbacks, keras.callbacks.CallbackList):
        guard.set_model(model)
        callbacks.append(guard)
    else:
        given = [] if callbacks is None else callbacks
        callbacks = [guard, *(given if isinstance(given, list | tuple) else [given])]
    history = fit(*arguments, callbacks, *args, **kwargs)
    if guard.found:
        raise FloatingPointError(
            f"Training diverged: {guard.found} (`divergence_threshold` is {guard.threshold:g}). "
            f"{REMEDY}"
        )
    return history
