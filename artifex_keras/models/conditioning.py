"""Networks of `[x_t, t]` or `[x_t, t, condition]`: calling them, with guidance where it is asked.

What diffusion and flow matching share: the condition that is sometimes left out in training, the
learned null in its place, and the prediction guided away from it (2207.12598).
"""

import keras
from keras import ops

from artifex_keras.arguments import integer, number
from artifex_keras.backend import keras_internals
from artifex_keras.models import checks, data_contract
from artifex_keras.models.batch import as_tensor
from artifex_keras.samplers.diffusion import guidance


class LearnedNull(keras.layers.Layer):
    """A weight of the shape of one condition, what the network sees where there is none."""

    def build(self, shape):
        self.value = self.add_weight(name="value", shape=shape, initializer="zeros")
        self.built = True


class Conditioning:
    """The part of a model that calls `self.network` at a time, with a condition or without.

    A condition is a label, an integer (B,), or an array of floats (B, ...). With probability
    `condition_dropout` training replaces an example's condition by a learned null: for labels the
    last row of the network's `Embedding`, for floats a weight of the model. With it,
    `guidance_scale` w in sampling means ``u + w (c - u)``, c the conditional and u the null's
    prediction.

    The family calls `make_conditioning` in its constructor, `build_conditioning` in `build`, and
    has `condition_dropout` and `null_label` among its `options`.
    """

    def make_conditioning(self, network, condition_dropout, null_label):
        self.network = checks.network("network", network)
        self.condition_dropout = condition_dropout
        self.null_label = None if null_label is None else integer("null_label", null_label)
        self.null = None
        self.condition_spec = None
        inputs = network_inputs(network)
        if inputs is not None and len(inputs) not in (2, 3):
            raise ValueError(
                "`network` must take one list, [x_t, t] or [x_t, t, condition]. Received: a "
                f"network with {len(inputs)} input{'s' * (len(inputs) != 1)}."
            )

    @property
    def averaged_parts(self):
        return [self.network] if self.null is None else [self.network, self.null]

    @property
    def conditional(self):
        """Whether the network takes a condition; known once the model is built."""
        return self.condition_spec is not None

    def build_conditioning(self, input_shape, condition=None, time_dtype="float32"):
        """Builds the network for data of `input_shape`; `condition` is a spec, or None.

        Raises:
            ValueError: if the network's output has another shape than the data, or if it takes a
                condition and there is none.
        """
        inputs = network_inputs(self.network)
        if inputs is not None:
            condition = _agreed(inputs, condition)
        self.data_shape = tuple(input_shape[1:])
        self.condition_spec = condition
        made = self._output_shape(inputs, time_dtype)
        checks.same_event_shape("network", made, (None, *self.data_shape))
        if condition is not None and not _is_integer(condition):
            self.null = LearnedNull(name="null")
            self.null.build(tuple(condition.shape[1:]))

    def _output_shape(self, inputs, time_dtype):
        if inputs is not None:
            expected = tuple(inputs[0].shape[1:])
            for size, known in zip(self.data_shape, expected, strict=False):
                if known not in (None, size) or len(expected) != len(self.data_shape):
                    raise ValueError(
                        f"The network is for data of shape {expected}. Received: data of shape "
                        f"{self.data_shape}."
                    )
        x = keras.KerasTensor((None, *self.data_shape), "float32")
        t = keras.KerasTensor((None,), time_dtype)
        extra = [] if self.condition_spec is None else [self.condition_spec]
        return self.network([x, t, *extra]).shape

    # What is given

    def _data(self, x):
        """`x` in float32, if it has the shape of the data."""
        data_contract.check(data_contract.FINITE, x)
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        checks.data_shape(x, self.data_shape)
        return x

    # What is refused

    def check_condition(self, condition):
        """Raises a ValueError unless the network takes such a `condition`, an array or None.

        The values are checked where they are known; nothing is before the model is built.
        """
        if not self.built:
            return
        hint = "Let the network take [x_t, t, condition]."
        checks.condition(type(self).__name__, condition, self.condition_spec, hint)
        if condition is not None:
            self._check_condition_values(condition)

    def _check_condition_values(self, condition):
        checks.condition_shape(condition, self.condition_spec, integral=True)
        data_contract.check(self.condition_values(), condition)

    def condition_values(self):
        """What values a condition may have."""
        if not self.conditional or not _is_integer(self.condition_spec):
            return data_contract.FINITE
        null = self.null_row if self.uses("condition_dropout") else None
        return data_contract.labels(label_rows(self.network), null)

    def data_contract(self):
        condition = self.condition_values()
        finite = data_contract.FINITE
        return data_contract.Contract(y=condition, inputs=(finite, finite, condition))

    @property
    def null_row(self):
        """The label that stands for none, or None where it can't be found."""
        if self.null_label is not None:
            return self.null_label
        rows = label_rows(self.network)
        return None if rows is None else rows - 1

    # Training

    def conditioned(self, condition, training):
        """A batch's condition as the network takes it: in training, replaced by the null here and
        there, with a probability of `condition_dropout` for each example."""
        if condition is None or not self.conditional:
            return None
        if not _is_integer(self.condition_spec):
            condition = ops.cast(condition, "float32")
        if not training or not self.uses("condition_dropout"):
            return condition
        rows = ops.shape(condition)[0]
        dropped = self.uniform((rows,)) < self.condition_dropout
        dropped = ops.reshape(dropped, (-1,) + (1,) * (len(condition.shape) - 1))
        return ops.where(dropped, self.null_condition(condition), condition)

    def null_condition(self, like):
        """The null in each row, of the shape and dtype of `like`."""
        if self.null is not None:
            null = ops.cast(ops.convert_to_tensor(self.null.value), like.dtype)
            return ops.broadcast_to(null, ops.shape(like))
        if self.null_row is None:
            raise ValueError(
                "There is no telling which label means none: the network's labels don't go "
                "straight into an Embedding. Give `null_label`, or set condition_dropout=0."
            )
        return ops.full_like(like, self.null_row)

    # Predicting

    def predicted(self, x_t, t, condition=None, training=False):
        """The network's answer in float32, of the shape of `x_t`; t is (B,)."""
        inputs = [x_t, t] if condition is None else [x_t, t, condition]
        return ops.cast(self.network(inputs, training=training), "float32")

    def guided(self, x_t, t, condition=None, scale=None, *, rescale=0.0):
        """``u + w (c - u)`` for w = `scale`, both in one call; with `scale` None, c alone."""
        if condition is None or scale is None:
            return self.predicted(x_t, t, condition)
        doubled = [
            ops.concatenate([first, second])
            for first, second in ((x_t, x_t), (t, t), (self.null_condition(condition), condition))
        ]
        unconditional, conditional = ops.split(self.predicted(*doubled), 2)
        return guidance(unconditional, conditional, scale, rescale=rescale)

    def timed_signature(self, dtype):
        """`[x_t, t]` or `[x_t, t, condition]`, with times of this dtype."""
        t, condition = keras.InputSpec(shape=(None,), dtype=dtype, name="t"), self.given_spec()
        return [self.data_spec(), t, *([] if condition is None else [condition])]

    def guiding(self, n, condition, guidance_scale):
        """`(condition, scale)` for `n` samples, as `guided` takes them.

        `condition` is one or `n` of them; none is needed where `guidance_scale` is 0. A scale of 1
        becomes None: there the null has no part.

        Raises:
            ValueError: for a condition that is missing or doesn't fit, and for guidance by a null
                that no training has seen.
        """
        scale = self.checked_scale(guidance_scale)
        if self.conditional and condition is None and scale == 0:
            spec = self.condition_spec
            condition = ops.zeros((n, *spec.shape[1:]), spec.dtype)  # counts for nothing
        condition = self.repeated_condition(condition, n)
        self.check_condition(condition)
        return condition, None if scale == 1 else ops.convert_to_tensor(scale, dtype="float32")

    def checked_scale(self, guidance_scale):
        """`guidance_scale` as a float, if this model can guide by it."""
        scale = number("guidance_scale", guidance_scale, minimum=-1e6, maximum=1e6)
        if not self.conditional and scale != 1:
            raise ValueError(
                "Guidance needs a condition: let the network take [x_t, t, condition]. "
                f"Received: guidance_scale={scale}."
            )
        if scale != 1 and not self.condition_dropout:
            raise ValueError(
                "Guidance needs a learned null, which training with condition_dropout above 0 "
                f"gives. Received: guidance_scale={scale}, condition_dropout=0."
            )
        return scale

    def repeated_condition(self, condition, n):
        """`n` conditions, as `repeated` gives them."""
        data_contract.check(self.condition_values(), condition)
        return repeated(condition, n, self.condition_spec)


