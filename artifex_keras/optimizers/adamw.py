"""Adam and its nearest relatives."""

from typing import Any

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import bounded, checked
from artifex_keras.backend import keras_internals
from artifex_keras.optimizers.base import OptimizerMixin, native
from artifex_keras.optimizers.rules import RULES

__all__ = ["Adam", "AdamW", "Nadam"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Adam(OptimizerMixin, native(keras.optimizers.Adam)):
    """Adam (1412.6980): Keras's, whose epsilon is the ε̂ of the end of the paper's section 2.

    With epsilon ε this is the algorithm 1 with ε̂ = ε / √(1 - β₂^t), i.e. 32 ε at the first update
    and ε later. A `weight_decay` is decoupled, which makes it AdamW; none by default.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(ak.optimizers.Adam(1e-3), "mse")
    ```
    """


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES, weight_decay=bounded(minimum=0.0))
class AdamW(OptimizerMixin, native(keras.optimizers.AdamW)):
    """Adam with decoupled weight decay (1711.05101): Keras's, with the decay on weights alone.

    The first choice for most models. Biases, norm parameters, scalars and vectors aren't decayed.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(ak.optimizers.AdamW(1e-3, weight_decay=0.1), "mse")  # the bias isn't decayed
    ```
    """


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class Nadam(OptimizerMixin, keras.optimizers.Optimizer):
    """Adam with Nesterov momentum (Dozat 2016, "Incorporating Nesterov momentum into Adam").

        μ_t = β₁ (1 - ½ · 0.96^(ψt)),
        m̂ = μ_{t+1} m / (1 - μ_1 ... μ_{t+1}) + (1 - μ_t) g / (1 - μ_1 ... μ_t).

    Keras's class has ψ = 1, so that its momentum is warm after a hundred updates; the paper's ψ is
    1/250, as torch has it.

    Args:
        momentum_decay: ψ; None keeps μ at β₁ throughout, as Optax does.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.Nadam(1e-3, momentum_decay=0.004)
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        momentum_decay: float = 0.004,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, **kwargs)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.momentum_decay = momentum_decay

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._product = self.add_variable((), "ones", name="momentum_product")
        self._momentums, self._velocities = self.add_optimizer_variables(
            variables, ["momentum", "velocity"]
        )

    def _momentum(self, step):
        if self.momentum_decay is None:
            return self.beta_1
        return self.beta_1 * (1.0 - 0.5 * ops.power(0.96, self.momentum_decay * step))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        step = ops.cast(self.iterations + 1, self._product.dtype)
        self._product.assign(self._product * self._momentum(step))
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        index = keras_internals.variable_index(self, variable)
        m, v = keras_internals.adam_moments(self, index)
        lr = ops.cast(learning_rate, variable.dtype)
        g = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        now, ahead = self._momentum(step), self._momentum(step + 1.0)
        product = ops.cast(self._product, variable.dtype)

        self.assign(m, self.beta_1 * m + (1.0 - self.beta_1) * g)
        self.assign(v, self.beta_2 * v + (1.0 - self.beta_2) * ops.square(g))
        looking_ahead = ahead * m / (1.0 - product * ahead) + (1.0 - now) * g / (1.0 - product)
        corrected = v / (1.0 - ops.power(self.beta_2, step))
        self.assign_sub(variable, lr * looking_ahead / (ops.sqrt(corrected) + self.epsilon))

    def get_config(self):
        own = ("beta_1", "beta_2", "epsilon", "momentum_decay")
        return super().get_config() | {name: getattr(self, name) for name in own}
