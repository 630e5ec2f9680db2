"""Any optax optimizer in Keras, on JAX."""

import functools
import inspect
from typing import Any

import keras
from keras import ops

from artifex_keras import backend
from artifex_keras.arguments import checked, unknown_name
from artifex_keras.backend import keras_internals
from artifex_keras.optimizers.rules import RULES
from artifex_keras.trust import deserialize_callable, deserialize_schedule, plain_value, saved_value
from artifex_keras.utils import optional

__all__ = ["OptaxOptimizer"]

# The names that may be given, and so may stand in a file: functions of optax that make a
# transformation from numbers. Each is looked up in this list and nowhere else.
NAMES = {
    "optax": """
        adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb
        lars lion nadam nadamw noisy_sgd novograd optimistic_adam optimistic_adam_v2
        optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd signum sm3 yogi
        scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad
        scale_by_belief scale_by_learning_rate scale_by_lion scale_by_novograd
        scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms
        scale_by_radam scale_by_rms scale_by_rprop scale_by_rss scale_by_sign scale_by_sm3
        scale_by_stddev scale_by_trust_ratio scale_by_yogi scale trace
    """.split(),
    "optax.contrib": """
        acprop ademamix adopt cocob dadapt_adamw dpsgd galore madgrad muon prodigy
        schedule_free_adamw schedule_free_sgd simplified_ademamix sophia
    """.split(),
}


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(name=RULES["name"])
class OptaxOptimizer(keras.optimizers.Optimizer):
    """An optax `GradientTransformation` as a Keras optimizer.

        OptaxOptimizer("adamw", learning_rate=1e-3, weight_decay=0.01)       # saved with the model
        OptaxOptimizer("contrib.prodigy")
        OptaxOptimizer(my_factory, learning_rate=schedule)                   # saved if registered
        OptaxOptimizer(optax.chain(optax.clip_by_global_norm(1.0), optax.sadam(1e-3)))

    Its state is kept in Keras variables: saved, restored and sharded (what has a parameter's shape
    gets that parameter's layout), and carried through compiled steps. Optax sees the parameters as
    a dict from variable path to array, which is what masks and labels are functions of.

    Clipping, decay and schedules are those of the chain; a Keras schedule serves as an optax one.
    `learning_rate` can be read and set where the state has it (`optax.inject_hyperparams`), which a
    named optimizer with a number for `learning_rate` is given. For gradients of several batches
    wrap this in `GradientAccumulation` rather than `optax.MultiSteps`, which hides the updates from
    what counts them. Transformations that want more than gradients and parameters (the loss, as
    `lbfgs` and `momo` do) don't run, nor do those that keep a random key.

    Args:
        transformation: a transformation; or the name of an optimizer in `optax` or
            `optax.contrib`; or a function that makes a transformation, registered by
            `keras.saving.register_keras_serializable` if the optimizer is to be saved.
        arguments: of that function. From a file they are numbers, texts, lists of them, schedules
            and registered functions.

    Raises:
        ValueError: on another backend than JAX; for a name that isn't one of optax's optimizers;
            for an argument that the named optimizer doesn't take; in `get_config`, and so in
            `model.save`, for a ready transformation, which can't be written down.
    """

    def __init__(self, transformation: Any, name: str | None = None, **arguments: Any):
        if backend.name() != "jax":
            raise ValueError(
                "Optax optimizers run on the JAX backend; `create_optimizer` has others. "
                f"Received: backend {backend.name()!r}."
            )
        super().__init__(learning_rate=_no_rate, name=name)
        self.transformation = transformation
        self.arguments = arguments
        self._optax = _made(transformation, arguments)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._keys = tuple(_unique(variable.path for variable in variables))
        by_key = dict(zip(self._keys, variables, strict=True))
        state = self._optax.init({key: v.value for key, v in by_key.items()})
        leaves = [pair for pair in keras.tree.flatten_with_path(state) if pair[1] is not None]
        places = {key: place for place, key in enumerate(self._keys)}
        kept = [None] * len(leaves)
        # Created in the order of the parameters: that of their names differs from run to run
        # where Keras chose the names, and what is saved is found by its order.
        for i in sorted(range(len(leaves)), key=lambda i: _rank(leaves[i][0], places)):
            kept[i] = self._kept(*leaves[i], by_key)
        self._state = kept
        # A closure, since Keras would wrap the lists and tuples of an attribute.
        present = keras.tree.map_structure(lambda leaf: leaf is not None, state)
        self._nested = functools.partial(_nested, present)

    def _kept(self, path, leaf, by_key):
        """The optimizer variable for one array of the state."""
        name = "_".join(str(part) for part in path).replace("/", "_") or "state"
        try:
            leaf = ops.copy(leaf)  # the state may hold the parameters themselves
            parameter = by_key.get(path[-1] if path else None)
            same = parameter is not None and tuple(parameter.shape) == tuple(leaf.shape)
            layout = keras_internals.layout_of(parameter) if same else None
            variable = self.add_variable(
                leaf.shape,
                dtype=keras.backend.standardize_dtype(leaf.dtype),
                layout=layout,
                name=name,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The state of the optax transformation has what no Keras variable can keep, at "
                f"{path}: {leaf!r}."
            ) from error
        variable.assign(leaf)
        return variable

    def _backend_apply_gradients(self, grads, trainable_variables):
        given = {id(v): g for g, v in zip(grads, trainable_variables, strict=True)}
        by_key = dict(zip(self._keys, keras_internals.optimized_variables(self), strict=True))
        gradients = {
            key: ops.cast(given[id(v)], v.dtype) if id(v) in given else ops.zeros_like(v.value)
            for key, v in by_key.items()
        }
        state = self._nested([variable.value for variable in self._state])
        values = {key: variable.value for key, variable in by_key.items()}
        updates, state = self._optax.update(gradients, state, values)
        for key, variable in by_key.items():
            if id(variable) in given:  # momentum and decay would move frozen ones
                variable.assign_add(ops.cast(updates[key], variable.dtype))
        leaves = [leaf for leaf in keras.tree.flatten(state) if leaf is not None]
        for variable, leaf in zip(self._state, leaves, strict=True):
            variable.assign(leaf)

    def _injected_rate(self):
        """The variable that holds the learning rate in the state, or None."""
        if not self.built:
            return None
        hyperparams = _hyperparams(self._nested(self._state))
        return hyperparams.get("learning_rate")

    @property
    def learning_rate(self):
        variable = self._injected_rate()
        if variable is not None:
            return variable
        rate = self.arguments.get("learning_rate")
        if callable(rate):
            return rate(self.iterations)
        if rate is None:
            raise AttributeError(
                "The learning rate is inside the optax transformation; "
                "`optax.inject_hyperparams` makes it readable."
            )
        return rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        variable = self._injected_rate()
        if variable is None:
            raise TypeError(
                "The learning rate is inside the optax transformation. To set it, use "
                "`optax.inject_hyperparams`, or a name with a number for `learning_rate`, and "
                "build the optimizer first."
            )
        variable.assign(learning_rate)

    def get_config(self):
        if not callable(self.transformation) and not isinstance(self.transformation, str):
            raise ValueError(
                "A ready optax transformation can't be saved. Give OptaxOptimizer the name of an "
                "optax function, or a registered function that makes the transformation, and its "
                "arguments; or save the weights alone, by `save_weights`."
            )
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "transformation": serialize(self.transformation),
            "arguments": {name: serialize(value) for name, value in self.arguments.items()},
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = {
            name: _argument(name, value, custom_objects)
            for name, value in saved_value(cls, config, "arguments", dict).items()
        }
        transformation = saved_value(cls, config, "transformation")
        if not isinstance(transformation, str):
            transformation = _factory(transformation, custom_objects)
        return cls(transformation, name=config.get("name"), **arguments)


