"""Training a flow without data, by the reverse divergence from a density."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.models.flow.bases import BASES

__all__ = ["ReverseKL"]


class ReverseKL:
    """The part of a `NormalizingFlow` that learns an unnormalised density."""

    def fit_to(
        self,
        log_density: Callable[..., Any],
        *,
        epochs: int = 1,
        steps_per_epoch: int = 100,
        batch_size: int = 256,
        verbose: bool | int | str = "auto",
        **fit: Any,
    ):
        """Trains the flow towards an unnormalised density instead of data. Gives the `History`.

        The loss is the divergence ``E_{x~p}[ln p(x) - log_density(x)]`` = KL(p ‖ target) - ln Z,
        by samples of the flow itself (1505.05770). At the optimum it is -ln Z. It prefers missing a
        mode to covering what lies between modes.

        Args:
            log_density: a function in `keras.ops` from x (B, ...) to ln of the density up to a
                constant, (B,).
            epochs, steps_per_epoch, batch_size: how long, and samples per step.
            fit: further arguments of `keras.Model.fit`, such as `callbacks`.

        Raises:
            ValueError: for a conditional flow or one with `dequantize`.
        """
        keras_internals.require_compiled(self, "fit_to")
        self._check_built("fit_to")
        if self.conditional or self.dequantize is not None:
            raise ValueError(
                "`fit_to` is for flows of continuous data without a condition. Received: "
                f"a flow with {'a condition' if self.conditional else '`dequantize`'}."
            )
        rows = np.zeros((batch_size * steps_per_epoch, 0), "float32")
        self._target = log_density
        self.train_function = None
        try:
            return keras.Model.fit(
                self, rows, batch_size=batch_size, epochs=epochs, verbose=verbose, **fit
            )
        finally:
            self._target = self.train_function = None

    def _divergence(self, rows):
        """``ln p(x) - log_density(x)`` of `rows` samples, (rows,)."""
        base = BASES[self.base]
        z = base.draw(self, (rows, *self.bijection.latent_shape))
        self._initialise(base.draw(self, (rows, *self.data_shape)), None, None)
        x, log_det = self.bijection.to_data(z)
        target = ops.cast(self._target(x), "float32")
        if len(target.shape) != 1:
            raise ValueError(
                "`log_density` must give one number per example, (B,). Received: shape "
                f"{tuple(target.shape)}."
            )
        return base.log_prob(z) - log_det - target
