"""What usually helps where a loss is no number: for a family, its data and its optimizer."""

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import keras_internals

__all__ = ["Scale", "rate_of", "remedies", "scale_of", "single_optimizers"]

LARGE = 10.0  # deviation, beyond which networks as they are made give values far from 1
ROWS = 256  # looked at


class Scale:
    """Where the first rows of the data lie.

    Attributes:
        low, high: the least and the greatest finite value.
        deviation: the standard deviation.
        finite: whether all values are.
        is_image: whether a row has the shape (height, width, channels).
    """

    def __init__(self, values):
        self.is_image = np.ndim(values) == 4
        values = np.asarray(values, "float64")
        finite = np.isfinite(values)
        self.finite = bool(finite.all())
        values = values[finite] if finite.any() else np.zeros(1)
        self.low, self.high = float(values.min()), float(values.max())
        self.deviation = float(values.std())

    @property
    def is_large(self):
        return self.deviation > LARGE

    @property
    def cure(self):
        """How to bring them near to 1."""
        if 0 <= self.low and 1 < self.high <= 255:
            return "divide them by 255: x.astype('float32') / 255"
        return "take off each column's mean and divide by its deviation: (x - mean) / deviation"

    def __str__(self):
        return f"values from {self.low:g} to {self.high:g}, deviation {self.deviation:.3g}"


def scale_of(model, data, sources=True):
    """The `Scale` of the data that `fit` was given; None where they have none, or can't be read.

    `sources`: whether to open what gives batches too, which may move its own random state.
    """
    if not model.data_have_scale:
        return None
    x = _first_rows(data, sources)
    if not (isinstance(x, np.ndarray) or ops.is_tensor(x)) or len(x.shape) < 2 or not len(x):
        return None
    values = ops.convert_to_numpy(x[:ROWS])
    return Scale(values) if values.dtype.kind in "fiu" or "float" in str(values.dtype) else None


def _first_rows(data, sources):
    """Inputs from arrays, or from a source that gives its first batch twice."""
    data = getattr(data, "arrays", data)  # batches of a trainer
    if sources and isinstance(data, keras.utils.PyDataset):
        data = data[0]
    elif sources and hasattr(data, "element_spec"):  # tf.data
        data = next(iter(data), None)
    return data[0] if isinstance(data, tuple | list) and data else data


def single_optimizers(optimizer):
    """The optimizers inside groups, scales and accumulations, that have rates of their own."""
    parts = [*getattr(optimizer, "parts", {}).values(), getattr(optimizer, "inner_optimizer", None)]
    parts = [part for part in parts if part is not None]
    if not parts:
        yield optimizer
    for part in parts:
        yield from single_optimizers(part)


def rate_of(optimizer):
    """The learning rate of the next update; None where it isn't known."""
    try:
        rate = optimizer.learning_rate
        return float(ops.convert_to_numpy(getattr(rate, "value", rate)))
    except (AttributeError, NotImplementedError, TypeError, ValueError):
        return None  # of optax, say, whose rate is inside


def remedies(model, data):
    """What usually helps, a list of texts, the likeliest first."""
    return [
        *_of_data(scale_of(model, data)),
        *_of_optimizer(model.optimizer),
        *_of_precision(model),
        *model.remedies,
    ]


def _of_data(scale):
    if scale is None:
        return
    if not scale.finite:
        yield "data without NaN and infinity, which the first rows hold"
    if scale.is_large:
        yield f"scaled data: these have {scale}; {scale.cure}"


def _of_optimizer(optimizer):
    parts = list(single_optimizers(optimizer))
    rates = [rate for rate in map(rate_of, parts) if rate is not None]
    yield "a smaller learning rate" + (f" (now {max(rates):g})" if rates else "")
    clips = ("clipnorm", "global_clipnorm", "clipvalue")
    if not all(any(getattr(part, clip, None) for clip in clips) for part in parts):
        yield (
            "clipped gradients (`global_clipnorm=1.0` of the optimizer, `gradient_clip_norm` of a "
            "config)"
        )


def _of_precision(model):
    computed = {layer.compute_dtype for layer in keras_internals.all_layers(model)}
    if "float16" in computed:
        yield "bfloat16 or float32 in place of float16, which ends at 65,504"
    elif "bfloat16" in computed:
        yield "float32 in place of bfloat16, which keeps three digits"
