"""What a compiled step has taken in for good: settings of optimizers, and which weights train.

A step is given weights, numbers of its optimizers and live options at each call. What else it read
while it was traced it keeps. So this is looked at again before each epoch and each single step:
where it has changed, the step is compiled anew.
"""

import keras

from artifex_keras.backend import keras_internals

__all__ = ["Traced", "optimizers_in"]

PLAIN = (bool, int, float, str, type(None))
NOT_READ = {"built", "name", "call_weight"}  # by a step
UNSET = object()


def optimizers_in(optimizer):
    """An optimizer and those inside it: parts of a group, and what a wrapper wraps."""
    yield optimizer
    inner = getattr(optimizer, "inner_optimizer", None)
    for part in [*getattr(optimizer, "parts", {}).values(), *([] if inner is None else [inner])]:
        yield from optimizers_in(part)


def _settings(optimizer):
    """What a step keeps of an optimizer: its plain values, and what makes its rate.

    A rate that is a number is a variable, whose value each call is given.
    """
    public = {
        name: value
        for name, value in vars(optimizer).items()
        if name[0] != "_" and name not in NOT_READ and isinstance(value, PLAIN)
    }
    rate = keras_internals.given_learning_rate(optimizer)
    return public | {"learning_rate": None if isinstance(rate, keras.Variable) else rate}


class Traced:
    """The part of a model that compiles its step anew where that has become another one."""

    _traced_with = UNSET  # kept past Keras, which would count optimizers' variables as the model's

    def make_train_function(self, force=False):
        now = self._to_trace()
        other = self._traced_with is not UNSET and not _same(now, self._traced_with)
        object.__setattr__(self, "_traced_with", now)
        return super().make_train_function(force=force or other)

    def follow_changes(self):
        """Compiles the step anew if callbacks have changed what it has taken in for good."""
        if not _same(self._to_trace(), self._traced_with):
            self.make_train_function()

    def _to_trace(self):
        optimizers = [] if self.optimizer is None else list(optimizers_in(self.optimizer))
        trained = [id(variable) for variable in self.trainable_variables]
        return optimizers, list(map(_settings, optimizers)), trained


def _same(now, before):
    optimizers, settings, trained = now
    return (
        trained == before[2]
        and len(optimizers) == len(before[0])
        and all(a is b for a, b in zip(optimizers, before[0], strict=True))
        and all(_same_settings(a, b) for a, b in zip(settings, before[1], strict=True))
    )


def _same_settings(now, before):
    """Schedules and functions by identity, the rest by value."""
    return now.keys() == before.keys() and all(
        now[name] is value or (isinstance(value, PLAIN) and now[name] == value)
        for name, value in before.items()
    )
