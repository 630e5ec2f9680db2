"""Bijections that mix the entries of the last axis: permutations and matrices."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from artifex_keras.arguments import broken_rule, checked, integer, optional, random_seed
from artifex_keras.networks.bijections.base import Bijection, register, same_for_each_row

__all__ = ["InvertibleLinear", "Permutation", "Reverse"]


class _Reordered(Bijection):
    """``z_i = x_{π(i)}`` on the last axis, π fixed by `_order(size)`."""

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        order = np.asarray(self._order(self.event_shape[-1]))
        self._forward_order = order.astype("int32")
        self._inverse_order = np.argsort(order).astype("int32")

    def to_latent(self, x, context=None, training=False):
        return ops.take(x, self._forward_order, axis=-1), same_for_each_row(0.0, x)

    def to_data(self, z, context=None, training=False):
        return ops.take(z, self._inverse_order, axis=-1), same_for_each_row(0.0, z)


def _order_rule(name, value):
    plain = value.tolist() if getattr(value, "ndim", None) == 1 else value
    if not isinstance(plain, list | tuple | range):
        raise broken_rule(name, value, "a list of places")
    places = [integer(name, place) for place in plain]
    if not places or sorted(places) != list(range(len(places))):
        raise broken_rule(name, value, f"each of 0..{len(places) - 1} once")
    return places


@register
@checked(order=optional(_order_rule), seed=random_seed)
class Permutation(_Reordered):
    """The entries of the last axis in another order, which stays.

    Args:
        order: z[..., i] is x[..., order[i]]. None draws an order from `seed`.
        seed: of that draw; None takes one from Python's random numbers, which is saved.

    Raises:
        ValueError: for an `order` that isn't a permutation of 0..n-1; on building, for an axis of
            another length.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Permutation

    z, _ = Permutation([2, 0, 1]).forward_and_log_det(np.array([[1.0, 2.0, 3.0]]))
    print(z)  # [[3, 1, 2]]
    ```
    """

    def __init__(self, order: Sequence[int] | None = None, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.order = order
        self.seed = _seed(seed)

    def _order(self, size):
        if self.order is None:
            return np.random.default_rng(self.seed).permutation(size)
        if len(self.order) != size:
            raise ValueError(
                f"`order` must be as long as the last axis, {size}. Received: an order of "
                f"{len(self.order)}."
            )
        return self.order

    def get_config(self):
        return {**super().get_config(), "order": self.order, "seed": self.seed}


@register
class Reverse(_Reordered):
    """The entries of the last axis in reverse order.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import Reverse

    z, _ = Reverse().forward_and_log_det(np.array([[1.0, 2.0, 3.0]]))
    print(z)  # [[3, 2, 1]]
    ```
    """

    def _order(self, size):
        return np.arange(size)[::-1]


@register
@checked(seed=random_seed)
class InvertibleLinear(Bijection):
    """``z = W x + b`` on the last axis, ``W = P L (U + diag e^s)``: on images a 1×1 convolution.

    P is a fixed permutation drawn from `seed`; L is lower triangular with ones on its diagonal,
    U upper triangular with zeros there; L, U, s and b are learned from W = P and b = 0. The
    log-determinant is ``Σ s`` for each position. 1807.03039 section 3.2.

    Example:

    ```python
    import numpy as np
    from artifex_keras.networks import InvertibleLinear

    z, log_det = InvertibleLinear(seed=0).forward_and_log_det(np.ones((4, 6), "float32"))
    print(log_det)  # zeros: it starts as a permutation
    ```
    """

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = _seed(seed)

    def build(self, inputs_shape, context_shape=None):
        super().build(inputs_shape, context_shape)
        size = self.event_shape[-1]
        self._order = np.random.default_rng(self.seed).permutation(size).astype("int32")
        self._inverse_order = np.argsort(self._order).astype("int32")
        self.lower, self.upper, self.log_scale, self.bias = (
            self.add_weight(
                name=name, shape=shape, initializer="zeros", dtype="float32", autocast=False
            )
            for name, shape in (
                ("lower", (size, size)),
                ("upper", (size, size)),
                ("log_scale", (size,)),
                ("bias", (size,)),
            )
        )

    def _factors(self):
        size = self.event_shape[-1]
        below = ops.tril(ops.ones((size, size), "float32"), -1)
        lower = self.lower * below + ops.eye(size, dtype="float32")
        return lower, self.upper * ops.transpose(below) + ops.diag(ops.exp(self.log_scale))

    def _log_det(self, x):
        positions = int(np.prod(self.event_shape[:-1], dtype=int))
        return same_for_each_row(float(positions) * ops.sum(self.log_scale), x)

    def to_latent(self, x, context=None, training=False):
        lower, upper = self._factors()
        mixed = ops.matmul(x, ops.transpose(ops.matmul(lower, upper)))
        return ops.take(mixed, self._order, axis=-1) + self.bias, self._log_det(x)

    def to_data(self, z, context=None, training=False):
        lower, upper = self._factors()
        columns = ops.take(z - self.bias, self._inverse_order, axis=-1)
        columns = ops.transpose(ops.reshape(columns, (-1, self.event_shape[-1])))
        solved = ops.solve_triangular(lower, columns, lower=True)
        solved = ops.transpose(ops.solve_triangular(upper, solved))
        return ops.reshape(solved, (-1, *self.event_shape)), -self._log_det(z)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def _seed(seed):
    return random.randint(1, 10**9) if seed is None else int(seed)
