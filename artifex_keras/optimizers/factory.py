"""An optimizer by its name."""

from typing import Any

import keras

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import bounded, checked, count, decay, lookup, nearest, shown
from artifex_keras.gradient_accumulation import accumulated
from artifex_keras.optimizers.adafactor import Adafactor
from artifex_keras.optimizers.adamw import Adam, AdamW, Nadam
from artifex_keras.optimizers.lamb import Lamb
from artifex_keras.optimizers.lion import Lion
from artifex_keras.optimizers.muon import Muon
from artifex_keras.optimizers.rules import RULES as CLASS_RULES
from artifex_keras.optimizers.rules import learning_rate as learning_rate_rule
from artifex_keras.optimizers.schedule_free import ScheduleFreeAdamW
from artifex_keras.optimizers.sgd import SGD, Adagrad, RMSprop
from artifex_keras.schedulers.scheduler import arguments_of

__all__ = ["OPTIMIZERS", "create_optimizer", "optimizer_arguments"]

# name -> class, and the defaults that differ from those of the class
OPTIMIZERS = {
    "adafactor": (Adafactor, {}),
    "adagrad": (Adagrad, {}),
    "adam": (Adam, {}),
    "adamw": (AdamW, {"weight_decay": 0.01}),
    "lamb": (Lamb, {}),
    "lion": (Lion, {}),
    "muon": (Muon, {"weight_decay": 0.01}),
    "nadam": (Nadam, {}),
    "rmsprop": (RMSprop, {}),
    "schedule_free_adamw": (ScheduleFreeAdamW, {}),
    "sgd": (SGD, {}),
}

# our name -> what Keras's classes call it
NAMES = {
    "beta1": ("beta_1", "adam_beta_1"),
    "beta2": ("beta_2", "adam_beta_2"),
    "ema_decay": ("use_ema", "ema_momentum"),
    "gradient_clip_norm": ("global_clipnorm",),
    "weight_decay": ("weight_decay", "adam_weight_decay"),
}

COMMON = ("optimizer_type", "learning_rate", "gradient_accumulation_steps")

# our name or Keras's -> what it may be
RULES = {
    **CLASS_RULES,
    **dict.fromkeys(("beta1", "beta2", "ema_decay"), decay),
    "gradient_accumulation_steps": count(optional=True),
    "gradient_clip_norm": bounded(above=0.0, optional=True),
}


def create_optimizer(
    optimizer_type: str = "adamw",
    learning_rate: LearningRate = 1e-3,
    *,
    weight_decay: float | None = None,
    beta1: float | None = None,
    beta2: float | None = None,
    gradient_clip_norm: float | None = None,
    ema_decay: float | None = None,
    gradient_accumulation_steps: int | None = None,
    **arguments: Any,
) -> keras.optimizers.Optimizer:
    """A Keras optimizer, for any `compile`.

    What is None is left at the optimizer's own default: β of 0.9 and 0.999, for Lion 0.9 and 0.99;
    a weight decay of 0.01 for AdamW and Muon and none for the others.

    Args:
        optimizer_type: adafactor, adagrad, adam, adamw, lamb, lion, muon, nadam, rmsprop,
            schedule_free_adamw or sgd.
        learning_rate: a number or a schedule.
        weight_decay: λ, decoupled: w ← w - learning_rate · λ · w, for weights of rank 2 and more,
            not for biases and norm parameters.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        gradient_clip_norm: the gradients of all variables together are scaled down to this length.
        ema_decay: d of an average of the weights, a ← d·a + (1 - d)·w per update, which the model
            has when `fit` ends. Our models have an `ema_decay` of their own, which also averages
            the statistics of normalisation and serves validation.
        gradient_accumulation_steps: one update per so many batches, with their mean gradient; see
            `GradientAccumulation`.
        arguments: what the optimizer's class takes besides: `epsilon`, `momentum`, `nesterov`, ...

    Raises:
        ValueError: for an unknown name, an argument that the optimizer has no use for, and numbers
            out of range.

    Example:

    ```python
    import artifex_keras as ak

    adamw = ak.create_optimizer("adamw", 1e-3, weight_decay=0.05, gradient_clip_norm=1.0)
    rate = ak.create_scheduler("cosine", 1e-3, warmup_steps=100, total_steps=10_000)
    lion = ak.create_optimizer("lion", rate, gradient_accumulation_steps=4)
    ```
    """
    optimizer, defaults = lookup(OPTIMIZERS, optimizer_type, "optimizer")
    named = {
        "weight_decay": weight_decay,
        "beta1": beta1,
        "beta2": beta2,
        "gradient_clip_norm": gradient_clip_norm,
        "ema_decay": ema_decay,
    }
    given = {name: value for name, value in named.items() if value is not None} | arguments
    _check_use(optimizer_type, given)
    check_arguments(given)
    steps = RULES["gradient_accumulation_steps"](
        "gradient_accumulation_steps", gradient_accumulation_steps
    )
    learning_rate = learning_rate_rule("learning_rate", learning_rate)
    made = optimizer(learning_rate, **_in_keras_names(optimizer, defaults | given))
    return accumulated(made, steps)


@checked()
def optimizer_arguments(optimizer_type: str) -> list[str]:
    """The names of the arguments, beside the learning rate, that the optimizer so called takes.

    Example:

    ```python
    from artifex_keras.optimizers import optimizer_arguments

    print("momentum" in optimizer_arguments("sgd"))  # True
    ```
    """
    optimizer, _ = lookup(OPTIMIZERS, optimizer_type, "optimizer")
    accepted = _constructor_arguments(optimizer)
    ours = [name for name, theirs in NAMES.items() if accepted & set(theirs)]
    theirs = {keras_name for names in NAMES.values() for keras_name in names}
    return ours + sorted(accepted - theirs - {"learning_rate", "gradient_accumulation_steps"})


def _constructor_arguments(cls):
    """The names of the arguments of `cls`, with those that it hands on to its parents."""
    names = set()
    for parent in cls.__mro__:
        if "__init__" in vars(parent):
            parameters = arguments_of(parent)
            names |= set(parameters) - {"args", "kwargs"}
            if "kwargs" not in parameters:
                break
    return names


def check_arguments(given):
    """Raises a ValueError for an argument of any optimizer that is wrong, a dict by name."""
    for name in sorted(given.keys() & RULES.keys()):
        RULES[name](name, given[name])


def _check_use(optimizer_type, given):
    usable = optimizer_arguments(optimizer_type)
    for name in given:
        if name not in usable:
            raise ValueError(
                f"`{name}` is of no use to the optimizer {optimizer_type!r}, which takes "
                f"{', '.join(usable)}. Received: {name}={shown(given[name])}."
                f"{nearest(name, [*usable, *COMMON])}"
            )


def _in_keras_names(optimizer, given):
    """The arguments as the constructor of `optimizer` calls them."""
    accepted = _constructor_arguments(optimizer)
    renamed = {}
    for name, value in given.items():
        for keras_name in NAMES.get(name, (name,)):
            if keras_name in accepted:
                renamed[keras_name] = True if keras_name == "use_ema" else value
    return renamed
