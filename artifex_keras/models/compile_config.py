"""How a model was compiled, as its file says it: what another backend can read, too."""

import keras

from artifex_keras.backend import keras_internals
from artifex_keras.backend.frozen import KEY, freeze, frozen
from artifex_keras.backend.places import layer_places, places
from artifex_keras.gradient_accumulation import portable
from artifex_keras.models.traced import optimizers_in

__all__ = ["KeepsCompiled"]

# As it was given. Files of earlier versions have a truth value there, what "auto" was on the
# backend that wrote them: it is "auto" again.
JIT = {True: "on", False: "off", "auto": "auto"}
JIT_GIVEN = {text: given for given, text in JIT.items()}
UNBUILT = "optimizer_unbuilt"  # of a model that was compiled and never fitted


class KeepsCompiled:
    """The part of a model that saves how it was compiled.

    A class that has it keeps in `jit_compile_given` what `compile` was given.
    """

    jit_compile_given = "auto"

    def get_compile_config(self):
        if not self.compiled:
            return {}
        config = {
            "optimizer": portable(keras.saving.serialize_keras_object(self.optimizer)),
            "steps_per_execution": self.steps_per_execution,
            "run_eagerly": self.run_eagerly,
            "jit_compile": JIT.get(self.jit_compile_given, "auto"),
            "on_nan": self.on_nan,
        }
        if not self.optimizer.built:
            config[UNBUILT] = True
        listed = _frozen_for_optimizer(self)
        return config if listed is None else config | {KEY: listed}

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(portable(config))
        listed, unbuilt = config.pop(KEY, None), config.pop(UNBUILT, False)
        config["jit_compile"] = JIT_GIVEN.get(str(config.get("jit_compile")), "auto")
        self.compile(**config)
        if not self.built or unbuilt is True:
            return  # the file has no state that the optimizer would take
        now = frozen(self)
        if listed is not None:
            freeze(self, listed)
        self.build_optimizer()
        freeze(self, now)


def _frozen_for_optimizer(model):
    """The places of the weights that the built optimizer has no state for.

    None where these are the frozen ones, or where it lacks some that train.
    """
    optimizers = [] if model.optimizer is None else optimizers_in(model.optimizer)
    built = [optimizer for optimizer in optimizers if optimizer.built]
    known = {id(v) for each in built for v in keras_internals.optimized_variables(each)}
    if not known > {id(variable) for variable in model.trainable_variables}:
        return None
    where, layers = places(model), layer_places(model).values()
    weights = [w for layer in layers for w in keras_internals.own_trainable_variables(layer)]
    return sorted(where[id(weight)] for weight in weights if id(weight) not in known)