def repeated(condition, n, spec):
    """`n` conditions, as a tensor of the network's dtype, from one or from `n`; None as it is.

    One is an example's, without an axis for the batch. `spec` is what the network takes, None for
    nothing.
    """
    if condition is None:
        return None
    condition = as_tensor(condition)
    if spec is None:
        return condition
    if not _is_integer(spec):
        condition = ops.cast(condition, spec.dtype)
    shape = tuple(spec.shape[1:])
    if tuple(condition.shape) == shape:
        return ops.broadcast_to(condition, (n, *shape))
    if len(condition.shape) and condition.shape[0] != n:
        raise ValueError(
            "`condition` must be one of them or as many as there are examples. "
            f"Received: a condition of shape {tuple(condition.shape)} for {n} examples."
        )
    return condition


def network_inputs(network):
    """The inputs of a functional network, None where it doesn't say."""
    inputs = getattr(network, "inputs", None)
    return list(inputs) if inputs else None


def condition_input(network):
    """The spec of the third input of a functional network, or None."""
    inputs = network_inputs(network)
    if inputs is None or len(inputs) < 3:
        return None
    return keras.KerasTensor((None, *inputs[2].shape[1:]), inputs[2].dtype)


def label_rows(network, place=2):
    """The rows of the `Embedding` that a functional network's labels, its input number `place`,
    go into; None without one."""
    inputs = network_inputs(network)
    if inputs is None or len(inputs) <= place:
        return None
    for layer in network.layers:
        if isinstance(layer, keras.layers.Embedding) and any(
            _comes_from(tensor, inputs[place]) for tensor in keras_internals.call_inputs(layer)
        ):
            return layer.input_dim
    return None


def label_values(networks, spec):
    """What values the condition of networks of `[x, condition]` may have, by its spec or None."""
    if spec is None or not _is_integer(spec):
        return data_contract.FINITE
    rows = [label_rows(network, place=1) for network in networks]
    return data_contract.labels(min((count for count in rows if count), default=None))


def _comes_from(tensor, entry):
    """Whether `tensor` is `entry`, but for steps that have no weights and no other input."""
    while tensor is not entry:
        operation, before = keras_internals.origin(tensor)
        if len(before) != 1 or getattr(operation, "weights", None):
            return False
        tensor = before[0]
    return True


def _agreed(inputs, condition):
    """What the network takes for a condition, if that is what it is given."""
    if len(inputs) == 2:
        if condition is not None:
            raise ValueError(
                "This network takes [x_t, t], no condition. Received: a condition of shape "
                f"{tuple(condition.shape[1:])}. Let the network take [x_t, t, condition]."
            )
        return None
    return keras.KerasTensor((None, *inputs[2].shape[1:]), inputs[2].dtype)


def _is_integer(spec):
    return "int" in keras.backend.standardize_dtype(spec.dtype)
