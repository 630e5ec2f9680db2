"""What a flow takes: data of its shape and levels, and conditions where its bijection has them."""

from keras import ops

from artifex_keras.models import checks, data_contract
from artifex_keras.models.conditioning import repeated
from artifex_keras.networks.bijections import Chain, Logit

__all__ = ["Inputs"]


class Inputs:
    """The part of a `NormalizingFlow` that knows its data and conditions."""

    @property
    def conditional(self):
        """Whether the bijection depends on a condition; known once the model is built."""
        return self.condition_spec is not None

    def check_batch(self, x, y):
        if self.built:
            self._check_event(x)
            self._check_condition(y)

    def data_contract(self):
        data, condition = self._data_values(), self._condition_values()
        return data_contract.Contract(x=data, y=condition, inputs=(data, condition))

    def _data_values(self):
        """What values data may have."""
        if self.dequantize is not None:
            return self._levels()
        if not self._begins_with_logit():
            return data_contract.FINITE
        return data_contract.Values(
            "A bijection that begins with `Logit` needs data in [0, 1].",
            low=0.0,
            high=1.0,
            cure="Scale the data: images of bytes divided by 255.",
        )

    def _levels(self):
        top, unit = self.dequantize - 1, self.unit_interval
        form = f"k/{top} of whole levels k" if unit else "of whole levels"
        return data_contract.Values(
            f"dequantize={self.dequantize} needs data {form}, 0..{top}.",
            low=0,
            high=1 if unit else top,
            integral=True,
            top=top if unit else 1,
            cure=(
                f"Levels 0..{top} themselves need unit_interval=False; "
                if unit
                else "For images in [0, 1] say unit_interval=True; "
            )
            + "for continuous data leave `dequantize` out.",
        )

    def _condition_values(self):
        """What values a condition may have."""
        spec = self.condition_spec
        rows = getattr(getattr(self.bijection, "context_network", None), "input_dim", None)
        if spec is None or (rows is None and "int" not in spec.dtype):
            return data_contract.FINITE
        return data_contract.labels(rows)

    def _begins_with_logit(self):
        first = self.bijection
        while isinstance(first, Chain) and first.bijections:
            first = first.bijections[0]
        return isinstance(first, Logit)

    def _check_event(self, x):
        checks.data_shape(x, self.data_shape)

    def _check_condition(self, condition):
        hint = "Build its bijection with a context, by `context_dim` or `num_classes`."
        checks.condition("NormalizingFlow", condition, self.condition_spec, hint)
        checks.condition_shape(condition, self.condition_spec)

    def _repeated(self, condition, n):
        """`n` conditions as a tensor, from one or from `n`; None without."""
        data_contract.check(self._condition_values(), condition)
        condition = repeated(condition, n, self.condition_spec)
        self._check_condition(condition)
        return condition

    def _given(self, method, x, condition):
        """Data and conditions as tensors, checked."""
        self._check_built(method, x, condition)
        data_contract.check(self._data_values(), x)
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        self._check_event(x)
        return x, self._repeated(condition, x.shape[0])
