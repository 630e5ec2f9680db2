"""Gradient descent and the two that scale it by past gradients: Keras's, decay on weights alone."""

import keras

from artifex_keras.arguments import checked
from artifex_keras.optimizers.base import OptimizerMixin, native
from artifex_keras.optimizers.rules import RULES

__all__ = ["SGD", "Adagrad", "RMSprop"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class SGD(OptimizerMixin, native(keras.optimizers.SGD)):
    """m ← momentum · m - learning_rate · g, w ← w + m.

    The rate is inside the momentum (Sutskever et al. 2013), so a schedule acts with its delay;
    torch and Optax multiply by the rate afterwards. With a constant rate the two are the same.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    ```
    """


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class RMSprop(OptimizerMixin, native(keras.optimizers.RMSprop)):
    """v ← rho · v + (1 - rho) g², w ← w - learning_rate · g / √(v + epsilon).

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.RMSprop(1e-3, rho=0.9)
    ```
    """


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Adagrad(OptimizerMixin, native(keras.optimizers.Adagrad)):
    """v ← v + g², w ← w - learning_rate · g / √(v + epsilon) (Duchi et al. 2011).

    v starts at `initial_accumulator_value`.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.Adagrad(0.01)
    ```
    """