def _factory(config, custom_objects):
    """The registered function that makes a transformation."""
    if not isinstance(config, dict) or config.get("class_name") != "function":
        raise ValueError(
            "`transformation` must be the name of an optax optimizer or a registered function "
            f"where it comes from a file. Received: transformation={config!r}."
        )
    return deserialize_callable(config, "transformation", custom_objects)


def _argument(name, value, custom_objects):
    """One argument of a named optimizer, from a file."""
    if not isinstance(value, dict):
        return plain_value(name, value)
    if value.get("class_name") == "function":
        return deserialize_callable(value, name, custom_objects)
    return deserialize_schedule(value)


def _made(transformation, arguments):
    """The optax transformation itself."""
    if isinstance(transformation, str):
        return _with_settable_rate(_named(transformation, arguments), arguments)
    if _is_transformation(transformation):
        if arguments:
            raise ValueError(
                f"A ready transformation takes no arguments. Received: {', '.join(arguments)}."
            )
        return transformation
    if callable(transformation):
        return _called(transformation, arguments)
    raise ValueError(
        "`transformation` must be an optax transformation, the name of one in optax, or a function "
        f"that makes one. Received: transformation={transformation!r}."
    )


def _is_transformation(value):
    return not isinstance(value, type) and hasattr(value, "init") and hasattr(value, "update")


