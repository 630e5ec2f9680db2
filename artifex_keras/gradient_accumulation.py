"""Large batches in small pieces: several gradients, one update."""

import contextlib

import keras
from keras import ops

from artifex_keras import backend
from artifex_keras.arguments import broken_rule, checked, count, integer, optional, text
from artifex_keras.backend import keras_internals
from artifex_keras.trust import saved_value
from artifex_keras.utils import attribute_of

__all__ = [
    "GradientAccumulation",
    "accumulated",
    "innermost",
    "portable",
    "weighing",
    "with_weights",
]

WEIGHT = "gradient_weight"  # the variable's name
UNKNOWN = -1.0  # the weight of what files of earlier versions hold, which counted calls alone
LEAST = 1e-20  # what a call weighs at least: where nothing counts, all calls count alike


@checked()
def accumulated(optimizer, steps=None):
    """`optimizer`, or a wrapper by which it updates once every `steps` calls, with the mean.

    A Keras optimizer's own `gradient_accumulation_steps` is taken over, because Keras counts calls
    where a schedule, bias correction and average want updates: with 2 steps its schedule sees the
    rates of steps 1, 3, 5. A loss scale stays outside of the wrapper; each optimizer of an
    `OptimizerGroup` gets a wrapper of its own.

    Raises:
        ValueError: for `steps` that is no integer of at least 1 or contradicts the optimizer's own,
            and for an optimizer that accumulates and is already built.
    """
    steps = integer("steps", steps, minimum=1, optional=True)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise broken_rule("optimizer", optimizer, "a Keras optimizer")
    if hasattr(optimizer, "parts"):
        return _accumulated_group(optimizer, steps)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.inner_optimizer = accumulated(optimizer.inner_optimizer, steps)
        if optimizer.built:
            optimizer.inner_optimizer.build(keras_internals.optimized_variables(optimizer))
        return optimizer
    own = (
        optimizer.steps
        if isinstance(optimizer, GradientAccumulation)
        else _take_over_accumulation(optimizer)
    )
    if own is not None and steps not in (None, own):
        raise ValueError(
            "`steps` must agree with what the optimizer accumulates itself. "
            f"Received: steps={steps}, optimizer with {own} steps."
        )
    steps = steps or own or 1
    if steps == 1 or isinstance(optimizer, GradientAccumulation):
        return optimizer
    return GradientAccumulation(optimizer, steps)


def _accumulated_group(group, steps):
    parts = {name: accumulated(part, steps) for name, part in group.parts.items()}
    if all(part is group.parts[name] for name, part in parts.items()):
        return group
    if group.built:
        raise ValueError("The optimizers of a built group can't be made to accumulate any more.")
    return type(group)(parts, name=group.name)


def _take_over_accumulation(optimizer):
    """Takes Keras's own accumulation out of the optimizer. Gives its steps, or None."""
    own = optimizer.gradient_accumulation_steps
    if own and optimizer.built:
        raise ValueError(
            "`gradient_accumulation_steps` of a built optimizer can't be taken over: it has "
            f"counted calls, not updates. Received: a built {type(optimizer).__name__} with "
            f"gradient_accumulation_steps={own}."
        )
    if own:
        optimizer.gradient_accumulation_steps = None
        optimizer.steps_taken_over = own  # for a second `compile` with the same object
    return getattr(optimizer, "steps_taken_over", None)


def innermost(optimizer):
    """The optimizer that updates, inside of loss scales and accumulations, alone in an iterator."""
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    yield optimizer


@contextlib.contextmanager
def weighing(optimizer, weight):
    """Inside, a call of `optimizer` counts as `weight` in the mean, a scalar, if it accumulates.

    Example:

    ```python
    import keras
    from keras import ops

    import artifex_keras as ak
    from artifex_keras.gradient_accumulation import weighing

    w = keras.Variable(0.0)
    optimizer = ak.GradientAccumulation(keras.optimizers.SGD(1.0), 2)
    for gradient, tokens in ((1.0, 3.0), (5.0, 1.0)):
        with weighing(optimizer, tokens):
            optimizer.apply([ops.convert_to_tensor(gradient)], [w])
    print(float(w))  # -(3 * 1 + 1 * 5) / 4 = -2
    ```
    """
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    accumulator = optimizer.inner_optimizer if scaled else optimizer
    if not isinstance(accumulator, GradientAccumulation):
        yield
        return
    before, accumulator.call_weight = accumulator.call_weight, weight
    try:
        yield
    finally:
        accumulator.call_weight = before


