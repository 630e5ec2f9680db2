"""The exponential moving average of a model's weights, as weights of the model."""

import contextlib
from types import MappingProxyType

import keras
from keras import ops

from artifex_keras.backend import ReadThroughScope, assign_all, keras_internals


class WeightAverage:
    """The part of a model that averages its floating weights, normalisation statistics included.

    Update number n (from 0) uses the decay min(`self.ema_decay`, (1 + n)/(10 + n)).
    """

    # A view: Keras would count what it finds in a list among the model's own variables, frozen ones
    # after the others, and with them would go the order in files and optimizers.
    _average_of = MappingProxyType({})

    @property
    def _averaged(self):
        """The weights of which there are averages, in the order of `_average`."""
        return list(self._average_of.values())

    @property
    def averages(self):
        """Pairs of a weight and its average, a list."""
        return list(zip(self._averaged, self._average, strict=True))

    @property
    def averaged_parts(self):
        """The networks whose weights are averaged.

        Keras walks a model's attributes by name, this one first: weight files hold the networks
        under `averaged_parts/`, so the name stays.
        """
        return [getattr(self, name) for name in self.submodels]

    def build_average(self):
        """Creates the average as a copy of the floating weights, with their layouts.

        Called again, it adds averages of weights that there were none of.
        """
        if self.ema_decay is None:
            return
        weights = {id(w): w for part in self.averaged_parts for w in part.weights}
        weights = {key: w for key, w in weights.items() if _is_floating(w)}
        if self._average and weights.keys() == self._average_of.keys():
            return
        before = dict(zip(self._average_of, self._average, strict=True))
        self._average_of = MappingProxyType(weights)
        self._average = [
            before[key] if key in before else _average_of(w) for key, w in weights.items()
        ]
        if before:
            self._put_in_order(before)
            return
        self.average_updates = self.add_weight(
            name="average_updates", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def _put_in_order(self, before):
        """Puts the averages where a model made with all of them has them, as files go by order."""
        for average in before.values():
            if not any(average is kept for kept in self._average):
                keras_internals.untrack(self, average)
        own = keras_internals.own_non_trainable_variables(self)
        ids = {id(average) for average in (*before.values(), *self._average)}
        begin = next(index for index, variable in enumerate(own) if id(variable) in ids)
        others = [variable for variable in own if id(variable) not in ids]
        own[:] = [*others[:begin], *self._average, *others[begin:]]

    def _begin_average(self):
        """Before the first update the average is the weights, loaded ones too."""
        started = ops.greater(self.average_updates, 0)
        for average, weight in zip(self._average, self._averaged, strict=True):
            average.assign(ops.where(started, average.value, weight.value))

    def _move_average(self, happened):
        """Moves the average by one update, if the optimizer really made one.

        Accumulated micro-steps and steps skipped for an overflow are none.
        """
        n = ops.cast(self.average_updates, "float32")
        decay = ops.minimum(self.ema_decay, (1.0 + n) / (10.0 + n))
        share = ops.where(happened, 1.0 - decay, 0.0)
        for average, weight in zip(self._average, self._averaged, strict=True):
            average.assign(average + ops.cast(share, average.dtype) * (weight - average))
        self.average_updates.assign_add(ops.cast(happened, "int32"))

    def load_ema_weights(self):
        """Puts the average in the place of the weights, and begins a new one.

        What the model draws and predicts stays the same; what trains it now by other means than
        its own `fit`, which doesn't move the average, is then seen in it.
        """
        if self._average and int(ops.convert_to_numpy(self.average_updates)) > 0:
            for average, weight in zip(self._average, self._averaged, strict=True):
                weight.assign(ops.copy(average.value))
            self.average_updates.assign(0)

    @contextlib.contextmanager
    def ema_weights(self):
        """Inside, the networks use the average of their weights, once it has started."""
        if not self._average:
            yield
            return
        started = ops.greater(self.average_updates, 0)
        averages = [
            ops.where(started, average.value, weight.value)
            for average, weight in zip(self._average, self._averaged, strict=True)
        ]
        with ReadThroughScope(zip(self._averaged, averages, strict=True)) as scope:
            yield
            assigned, values = scope.updates(excluding=self._averaged)
        assign_all(assigned, values)


def without_averaged(model, variables, store):
    """What a model's own variables were saved as, in a file of an earlier version too.

    There the averaged weights stand among them: those that train after the others that do, the rest
    before their averages.

    Args:
        variables: the model's own, in two lists: those that train, and the others.
        store: a dict from "0", "1", ... to arrays.
    """
    trainable, fixed = variables
    averaged = model._averaged
    if not averaged or len(store) != len(trainable) + len(fixed) + len(averaged):
        return store
    begin = [id(v) for v in fixed].index(id(model._average[0]))
    old = [*trainable, *(w for w in averaged if w.trainable), *fixed[:begin]]
    old += [*(w for w in averaged if not w.trainable), *fixed[begin:]]
    known = {id(w) for w in averaged}
    kept = [store[str(i)] for i, v in enumerate(old) if id(v) not in known]
    return {str(i): value for i, value in enumerate(kept)}


def _average_of(weight):
    return keras.Variable(
        ops.copy(weight.value),
        dtype=weight.dtype,
        trainable=False,
        autocast=False,
        layout=keras_internals.layout_of(weight),
        name=f"average_{weight.path.replace('/', '_')}",
    )


def _is_floating(variable):
    return "float" in keras.backend.standardize_dtype(variable.dtype)
