"""The settings that a checkpoint was written under, and what a resume does with other ones.

A checkpoint keeps what its run began with, not the present values: a learning rate that a callback
has lowered since is the run's own and goes on, one that a person has changed is applied.
"""

import math
import re
import weakref

import keras

from artifex_keras.arguments import shown
from artifex_keras.backend.processes import assign, to_host_array
from artifex_keras.callbacks.checkpoint.arrays import is_learning_rate, named_variables, restore
from artifex_keras.callbacks.checkpoint.states import packable_or_none
from artifex_keras.utils import warn

__all__ = ["Settings"]

# Settings of a config that a resumed run may change: its numbers don't depend on them.
CHANGEABLE = {
    *("num_epochs", "checkpoint_dir", "max_checkpoints", "log_frequency", "verbose"),
    *("save_frequency", "save_every_n_steps", "save_every_n_minutes", "save_best"),
    "steps_per_execution",
}
OF_THE_OPTIMIZER = {"optimizer", "scheduler", "gradient_clip_norm"}
NOTES = {
    "seed": " (for the order of the data; the model's random numbers go on)",
    "model.seed": " (its random numbers go on; `reseed` begins others)",
}
# Parts of a description that differ between two models of one script, or follow from others.
UNSAID = {
    *("name", "module", "registered_name", "shared_object_id", "build_config", "inbound_nodes"),
    *("input_layers", "output_layers", "seed"),
}
UNNAMED = {"config", "optimizers", "inner_optimizer", "optimizer"}  # left out of a setting's name
COMPILED = ("loss", "loss_weights")
LISTED = 12
PLAIN = (type(None), bool, int, float, str)
NUMBER = re.compile(r"_\d+(?=$|/)")

_rates_of_ended_runs = weakref.WeakKeyDictionary()  # (first, last) by optimizer


class Settings:
    """What a run begins with, taken before its checkpoint is loaded.

    Args:
        model: the compiled model.
        described: its Keras config, or None.
        config: the config of its trainer, a dict or None.

    Attributes:
        values: what a checkpoint keeps: a dict of `optimizer`, its Keras config or None,
            `learning_rates` by the names of their variables, and `config`.
    """

    def __init__(self, model, described=None, config=None):
        self._described = described or {}
        optimizer = getattr(model, "optimizer", None)
        self.values = {
            "optimizer": packable_or_none(lambda: keras.saving.serialize_keras_object(optimizer)),
            "learning_rates": _rates(model),
            "config": config,
        }
        first, last = _rates_of_ended_runs.get(optimizer, (None, None))
        if last == self.values["learning_rates"]:  # nobody has touched them since
            self.values["learning_rates"] = first

    def resume(self, model, named_arrays, kept, folder, *groups):
        """Restores a checkpoint, applies what has been changed since, and warns of what differs.

        Args:
            model: the model, built.
            named_arrays: as for `arrays.restore`, as are `groups`.
            kept: what the checkpoint keeps besides.
            folder: of the checkpoint.

        Raises:
            ValueError: for another kind of optimizer, and as `arrays.restore`.
        """
        then, now = _settings_in(kept), self.values
        if "settings" in kept:
            in_optimizer = _differences(then["optimizer"], now["optimizer"])
        else:
            in_optimizer = _differences(then["optimizer"], _optimizers_in(self._described))
        _reject_another_optimizer(in_optimizer, folder)
        described = kept["model"] or {}
        try:
            restore(model, named_arrays, *groups)
        except ValueError as error:
            pair = described.get("config"), self._described.get("config")
            raise _with_causes(error, in_optimizer + _differences(*pair)) from error
        changes = self._apply_rates(model, then["learning_rates"], named_arrays)
        changes += [change for change in in_optimizer if not _is_rate(change)]
        changes += self._apply_options(model, described)
        for key in COMPILED:
            pair = [(d.get("compile_config") or {}).get(key) for d in (described, self._described)]
            changes += _differences(*pair, (key,))
        pair = then["config"] or {}, now["config"] or {}
        in_config = [
            ((key,), pair[0][key], pair[1][key])
            for key in sorted(pair[0].keys() & pair[1].keys() - CHANGEABLE)
            if not _same(pair[0][key], pair[1][key])
        ]
        changes += [change for change in in_config if change[0][0] not in OF_THE_OPTIMIZER]
        idle = [change for change in in_config if change[0][0] in OF_THE_OPTIMIZER]
        _warn(changes, [] if in_optimizer else idle)

    def end(self, model):
        """Notes the rates at the end of a run, by which its next `fit` knows them as its own."""
        if getattr(model, "optimizer", None) is not None:
            rates = self.values["learning_rates"], _rates(model)
            _rates_of_ended_runs[model.optimizer] = rates

    def _apply_rates(self, model, then, named_arrays):
        """Gives the optimizer the rates that a person has changed. Returns those changes."""
        saved = {array.name: array.value for array in named_arrays}
        variables, changes = named_variables(model), []
        for name, rate in self.values["learning_rates"].items():
            began = then.get(name)
            if began is None or name not in saved:
                continue
            if _same(began, rate):
                continue
            if not _same(rate, float(saved[name])):
                assign(variables[name], rate)
                changes.append((_rate_name(model.optimizer, variables, name), began, rate))
        return changes

    def _apply_options(self, model, then):
        """Sets options that the checkpoint has put back, as variables do. Returns all changes."""
        then, now = then.get("config"), self._described.get("config")
        changes = _differences(then, now)
        changed = {path[0] for path, _, _ in changes if len(path) == 1}
        in_force = model.get_config() if changed else {}
        for name in changed & in_force.keys():
            if not _same(in_force[name], now[name]):
                setattr(model, name, now[name])
        seeds = [config["seed"] for config in (then, now) if "seed" in (config or {})]
        if len(seeds) == 2 and seeds[0] != seeds[1]:
            changes.append((("model", "seed"), *seeds))
        return changes


