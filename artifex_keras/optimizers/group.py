"""Several optimizers that Keras sees as one."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import checked
from artifex_keras.backend import keras_internals
from artifex_keras.gradient_accumulation import innermost, portable, with_weights
from artifex_keras.optimizers.base import averages, own_buffers
from artifex_keras.optimizers.rules import RULES
from artifex_keras.trust import saved_value

__all__ = ["OptimizerGroup"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(name=RULES["name"])
class OptimizerGroup(keras.optimizers.Optimizer):
    """Optimizers that own disjoint parts of a model's variables, carried and saved as one.

    Keras's loop knows one optimizer: its variables are the state of a compiled step and what
    `model.save` stores. A group gives it the variables of all parts, in their order. It applies
    nothing itself; a model's step calls `group.parts["critic"]` and the others.

        group = OptimizerGroup({"generator": AdamW(1e-4), "critic": AdamW(4e-4)})
        group.build_parts({"generator": generator_variables, "critic": critic_variables})

    `learning_rate` is that of the first part. Setting it multiplies every part's rate by the same
    factor, so that callbacks which lower it keep the ratios. `iterations` is the first part's.

    Args:
        optimizers: dict from name to Keras optimizer; loss scales and accumulations are fine.

    Raises:
        ValueError: for an empty dict, a value that is no optimizer, and one given twice.
    """

    def __init__(self, optimizers: Mapping[str, Any], name: str | None = None):
        _check(optimizers)
        super().__init__(learning_rate=_no_rate, name=name)
        # A view: optimizers that Keras finds in attributes, dicts or lists are saved once more.
        self._parts = MappingProxyType(dict(optimizers))

    @property
    def parts(self):
        """The optimizers by name."""
        return self._parts

    @property
    def optimizers(self):
        """The optimizers that update, inside loss scales and accumulations: Keras's
        `SwapEMAWeights` looks here for averages. An iterator, as Keras would save a list again."""
        return (inner for part in self.parts.values() for inner in innermost(part))

    def build_parts(self, variables):
        """Builds each part on its variables, given as a dict with the names of the parts.

        Raises:
            ValueError: for other names, and for a variable that two parts would own.
        """
        if self.built:
            return
        if set(variables) != set(self.parts):
            raise ValueError(
                f"`variables` must name the parts {list(self.parts)}. Received: {list(variables)}."
            )
        owned = [variable for name in self.parts for variable in variables[name]]
        if len({id(variable) for variable in owned}) < len(owned):
            raise ValueError("A variable must belong to one part. Received: one in two parts.")
        for name, part in self.parts.items():
            part.build(list(variables[name]))
        super().build(owned)

    def build(self, variables):
        if not self.built:
            raise ValueError(
                "A group doesn't know which variables belong to which part: call "
                f"`build_parts({{{', '.join(f'{name!r}: [...]' for name in self.parts)}}})`."
            )

    @property
    def variables(self):
        """A counter that Keras's class has, then the variables of each part."""
        inside = [v for part in self.parts.values() for v in part.variables]
        return keras_internals.own_optimizer_variables(self) + inside

    @property
    def iterations(self):
        return _first(self).iterations

    @property
    def learning_rate(self):
        return _first(self).learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        rates = [_number(part.learning_rate) for part in self.parts.values()]
        if rates[0] == 0.0:
            raise ValueError("The first part's rate is 0: no factor makes another one of it.")
        factor = _number(learning_rate) / rates[0]
        for part, rate in zip(self.parts.values(), rates, strict=True):
            part.learning_rate = rate * factor

    def apply(self, grads, trainable_variables=None):
        raise NotImplementedError(
            "A group applies nothing itself: the model's step applies the optimizers in `parts`."
        )

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        self.apply(grads)

    def finalize_variable_values(self, var_list):
        for part in self.parts.values():
            weights = keras_internals.optimized_variables(part)
            part.finalize_variable_values(weights)
            if averages(part):
                own_buffers(weights)

    def load_own_variables(self, store):
        super().load_own_variables(with_weights(self, store))

    def set_weights(self, weights):
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def get_config(self):
        parts = {
            name: portable(keras.saving.serialize_keras_object(part))
            for name, part in self.parts.items()
        }
        return {"name": self.name, "optimizers": parts}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            name: keras.saving.deserialize_keras_object(part, custom_objects=custom_objects)
            for name, part in saved_value(cls, config, "optimizers", dict).items()
        }
        return cls(parts, name=config.get("name"))


def _first(group):
    return next(iter(group.parts.values()))


def _check(optimizers):
    if not isinstance(optimizers, dict) or not optimizers:
        raise ValueError(
            "`optimizers` must be a dict from names to Keras optimizers. "
            f"Received: optimizers={optimizers!r}."
        )
    for name, part in optimizers.items():
        if not isinstance(part, keras.optimizers.Optimizer):
            raise ValueError(f"{name!r} must be a Keras optimizer. Received: {part!r}.")
    if len({id(part) for part in optimizers.values()}) < len(optimizers):
        raise ValueError("Each part needs an optimizer of its own. Received: one given twice.")


def _number(learning_rate):
    return float(ops.convert_to_numpy(learning_rate))


def _no_rate():
    """Stands where Keras would keep a variable for a rate of our own."""
    raise AttributeError("The learning rates are those of the parts.")
