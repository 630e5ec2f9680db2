"""What the arguments of optimizers may be, by name: for `arguments.checked`."""

import re

import keras

from artifex_keras.arguments import boolean, bounded, broken_rule, count, number, optional, text

__all__ = ["RULES", "learning_rate", "optimizer"]


def learning_rate(name, value):
    """A number of at least 0, or a schedule: a Keras object or a function."""
    if isinstance(value, type):
        raise broken_rule(name, value, "a number or a schedule")
    return value if callable(value) else number(name, value, minimum=0.0)


def optimizer(name, value):
    """A Keras optimizer."""
    if not isinstance(value, keras.optimizers.Optimizer):
        raise broken_rule(name, value, "a Keras optimizer")
    return value


def _name(name, value):
    plain = text(name, value)
    if "/" in plain:
        raise broken_rule(name, value, "a text without '/'")
    return plain


def patterns(name, value):
    """None, or a list of regular expressions; a text alone would be one for each of its letters."""
    if value is None:
        return None
    plain = value.tolist() if hasattr(value, "tolist") else value
    listed = isinstance(plain, list | tuple) and all(isinstance(each, str) for each in plain)
    if not listed:
        raise broken_rule(name, value, "a list of texts")
    for each in plain:
        try:
            re.compile(each)
        except re.error as error:
            raise broken_rule(name, value, f"regular expressions; {each!r} has {error}") from error
    return list(plain)


BELOW_1 = bounded(minimum=0.0, below=1.0)
AT_LEAST_0 = bounded(minimum=0.0)
ABOVE_0_OR_NONE = bounded(above=0.0, optional=True)

RULES = {
    "adam_beta_1": BELOW_1,
    "adam_beta_2": BELOW_1,
    "adam_lr_ratio": AT_LEAST_0,
    "adam_weight_decay": bounded(minimum=0.0, optional=True),
    "amsgrad": boolean,
    "beta_1": BELOW_1,
    "beta_2": BELOW_1,
    "beta_2_decay": bounded(),
    "centered": boolean,
    "clip_threshold": bounded(above=0.0),
    "clipnorm": ABOVE_0_OR_NONE,
    "clipvalue": ABOVE_0_OR_NONE,
    "ema_momentum": bounded(minimum=0.0, maximum=1.0),
    "ema_overwrite_frequency": count(optional=True),
    "epsilon": AT_LEAST_0,
    "epsilon_1": AT_LEAST_0,
    "epsilon_2": AT_LEAST_0,
    "exclude_embeddings": boolean,
    "exclude_layers": patterns,
    "global_clipnorm": ABOVE_0_OR_NONE,
    "gradient_accumulation_steps": count(2, optional=True),
    "initial_accumulator_value": AT_LEAST_0,
    "learning_rate": learning_rate,
    "loss_scale_factor": ABOVE_0_OR_NONE,
    "momentum": bounded(minimum=0.0, maximum=1.0),
    "momentum_decay": bounded(minimum=0.0, optional=True),
    "muon_a": bounded(),
    "muon_b": bounded(),
    "muon_c": bounded(),
    "name": optional(_name),
    "nesterov": boolean,
    "ns_steps": count(),
    "relative_step": boolean,
    "rho": BELOW_1,
    "rms_rate": bounded(minimum=0.0, optional=True),
    "scale_parameter": boolean,
    "use_ema": boolean,
    "weight_decay": bounded(minimum=0.0, optional=True),
}