def _rates(model):
    variables = named_variables(model).items()
    return {name: float(to_host_array(v.value)) for name, v in variables if is_learning_rate(name)}


def _rate_name(optimizer, variables, name):
    """How a warning calls the rate in the variable of that name, a path."""
    for part, inside in getattr(optimizer, "parts", {}).items():
        if any(variable is variables[name] for variable in inside.variables):
            return part, "learning_rate"
    return ("learning_rate",)


def _settings_in(kept):
    """The settings of a checkpoint; of one of version 0.1.0 what its model's config says."""
    if "settings" in kept:
        return kept["settings"]
    optimizers = _optimizers_in(kept["model"] or {})
    values = (optimizers.get("optimizer") or {}).get("config", {})
    rate, name = values.get("learning_rate"), NUMBER.sub("", str(values.get("name")))
    rates = {f"optimizer/{name}/learning_rate": rate} if isinstance(rate, float) else {}
    return {"optimizer": optimizers, "learning_rates": rates, "config": kept["config"]}


def _optimizers_in(described):
    """The optimizers of a model's config by the names of the arguments of `compile`."""
    arguments = described.get("compile_config") or {}
    return {name: value for name, value in arguments.items() if name.endswith("optimizer")}


def _differences(then, now, path=(), unsaid=UNSAID):
    """The settings that both descriptions have and that differ: a list of `(path, then, now)`."""
    if isinstance(then, dict) and isinstance(now, dict):
        classes = [d["class_name"] for d in (then, now) if "class_name" in d]
        if len(classes) == 2 and classes[0] != classes[1]:
            return [(path, *map(_Class, classes))]
        if "DTypePolicy" in classes:
            unsaid = ()
        found = []
        for key in then.keys() & now.keys() - set(unsaid):
            inner = path if key in UNNAMED else (*path, str(key))
            found += _differences(then[key], now[key], inner, unsaid)
        return sorted(found, key=lambda change: change[0])
    if isinstance(then, list | tuple) and isinstance(now, list | tuple) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [c for i, pair in pairs for c in _differences(*pair, (*path, str(i)), unsaid)]
    return [] if _same(then, now) else [(path, then, now)]


class _Class(str):
    """The name of a class in a description."""

    __repr__ = str.__str__


def _same(then, now):
    """Whether two settings are equal, but for float32's rounding and the numbers in Keras's names.

    What isn't plain, such as an array of weights in a config, isn't compared.
    """
    if isinstance(then, float) and isinstance(now, int | float):
        return math.isclose(then, now, rel_tol=1e-6) or (then != then and now != now)
    if isinstance(then, str) and isinstance(now, str):
        return NUMBER.sub("", then) == NUMBER.sub("", now)
    kinds = {type(then), type(now)}
    return then == now if kinds <= {*PLAIN, dict, list, tuple} else True


def _is_rate(change):
    """Whether it is a rate that is a number and was one: its variable says more."""
    path, then, now = change
    return path[-1:] == ("learning_rate",) and all(isinstance(v, int | float) for v in (then, now))


def _reject_another_optimizer(differences, folder):
    for path, then, now in differences:
        if isinstance(now, _Class) and "learning_rate" not in path:
            name = ".".join(path) or "the optimizer"
            raise ValueError(
                f"The checkpoint in {str(folder)!r} can't be resumed: {name} was {then} and is "
                f"{now}, which can't use its state. Compile with {then} again; or start another "
                "run, in another folder, from its weights: "
                f"`keras.saving.load_model(export_checkpoint({str(folder)!r}, 'model.keras'))`."
            )


def _with_causes(error, changes):
    """The error of variables that don't fit, with the settings that have changed."""
    if not changes:
        return error
    return ValueError(
        f"{error} Since then settings have changed: {_listed(changes)}. Some need variables that "
        "the checkpoint hasn't, or has too many of: change them back, or start another run in "
        "another folder."
    )


def _warn(changes, idle):
    """Warns of settings that have changed, and of those that changed after `compile`."""
    if changes:
        warn(f"The run resumes with other settings, which hold from here on: {_listed(changes)}.")
    if idle:
        warn(
            f"The config has other settings, which the compiled optimizer hasn't: {_listed(idle)}. "
            "Set them before the trainer is made."
        )


def _listed(changes):
    said = [
        f"{'.'.join(path)} was {_value(then)} and is {_value(now)}{NOTES.get('.'.join(path), '')}"
        for path, then, now in changes
    ]
    more = f"; and {len(said) - LISTED} more" if len(said) > LISTED else ""
    return "; ".join(said[:LISTED]) + more


def _value(value):
    """A setting in words: a number without float32's rounding, an object by its class."""
    if isinstance(value, dict) and "class_name" in value:
        return value["class_name"]
    return shown(float(f"{value:.6g}") if isinstance(value, float) else value)
