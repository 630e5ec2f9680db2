"""One law for the options of a model: set one, and it trains as a model that was made with it.

What the constructor takes may be set later: the value goes through the constructor's own checks,
and what was compiled with the value before is compiled anew. Options that people anneal are `live`:
the compiled step is given their values at each call, so that a callback may move them in the middle
of `fit`. They are no weights: files and checkpoints hold the same weights as without them, and keep
the present values in the model's config.
"""

import functools

import keras

from artifex_keras import backend
from artifex_keras.arguments import argument_rules, shown
from artifex_keras.attributes import Spelled
from artifex_keras.backend import keras_internals
from artifex_keras.utils import ThreadFlag

__all__ = ["Options"]

PACKAGE = "artifex_keras."
_probing = ThreadFlag()  # up where this thread makes a model to check options by


class LiveOption:
    """The descriptor of a live option: a number, and its value of the moment within a step."""

    def __init__(self, name):
        self.name = name

    def __get__(self, model, owner=None):
        if model is None:
            return self
        live = vars(model).get("live_values")
        if live is None or self.name not in live.numbers:
            raise AttributeError(f"{type(model).__name__} has no `{self.name}` yet.")
        return model._value_in_step(self.name, live.numbers[self.name])

    def __set__(self, model, value):
        model.live_values.set(self.name, value)


