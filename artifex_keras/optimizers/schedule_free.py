"""AdamW without a schedule, for runs whose length isn't known (2405.15682)."""

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked
from artifex_keras.backend import keras_internals
from artifex_keras.optimizers.base import OptimizerMixin
from artifex_keras.optimizers.rules import RULES

__all__ = ["ScheduleFreeAdamW"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES)
class ScheduleFreeAdamW(OptimizerMixin, keras.optimizers.Optimizer):
    """Schedule-free AdamW (2405.15682, algorithm 1): an average takes the place of the decay.

    Gradients are taken at y, the model's weights during training, between the iterate z and its
    average x:

        z ← z - γ (g / (√v̂ + ε) + λ y),   c = γ_max² / Σ γ_max²,
        x ← (1 - c) x + c z,              y = (1 - β₁) z + β₁ x.

    **x is the result.** It is kept as Keras keeps the average of `use_ema`: when `fit` ends, the
    model's weights are x. For x in validation, and in checkpoints, during `fit` add
    `keras.callbacks.SwapEMAWeights()`, with `swap_on_epoch=True` for checkpoints; otherwise both
    see y. A further `fit` goes on from z and x; only its first gradient is taken at x. Weights that
    are set between two fits are not seen by it.

    A warm-up helps: `learning_rate=ConstantSchedule(0.0025, warmup_steps=...)`. Keras's class of
    this name has no x to evaluate at, weighs the updates of a warm-up like all others, and decays y
    behind the back of z.

    Args:
        learning_rate: γ, a number or a schedule without decay; larger than Adam's.
        beta_1: β₁, the share of x in y; 0.9 to 0.98.
        beta_2: decay of the second moment.
        epsilon: ε.
        weight_decay: λ.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.ScheduleFreeAdamW(1e-3)  # needs no schedule
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.0025,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        loss_scale_factor: float | None = None,
        name: str | None = None,
    ):
        super().__init__(
            learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            loss_scale_factor=loss_scale_factor,
            name=name,
            use_ema=True,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)  # makes x, the "average"
        if any(variable.constraint is not None for variable in variables):
            raise ValueError("A schedule-free optimizer can't keep constraints of variables.")
        self._iterates, self._velocities = self.add_optimizer_variables(
            variables, ["iterate", "velocity"]
        )
        self._largest_rate = self.add_variable((), name="largest_learning_rate")
        self._total_weight = self.add_variable((), name="total_weight")

    def _apply_weight_decay(self, variables):
        pass  # in the update

    def _update_model_variables_moving_average(self, trainable_variables):
        pass  # in the update

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        rate = ops.maximum(self._largest_rate, ops.cast(learning_rate, self._largest_rate.dtype))
        self._largest_rate.assign(rate)
        self._total_weight.assign_add(ops.square(rate))
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def _share(self, dtype):
        """c, the weight of this update in x."""
        weight = ops.square(self._largest_rate)
        return ops.cast(weight / ops.maximum(self._total_weight, 1e-30), dtype)

    def update_step(self, gradient, variable, learning_rate):
        index = keras_internals.variable_index(self, variable)
        iterate, average = self._iterates[index], keras_internals.moving_averages(self)[index]
        first = ops.equal(self.iterations, 0)
        z, x = (
            ops.where(first, ops.convert_to_tensor(variable), ops.convert_to_tensor(kept))
            for kept in (iterate, average)
        )
        y = (1.0 - self.beta_1) * z + self.beta_1 * x

        direction = self._direction(ops.cast(gradient, variable.dtype), self._velocities[index])
        if self.weight_decay and self._use_weight_decay(variable):
            direction = direction + self.weight_decay * y
        z = z - ops.cast(learning_rate, variable.dtype) * direction
        share = self._share(variable.dtype)
        x = (1.0 - share) * x + share * z
        self.assign(iterate, z)
        self.assign(average, x)
        self.assign(variable, (1.0 - self.beta_1) * z + self.beta_1 * x)

    def _direction(self, g, velocity):
        step = ops.cast(self.iterations + 1, velocity.dtype)
        self.assign(velocity, self.beta_2 * velocity + (1.0 - self.beta_2) * ops.square(g))
        corrected = velocity / (1.0 - ops.power(self.beta_2, step))
        return g / (ops.sqrt(corrected) + self.epsilon)

    def get_config(self):
        config = super().get_config()
        for name in (
            "use_ema",
            "ema_momentum",
            "ema_overwrite_frequency",
            "gradient_accumulation_steps",
        ):
            del config[name]
        own = ("beta_1", "beta_2", "epsilon")
        return config | {name: getattr(self, name) for name in own}
