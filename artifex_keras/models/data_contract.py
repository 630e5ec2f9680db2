"""What data a family takes, said once, and the one checker that holds it for every row.

A family's `data_contract()` gives a `Contract`. Arrays are looked at before anything runs, all rows
of them; other sources batch by batch, on the host, before a batch gets into a step.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import shown
from artifex_keras.backend.columns import split

__all__ = [
    "FINITE",
    "Contract",
    "Stream",
    "Values",
    "Weighed",
    "check",
    "check_inputs",
    "check_weights",
    "labels",
    "tokens",
]

CHUNK = 1 << 22  # values looked at in one go
INT32 = np.iinfo("int32")


class Values(NamedTuple):
    """What the values of one part of the data may be: a row of a `Contract`.

    Attributes:
        rule: the sentence that is broken by others.
        noun: what one value is.
        low, high: the range, ends included. NaN is in none, infinity in none that ends.
        integral: whether they are whole numbers, or with a `top` whole numbers divided by it.
        top: see `integral`.
        integers_to: the end of the range of data that come as integers, where it is another.
        besides: a value that is allowed outside the range.
        never: a value that isn't allowed inside it.
        cure: what usually helps; `{value}` is the bad value.
        from_one: says so if all values would fit if they were less by one.
    """

    rule: str = "The data must be finite."
    noun: str = "value"
    low: float = -math.inf
    high: float = math.inf
    integral: bool = False
    top: int = 1
    integers_to: int | None = None
    besides: int | None = None
    never: int | None = None
    cure: str = "Remove or replace such rows, e.g. with numpy.nan_to_num."
    from_one: bool = False

    def hold(self, values):
        """Whether all `values`, NumPy's, are allowed: two or three passes over them."""
        if not values.size:
            return True
        if values.dtype.kind == "b":
            values = values.view("uint8")
        low, high = values.min(), values.max()  # NaN if there is one
        inside = bool(self.low <= low) and bool(high <= self._end(values))
        if inside and values.dtype.kind == "f":
            inside = bool(np.isfinite(low)) and bool(np.isfinite(high))
            inside = inside and (not self.integral or self._are_whole(values).all())
        if inside and self.never is not None:
            inside = not (values == self.never).any()
        return inside or bool(self.good(values).all())

    def good(self, values):
        """Which of `values` are allowed."""
        good = (values >= self.low) & (values <= self._end(values))
        if values.dtype.kind == "f":
            good &= np.isfinite(values)
            if self.integral:
                good &= self._are_whole(values)
        if self.never is not None:
            good &= values != self.never
        return good if self.besides is None else good | (values == self.besides)

    def _end(self, values):
        integers = self.integers_to is not None and values.dtype.kind != "f"
        return self.integers_to if integers else self.high

    def _are_whole(self, values):
        if self.top == 1:
            return values == np.rint(values)
        levels, error = values.astype("float32") * self.top, np.finfo(values.dtype).eps / 2
        return np.abs(levels - np.rint(levels)) < max(1e-3, self.top * error)

    def broken(self, values, place):
        """The ValueError for values that `hold` refuses; `place(row)` says where a row is."""
        values = values.view("uint8") if values.dtype.kind == "b" else values
        bad = ~self.good(values)
        row = int(np.argmax(bad.reshape(len(values), -1).any(axis=1)))
        value = values[bad].flat[0].item()
        finite = values[np.isfinite(values)]
        others = f", the others from {finite.min():g} to {finite.max():g}" if finite.size else ""
        if finite.size == values.size:
            others = f", all from {values.min():g} to {values.max():g}"
        return ValueError(
            f"{self.rule} Received: {self.noun} {value:g}, first in {place(row)} ({bad.sum()} such "
            f"of {bad.size}{others}). {self._help(values)}"
        )

    def _help(self, values):
        ends = (self.high + 1, self.never)
        counted = self.from_one and values.min() > self.low and values.max() in ends
        return "Are they counted from 1? Subtract 1." if counted else self.cure


FINITE = Values()
WEIGHTS = Values(
    "Sample weights must be finite and at least 0.",
    "weight",
    low=0.0,
    cure="A weight of 0 leaves a row out.",
)


def labels(count=None, null=None):
    """Labels of `count` classes, None where nothing says how many; `null` stands for no label."""
    if null is not None and (count is None or null < count):
        reserved = (
            f" Label {null} is the learned null, which stands for no label: give the network's "
            "Embedding one more row than there are classes, or set condition_dropout=0."
        )
    else:
        null, reserved = None, ""
    last_is_null = count is not None and null == count - 1
    end = "K" if count is None else count - last_is_null
    return Values(
        f"Labels must lie in [0, {end}).{reserved}",
        "label",
        low=0,
        high=INT32.max if count is None else count - 1,
        integral=True,
        never=null,
        from_one=True,
        cure="Labels are whole numbers from 0: numpy.unique(labels, return_inverse=True)[1] "
        "numbers what you have, and a network's Embedding needs a row for each.",
    )


SAME_SIZE = "A tokenizer and a network must have vocabularies of one size."


def tokens(size, what="Token ids", owner="network", besides=None, cure=SAME_SIZE):
    """Token ids of a vocabulary of `size`, and the label `besides` of what doesn't count."""
    counted = "" if besides is None else f", or {besides} where none counts"
    return Values(
        f"{what} must be in [0, {size}), the {owner}'s vocabulary{counted}.",
        "id",
        low=0,
        high=size - 1,
        integral=True,
        besides=besides,
        from_one=True,
        cure=cure,
    )