def _called(factory, arguments):
    """What a function that makes a transformation makes of its arguments."""
    try:
        made = factory(**arguments)
    except TypeError as error:
        raise ValueError(
            f"`transformation` can't be called with ({', '.join(arguments)}): {error}. Received: "
            f"transformation={factory!r}."
        ) from error
    if not _is_transformation(made):
        raise ValueError(
            "`transformation` must make an optax transformation, with `init` and `update`. "
            f"Received: transformation={factory!r}, which gave {made!r}."
        )
    return made


def _named(name, arguments):
    """The function of optax that has this name in `NAMES`, if it takes these arguments."""
    module, _, short = f"optax.{name}".rpartition(".")
    if short not in NAMES.get(module, ()):
        choices = [f"{m}.{n}".removeprefix("optax.") for m, names in NAMES.items() for n in names]
        message = unknown_name(name, choices, "optax optimizer")
        raise ValueError(
            f"{message} Another one is given as a function or a transformation: "
            "OptaxOptimizer(optax.chain(...))."
        )
    factory = getattr(optional(module, "optax"), short, None)
    if factory is None:
        raise ValueError(f"The installed optax has no {name!r}: a newer one may have it.")
    accepted = inspect.signature(factory).parameters
    for argument in arguments:
        if argument not in accepted:
            known = ("transformation", "name", *accepted)
            raise ValueError(unknown_name(argument, known, f"argument of optax's {name!r}"))
    return factory


def _with_settable_rate(factory, arguments):
    """The transformation with a numeric learning rate in its state."""
    if not isinstance(arguments.get("learning_rate"), int | float):
        return factory(**arguments)
    others = set(inspect.signature(factory).parameters) - {"learning_rate"}
    inject = optional("optax", "optax").inject_hyperparams
    return inject(factory, static_args=tuple(others))(**arguments)


def _nested(present, leaves):
    """The leaves in the structure of the state, in which some places are None."""
    leaves = iter(leaves)
    return keras.tree.map_structure(lambda there: next(leaves) if there else None, present)


def _rank(path, places):
    """Sorts leaves of the state, parameters by their places and not by their names."""
    parts = (places.get(part, part) for part in path)
    return tuple(f"{part:08d}" if isinstance(part, int) else str(part) for part in parts)


def _hyperparams(state):
    """The first dict of injected hyperparameters anywhere in the state."""
    if hasattr(state, "hyperparams"):
        return state.hyperparams
    children = state.values() if isinstance(state, dict) else state
    if isinstance(state, dict | list | tuple):
        for child in children:
            if found := _hyperparams(child):
                return found
    return {}


def _unique(paths):
    """The paths, those that occur again with a number."""
    seen = {}
    for path in paths:
        seen[path] = seen.get(path, -1) + 1
        yield f"{path}_{seen[path]}" if seen[path] else path


def _no_rate():
    """Stands where Keras would keep a variable for a rate of our own."""
    raise AttributeError("The learning rate is inside the optax transformation.")