def portable(config):
    """An optimizer's config with Keras's public classes, which each backend has.

    On torch `keras.optimizers.Adam(...)` gives an object of a class that only torch has.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(map(portable, config))
    if not isinstance(config, dict):
        return config
    config = {key: portable(value) for key, value in config.items()}
    public = getattr(keras.optimizers, str(config.get("class_name")), None)
    if keras_internals.is_of_one_backend(config.get("module")) and isinstance(public, type):
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def with_weights(optimizer, store):
    """What `optimizer` saved, with `UNKNOWN` for the weights that earlier versions didn't save."""
    names = [variable.name for variable in optimizer.variables]
    saved = [place for place, name in enumerate(names) if name != WEIGHT]
    if len(saved) == len(names) or len(store.keys()) != len(saved):
        return store
    values = {str(place): store[str(i)] for i, place in enumerate(saved)}
    return {str(place): UNKNOWN for place in range(len(names))} | values


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(steps=count(), name=optional(text))
class GradientAccumulation(keras.optimizers.Optimizer):
    """Updates once every `steps` calls, with the weighted mean of their gradients, Σ w g / Σ w.

    Calls 1 to `steps` equal one call with all their batches as one. A call weighs what `weighing`
    says, 1 without it. The models of this package say what their batches weigh: the sum of the
    sample weights, the tokens that count, or what else the loss is a mean over. So batches of
    unequal size are right too. A plain `keras.Model` says nothing: there each batch counts alike.

    The inner optimizer runs once, under a conditional, so its schedule, moments, clipping, weight
    decay and average count updates. The calls in between only add. What is gathered at the end of
    an epoch carries over to the next, and is saved.

    Some terms are no means over rows, and can't be equal to those of one large batch: statistics
    of batch normalisation, what compares the rows of a batch (β-TC, couplings by optimal
    transport, whitened advantages), and schedules of the model's own, which count batches. They
    are those of each batch; their mean is weighted as the rest is. Regularisation losses of layers
    are the same in each batch, and so in the mean. In a GAN each batch's generator meets the
    discriminator of that moment. Gradients of PPO's and GRPO's minibatches are gathered as those
    of batches are.

    `iterations` and `learning_rate` are the inner optimizer's.

    Args:
        inner_optimizer: a Keras optimizer without accumulation of its own. A loss scale goes around
            the wrapper, not into it, since it changes from call to call.
        steps: calls per update.

    Raises:
        ValueError: see above, and for `steps` that is no integer >= 1.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(optimizer=ak.GradientAccumulation(keras.optimizers.Adam(), 4), loss="mse")
        x = np.random.default_rng(0).normal(size=(32, 3))
        model.fit(x, x[:, :1], batch_size=4, verbose=0)  # 8 batches, 2 updates
        ```
    """

    def __init__(
        self, inner_optimizer: keras.optimizers.Optimizer, steps: int, name: str | None = None
    ):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "`inner_optimizer` must be a Keras optimizer. "
                f"Received: inner_optimizer={inner_optimizer!r}."
            )
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "A loss scale belongs around the accumulation: "
                "LossScaleOptimizer(GradientAccumulation(optimizer, steps)), "
                "which is what `accumulated` makes of it."
            )
        if inner_optimizer.gradient_accumulation_steps:
            raise ValueError(
                "`inner_optimizer` must not accumulate itself; `accumulated` takes its steps over. "
                "Received: gradient_accumulation_steps="
                f"{inner_optimizer.gradient_accumulation_steps}."
            )
        super().__init__(learning_rate=_no_rate, name=name)
        self.inner_optimizer = inner_optimizer
        self.steps = int(steps)
        self.call_weight = 1.0

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        if any(keras_internals.takes_gradient_as_value(self, v) for v in variables):
            raise ValueError(
                "Gradients that are values to be stored (float8 scales) can't be accumulated."
            )
        # By the name of earlier versions, which kept the sum; they lack `WEIGHT`.
        self._means = [self.add_variable_from_reference(v, name="gradient_sum") for v in variables]
        self._weight = self.add_variable(
            shape=(), initializer="zeros", dtype="float32", name=WEIGHT
        )
        self._weight.value_if_unsaved = UNKNOWN

    @property
    def variables(self):
        """The number of calls, the means, their weight, and the inner optimizer's variables."""
        return keras_internals.own_optimizer_variables(self) + self.inner_optimizer.variables

    def apply(self, grads, trainable_variables=None):
        if not self.built:
            with keras.name_scope(self.name, caller=self):
                self.build(list(trainable_variables))
        grads = self._in_order(grads, trainable_variables)
        if backend.name() == "jax":
            self._apply_stateless(grads)
            return
        calls = keras_internals.update_counter(self)
        means, weight = self._gathered(calls, self._means, self._weight, grads)
        for variable, value in zip((*self._means, self._weight), (*means, weight), strict=True):
            variable.assign(value)
        calls.assign_add(1)
        ops.cond(calls % self.steps == 0, lambda: self._update(grads), lambda: None)

    def _gathered(self, calls, means, weight, grads):
        """The weighted means with these gradients among them, and the sum of the weights."""
        added = ops.maximum(ops.cast(self.call_weight, "float32"), LEAST)
        calls = ops.cast(calls % self.steps, "float32")
        unknown = weight < 0
        scale = ops.where(unknown, 1.0 / ops.maximum(calls, 1.0), 1.0)
        weight = ops.where(unknown, calls * added, weight) + added
        share = added / weight

        def joined(mean, gradient):
            wide = keras.backend.result_type(mean.dtype, "float32")
            before = ops.cast(scale, wide) * ops.cast(mean, wide)
            gradient = 0.0 if gradient is None else ops.cast(gradient, wide)
            return ops.cast(before + ops.cast(share, wide) * (gradient - before), mean.dtype)

        return [joined(m, g) for m, g in zip(means, grads, strict=True)], weight

    def _in_order(self, grads, variables):
        """The gradients of all variables of `build`, in that order; None where there is none."""
        known = keras_internals.optimized_variables(self)
        if variables is None:
            if len(grads) != len(known):
                raise ValueError(
                    "There must be a gradient for each variable. Received: "
                    f"{len(grads)} gradients, {len(known)} variables."
                )
            return list(grads)
        keras_internals.check_variables(self, variables)
        ordered = [None] * len(known)
        for gradient, variable in zip(grads, variables, strict=True):
            ordered[keras_internals.variable_index(self, variable)] = gradient
        return ordered

    def _update(self, grads):
        trained = zip(keras_internals.optimized_variables(self), self._means, grads, strict=True)
        pairs = [(v, ops.convert_to_tensor(m)) for v, m, g in trained if g is not None]
        self.inner_optimizer.apply([mean for _, mean in pairs], [variable for variable, _ in pairs])
        for variable in (*self._means, self._weight):
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    def _apply_stateless(self, grads):
        """JAX has no conditional assignment: the values go in and come out."""
        weights = keras_internals.optimized_variables(self)
        values = self.stateless_apply(self.variables, grads, weights)
        for variables, new in zip((weights, self.variables), values, strict=True):
            for variable, value in zip(variables, new, strict=True):
                variable.assign(value)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        """The new values of the trainable variables and of the optimizer's."""
        if not self.built:
            raise ValueError("`stateless_apply` needs a built optimizer: call `build` first.")
        optimizer_values = [ops.convert_to_tensor(v) for v in optimizer_variables]
        values = [ops.convert_to_tensor(v) for v in trainable_variables]
        own = len(keras_internals.own_optimizer_variables(self))
        (calls, *means, weight), inner = optimizer_values[:own], optimizer_values[own:]
        means, weight = self._gathered(calls, means, weight, grads)

        def updated():
            given = [None if g is None else m for m, g in zip(means, grads, strict=True)]
            new, new_inner = self.inner_optimizer.stateless_apply(inner, given, values)
            zeros = [ops.zeros_like(value) for value in (*means, weight)]
            return list(new), list(new_inner), zeros

        calls = calls + 1
        values, inner, gathered = ops.cond(
            calls % self.steps == 0, updated, lambda: (values, inner, [*means, weight])
        )
        return values, [calls, *gathered, *inner]

    @property
    def optimizers(self):
        """The inner optimizer: within a loss scale Keras's `SwapEMAWeights` looks here."""
        return innermost(self.inner_optimizer)

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    learning_rate = attribute_of("inner_optimizer", "learning_rate")

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    @property
    def loss_scale_factor(self):
        return self.inner_optimizer.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, factor):
        # Keras's constructor sets it before there is an inner optimizer.
        if hasattr(self, "inner_optimizer"):
            self.inner_optimizer.loss_scale_factor = factor

    @property
    def use_ema(self):
        # False until built, or Keras's `build` would make averages for the wrapper as well.
        return getattr(self, "built", False) and self.inner_optimizer.use_ema

    @use_ema.setter
    def use_ema(self, value):
        pass  # Keras's constructor sets its default

    @property
    def _model_variables_moving_average(self):
        """The inner optimizer's averages, where `keras.callbacks.SwapEMAWeights` looks for them."""
        return keras_internals.moving_averages(self.inner_optimizer)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)
        if self.use_ema:
            for variable in var_list:  # Keras leaves weight and average in one buffer on JAX
                variable.assign(ops.copy(variable))

    def load_own_variables(self, store):
        super().load_own_variables(with_weights(self, store))

    def set_weights(self, weights):
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": portable(keras.saving.serialize_keras_object(self.inner_optimizer)),
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            saved_value(cls, config, "inner_optimizer", dict), custom_objects=custom_objects
        )
        return cls(**config)

    def __dir__(self):
        # Keras saves what it finds here, and `variables` has the inner optimizer's already.
        return [name for name in super().__dir__() if name != "inner_optimizer"]


def _no_rate():
    """Stands where Keras would keep a variable for a rate of our own."""
    raise AttributeError("The learning rate is the inner optimizer's.")
