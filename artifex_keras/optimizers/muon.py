"""Muon: steps of equal length in all directions of a matrix."""

import keras

from artifex_keras.arguments import checked
from artifex_keras.optimizers.base import OptimizerMixin
from artifex_keras.optimizers.rules import RULES

__all__ = ["Muon"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Muon(OptimizerMixin, keras.optimizers.Muon):
    """Momentum orthogonalised by five Newton-Schulz iterations, for matrices (2502.16982): Keras's.

    The step is scaled by `rms_rate` √max(n, m), so that rates and decay of AdamW serve here too.
    Embeddings and all that isn't a matrix, convolution kernels among them, gets AdamW with the same
    rate. The last layer should as well: name it in `exclude_layers`, a list of patterns that are
    searched in the variables' paths.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
    model.compile(ak.optimizers.Muon(1e-3), "mse")
    ```
    """