class Options(Spelled):
    """The part of a model whose options may be set again.

    Attributes:
        options: the names of the constructor's arguments that are no networks.
        live_options: those whose values the compiled step is given at each call.
        zero_options: those among them of which 0 leaves a part of the step out: when one becomes 0,
            or is no longer, the step is compiled anew.
        derived_options: attributes that the constructor derives from options.
        fixed_options: options that decide more than the step: a reason by name.
    """

    options = ()
    live_options = ()
    zero_options = ()
    derived_options = ()
    fixed_options = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in ("live_options", "zero_options", "derived_options"):
            inherited = [vars(parent).get(name, ()) for parent in cls.__mro__]
            setattr(cls, name, tuple(dict.fromkeys(sum(map(tuple, inherited), ()))))
        for name in cls.live_options:
            if not isinstance(getattr(cls, name, None), LiveOption):
                setattr(cls, name, LiveOption(name))

    def __setattr__(self, name, value):
        if name == keras_internals.RUNNING_STATE:
            # Keras's loop on JAX keeps the state of every execution here, and would look through
            # each array of it for layers and weights: longer than a small step takes to dispatch.
            object.__setattr__(self, name, value)
        elif name in self.options and hasattr(self, name) and not _probing.up:
            self.set_options(**{name: value})
        elif isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)  # torch would keep a layer without the setter
        else:
            if name[0] != "_" and name not in vars(self):
                self._check_spelling(name, value)
            super(Spelled, self).__setattr__(name, value)  # the constructor sets it, or Keras

    def set_options(self, **changes):
        """Sets several options at once, such as two that only go together.

        The next `fit` trains as that of a model made with them. In the middle of `fit` those in
        `live_options` alone can be set, by a callback: they hold from the next step on.

        Raises:
            ValueError: as the constructor does; for an option that decides which weights there are.
            RuntimeError: in the middle of `fit`, for an option that isn't live.

        Example:

        ```python
        import artifex_keras as ak

        vae = ak.VAE(ak.networks.mlp_encoder(4, 2, (8,)), ak.networks.mlp_decoder(2, 4, (8,)))
        vae.beta = 4.0
        vae.set_options(tc_weight=6.0, dataset_size=1000)
        ```
        """
        changes = {name: value for name, value in changes.items() if self._is_new(name, value)}
        if not changes:
            return
        if all(self._moves(name, value) for name, value in changes.items()):
            for name, value in changes.items():
                self._keep(name, argument_rules(type(self))[name](name, value))
            return
        changes, probe = self._checked_options(changes)
        self._reject_within_fit(changes)
        for name, value in changes.items():
            self._keep(name, value)
        if changes and probe is not None:
            self._adopt(probe)
        if changes:
            self.forget_programs()

    def forget_programs(self):
        """Lets go of what was compiled: it is compiled anew when it is next used."""
        self.compiled_methods = {}
        running = self.running_fit is not None and self.train_function is not None
        self.train_function = self.test_function = self.predict_function = None
        if running:
            self.make_train_function()

    # Live values

    @functools.cached_property
    def live_values(self):
        """The `backend.LiveValues` of this model."""
        return backend.LiveValues()

    def uses(self, name):
        """Whether a live option is a number other than 0, also within a step."""
        return bool(self.live_values.numbers[name])

    def _value_in_step(self, name, number):
        """The number; within a compiled step what that is given in its place."""
        if number is None or (number == 0 and name in self.zero_options):
            return number
        variable = self.live_values.made.get(name)
        value = None if variable is None else backend.live_value(variable)
        return number if value is None else value

    def _moves(self, name, value):
        """Whether the compiled step can go on with another value of a live option."""
        rule = argument_rules(type(self)).get(name)
        if name not in self.live_options or rule is None or not self._is_live(name):
            return False
        value, before = rule(name, value), getattr(self, name)
        if value is None or before is None:
            return False
        return name not in self.zero_options or (value != 0) == (before != 0)

    def _is_live(self, name):
        """Whether that option may move in this model; a family may say no."""
        return True

    # Checks

    def _is_new(self, name, value):
        before = getattr(self, name)
        try:
            same = before is value or (type(before) is type(value) and bool(before == value))
        except (TypeError, ValueError):  # arrays
            same = False
        return not same

    def _checked_options(self, changes):
        """The values to keep, after all that the constructor says of them, and what it made."""
        family = _family(type(self))
        if changes.keys() <= set(family.options):
            probe = self._made_with(family, changes)
            self._check_fixed(changes, probe)
            like = self if type(self) is family else self._made_with(family, {})
            self._check_structure(changes, probe, like)
            checked = {name: getattr(probe, name) for name in changes}
        else:  # some of a subclass of somebody else's
            probe, rules = None, argument_rules(type(self))
            checked = {n: rules[n](n, v) if n in rules else v for n, v in changes.items()}
        if "ema_decay" in changes:
            checked["ema_decay"] = self.checked_decay(changes["ema_decay"])
        return {n: value for n, value in checked.items() if self._is_new(n, value)}, probe

    def _check_fixed(self, changes, probe):
        for name in self.fixed_options.keys() & changes.keys():
            if self._is_new(name, getattr(probe, name)) and self._is_fixed(name):
                raise ValueError(
                    f"`{name}` can't be set on this {type(self).__name__}: "
                    f"{self.fixed_options[name]}. Received: {name}={shown(changes[name])}, "
                    f"was {shown(getattr(self, name))}."
                )

    def _check_structure(self, changes, probe, like):
        if _structure(probe) != _structure(like):
            arguments = ", ".join(f"{name}={shown(value)}" for name, value in changes.items())
            raise ValueError(
                f"{_listed(changes)} decides which weights this {type(self).__name__} has, so it "
                f"can't be set later: make a new model with {arguments}."
            )

    def _is_fixed(self, name):
        """Whether an option of `fixed_options` can't be set any more."""
        return True

    def _made_with(self, family, changes):
        """A model of the same networks made with the changes; it has no average."""
        arguments = {name: getattr(self, name) for name in family.options}
        arguments |= {"ema_decay": None, **self.constructor_networks()}
        if hasattr(self, "jax_state_sync"):
            self.jax_state_sync()  # in the middle of `fit` networks may be without their weights
        with _probing.raised():
            probe = family(
                **arguments | {n: v for n, v in changes.items() if n != "ema_decay"},
                name=self.name,
                dtype=self.dtype_policy,
            )
            if self.built and not probe.built:
                probe.build_from_config(self.get_build_config())
        return probe

    def constructor_networks(self):
        """The networks by the names of the constructor's arguments."""
        return {name: getattr(self, name) for name in self.submodels}

    def _adopt(self, probe):
        """Takes over what the constructor has derived from the options."""
        for name in self.derived_options:
            if name in vars(probe):
                object.__setattr__(self, name, vars(probe)[name])
        self.watch({n: m for n, m in probe.metric_names.items() if n not in self.metric_names})

    def _reject_within_fit(self, changes):
        live = set(filter(self._is_live, self.live_options))
        fixed = [name for name in changes if name not in live]
        if self.running_fit is not None and fixed:
            raise RuntimeError(
                f"{_listed(fixed)} can't be set in the middle of `fit`, whose step is compiled: "
                f"set it between two fits. Those that a callback may move are "
                f"{', '.join(name for name in self.options if name in live)}."
            )

    def _keep(self, name, value):
        """Keeps a checked value; a class adds what follows from it."""
        super(Spelled, self).__setattr__(name, value)


def _family(cls):
    """The class of this package that a model's class is or is derived from."""
    return next(c for c in cls.__mro__ if c.__module__.startswith(PACKAGE))


def _structure(model):
    """Names and shapes of the weights that are neither the networks' nor the average's."""
    networks = [getattr(model, name) for name in model.submodels]
    others = [w for part in networks if isinstance(part, keras.Layer) for w in part.weights]
    others = {id(w) for w in (*others, *model._average)}
    own = [w for w in model.weights if id(w) not in others and w.name != "average_updates"]
    return sorted((w.name, tuple(w.shape)) for w in own)


def _listed(names):
    return " and ".join(f"`{name}`" for name in names)