class Contract(NamedTuple):
    """What a family takes. What is None isn't looked at.

    Attributes:
        x, y, weight: `Values` of the parts of `fit`'s data.
        inputs: `Values` of each input of `call`, which `predict` gives data to.
        rows: `rows(x)` raises a ValueError for more than values; of batches only.
    """

    x: Values | None = FINITE
    y: Values | None = FINITE
    weight: Values | None = WEIGHTS
    inputs: tuple = (FINITE,)
    rows: Callable | None = None

    def of_inputs(self, x):
        """Pairs of `Values` and what must hold them, of the inputs `x` of `call`."""
        return zip(self.inputs, x if isinstance(x, (list, tuple)) else [x], strict=False)


def known(value):
    """`value` as NumPy's array of numbers; None for what has none, or none yet in a trace."""
    if value is None or isinstance(value, keras.KerasTensor):
        return None
    if not isinstance(value, np.ndarray):
        try:
            if not getattr(value, "is_fully_addressable", True):  # in part in other processes
                return None
            value = np.asarray(ops.convert_to_numpy(value) if ops.is_tensor(value) else value)
        except (TypeError, NotImplementedError):
            return None
    if value.dtype.kind in "fiub":
        return value
    narrow = value.dtype.kind == "V" and value.dtype.names is None  # bfloat16
    return value.astype("float32") if narrow and value.dtype.itemsize <= 2 else None


def check(values, data, place=None):
    """Raises a ValueError unless all of `data`, arrays or tensors, is what `values` allows.

    `place` names it in the message, by default its row.
    """
    if values is None or data is None:
        return
    for leaf in [data] if _is_listed(data) else keras.tree.flatten(data):
        _check_kind(values, leaf)
        if getattr(leaf, "shape", None) and known(leaf[:1]) is None:  # within a trace
            continue
        if not getattr(leaf, "shape", None):  # one number, or rows in a list
            leaf = np.reshape(leaf, (-1, *np.shape(leaf)[1:])) if known(leaf) is not None else ()
        rows = max(CHUNK // max(math.prod(np.shape(leaf)[1:]), 1), 1)
        for start in range(0, len(leaf), rows):
            part = known(leaf[start : start + rows])
            if part is None:
                break
            if not values.hold(part):
                raise values.broken(part, lambda row, start=start: place or f"row {start + row}")


def _check_kind(values, leaf):
    """Raises for texts and other objects, which are no numbers."""
    leaf = leaf if hasattr(leaf, "dtype") or isinstance(leaf, (int, float)) else np.asarray(leaf)
    if getattr(getattr(leaf, "dtype", None), "kind", "") in ("O", "S", "U"):
        raise ValueError(
            f"{values.rule} Received: {shown(leaf.tolist())}, which is no number. {values.cure}"
        )


def _is_listed(data):
    """Whether it is a number, or numbers in a list."""
    return not hasattr(data, "shape") and not isinstance(data, dict)


def check_weights(values, weight):
    """As `check`, for the sample weights of a whole data set: they can't all be 0."""
    check(values, weight)
    weight = known(weight) if values is not None else None
    if weight is not None and weight.size and not weight.any():
        raise _nothing_counts(weight.size)


def _nothing_counts(rows):
    return ValueError(
        f"{WEIGHTS.rule} Received: {rows} weights that are all 0: nothing would count. Leave "
        "`sample_weight` out, or give some rows a weight."
    )


class Weighed:
    """Whether any row of the batches that were read has a weight; kept with Keras's adapter."""

    def __init__(self):
        self.rows, self.counts = 0, False

    @classmethod
    def of(cls, adapter):
        """That of an adapter, made where there is none."""
        return vars(adapter).setdefault("_artifex_keras_weighed", cls())

    def add(self, weight):
        self.rows += weight.size
        self.counts = self.counts or bool(weight.any())

    def check(self):
        """Raises a ValueError if all weights so far were 0."""
        if self.rows and not self.counts:
            raise _nothing_counts(self.rows)


def check_inputs(contract, x):
    """As `check`, for arrays that `predict` is given."""
    for values, part in contract.of_inputs(x):
        check(values, part)


class Stream:
    """One pass over batches, of which each is looked at: `stream(batch)` raises a ValueError.

    Args:
        model: whose contract is held, as soon as it is built.
        predicting: whether they are batches of `predict`, inputs of `call`.
        weighed: a `Weighed` that is given the sample weights.
    """

    def __init__(self, model, predicting=False, weighed=None):
        self._model, self._predicting, self._count = model, predicting, 0
        self._weighed = weighed

    @functools.cached_property
    def _contract(self):
        return self._model.data_contract()

    def __call__(self, batch):
        self._count += 1
        if not self._model.built:
            return
        parts = keras.utils.unpack_x_y_sample_weight if self._model.takes_columns else split
        x, y, weight = parts(batch)
        if self._predicting:
            pairs = self._contract.of_inputs(x)
        else:
            pairs = zip(self._contract, (x, y, weight), strict=False)
        for values, part in pairs:
            for leaf in () if values is None or part is None else keras.tree.flatten(part):
                array = known(leaf)
                if array is not None and not values.hold(array):
                    raise values.broken(array, lambda row: f"row {row} of batch {self._count}")
        if self._weighed is not None and weight is not None and not self._weighed.counts:
            array = known(weight)
            if array is not None:
                self._weighed.add(array)
        if self._contract.rows is not None and not self._predicting:
            self._contract.rows(x)
