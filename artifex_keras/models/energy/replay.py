"""Chains that persist from one training step to the next."""

import keras
import numpy as np
from keras import ops

__all__ = ["ReplayBuffer"]


class ReplayBuffer(keras.layers.Layer):
    """The states of N chains, (N, ...), as weights that no optimizer touches.

    So they are saved with the model, carried through compiled steps and resumed. At first they
    are uniform between `limits`, or standard normal without limits. Where there is a condition,
    each chain keeps its own, from the moment it begins with a batch's.

    Args:
        size: N.
        limits: None, or `(low, high)`.
        seed: of the first states.
    """

    def __init__(self, size, limits=None, seed=0, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.size = size
        self.limits = limits
        self.seed = seed
        self.conditions = None

    def build(self, shape, condition=None):
        """Makes the states, each of `shape`; `condition` is the spec of a batch's, or None."""
        fixed = {"trainable": False, "autocast": False}
        self.chains = self.add_weight(
            name="chains",
            shape=(self.size, *shape),
            dtype="float32",
            initializer=self._first_states(self.seed),
            **fixed,
        )
        if condition is not None:
            self.conditions = self.add_weight(
                name="conditions",
                shape=(self.size, *condition.shape[1:]),
                dtype=condition.dtype,
                initializer="zeros",
                **fixed,
            )
            self.started = self.add_weight(
                name="begun", shape=(self.size,), dtype="int32", initializer="zeros", **fixed
            )
        self.built = True

    def _first_states(self, seed):
        """An initializer, of the same numbers on each backend."""

        def sampled(shape, dtype="float32"):
            random = np.random.default_rng(seed)
            limits = self.limits
            states = (
                random.standard_normal(shape) if limits is None else random.uniform(*limits, shape)
            )
            return ops.convert_to_tensor(states.astype("float32"), dtype=dtype)

        return sampled

    def restart(self, seed):
        """Puts all chains back to first states, sampled anew from `seed`."""
        self.chains.assign(self._first_states(seed)(self.chains.shape, dtype="float32"))
        if self.conditions is not None:
            self.started.assign(ops.zeros_like(self.started))

    def places(self, shift, draws):
        """(B,) different places, each of all N with the same probability.

        `shift` () and `draws` (B,) are uniform on [0, 1): one draw in each of B stretches of
        N // B places, which start together at a random place. B is at most N.
        """
        rows = ops.shape(draws)[0]
        stretch = self.size // rows
        start = ops.cast(ops.floor(shift * self.size), "int32")
        within = ops.cast(ops.floor(draws * ops.cast(stretch, "float32")), "int32")
        return (start + ops.arange(rows, dtype="int32") * stretch + within) % self.size

    def at(self, places):
        """`(states, conditions, started)` at the places; the last two None without a condition."""
        states = ops.take(self.chains, places, axis=0)
        if self.conditions is None:
            return states, None, None
        started = ops.take(self.started, places, axis=0) > 0
        return states, ops.take(self.conditions, places, axis=0), started

    def write(self, places, states, conditions=None):
        """Puts the states of chains, and their conditions, back to their places."""
        rows = ops.expand_dims(places, -1)
        self.chains.assign(ops.scatter_update(self.chains, rows, states))
        if self.conditions is not None:
            conditions = ops.cast(conditions, self.conditions.dtype)
            self.conditions.assign(ops.scatter_update(self.conditions, rows, conditions))
            self.started.assign(ops.scatter_update(self.started, rows, ops.ones_like(places)))

    def chosen(self, draws, labels=None):
        """States of random chains, (n, ...), for `draws` (n, N) uniform on [0, 1).

        With integer `labels` (n,) each comes from the chains of that label, if there are any.
        """
        if labels is not None and self.conditions is not None and len(labels.shape) == 1:
            same = ops.equal(labels[:, None], self.conditions[None])
            draws = draws + ops.cast(same & (self.started > 0)[None], "float32")
        return ops.take(self.chains, ops.argmax(draws, axis=1), axis=0)
