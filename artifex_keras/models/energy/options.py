"""What each setting of an energy-based model may be; trainers use the rules too."""

from artifex_keras.arguments import integer, interval, known_name, number, optional, share, sizes
from artifex_keras.models.energy.chains import SAMPLERS
from artifex_keras.models.energy.methods import TRAINING_METHODS

__all__ = ["RULES", "check_output", "check_settings", "fits"]


def _levels(name, value):
    if isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 1:
        levels = [number(name, level, above=0.0) for level in value]
        if not levels:
            raise ValueError(f"`{name}` must hold a noise level. Received: {name}={value!r}.")
        return levels if len(levels) > 1 else levels[0]
    return number(name, value, above=0.0)


def _row(table, what):
    return lambda name, value: known_name(value, table, what)


def _number(**bounds):
    return lambda name, value: number(name, value, **bounds)


def _integer(minimum=1, optional=False):
    return lambda name, value: integer(name, value, minimum=minimum, optional=optional)


# Setting -> `rule(name, value)`, which gives the value to keep or raises.
RULES = {
    "training_method": _row(TRAINING_METHODS, "training method"),
    "mcmc_steps": _integer(),
    "step_size": _number(above=0.0),
    "noise_scale": _number(minimum=0.0, optional=True),
    "gradient_clipping": _number(above=0.0, optional=True),
    "replay_buffer_size": _integer(),
    "replay_buffer_init_prob": share,
    "sigmas": _levels,
    "energy_regularization": _number(minimum=0.0),
    "gradient_penalty_weight": _number(minimum=0.0),
    "sampler": _row(SAMPLERS, "sampler"),
    "leapfrog_steps": _integer(),
    "data_noise": _number(minimum=0.0),
    "value_range": interval,
    "num_classes": _integer(2, optional=True),
    "generative_weight": _number(minimum=0.0),
    "divergence_threshold": _number(above=0.0),
    "input_shape": optional(sizes),
}


# What must fit together


def check_settings(model):
    """Raises a ValueError for settings that the sampler has no use for."""
    if SAMPLERS[model.sampler].exact and model.noise_scale is not None:
        raise ValueError(
            f"`noise_scale` belongs to sampler='langevin': the others are exact. Received: "
            f"noise_scale={model.noise_scale}, sampler={model.sampler!r}."
        )
    if model.gradient_clipping is not None and not SAMPLERS[model.sampler].clips_gradients:
        raise ValueError(
            "`gradient_clipping` belongs to 'langevin' and 'mala'. Received: "
            f"gradient_clipping={model.gradient_clipping}, sampler={model.sampler!r}."
        )


def fits(shape, known):
    """Whether data of `shape` go into a network for `known`, which may leave axes open."""
    pairs = zip(shape[1:], known[1:], strict=False)
    return len(shape) == len(known) and all(None in pair or pair[0] == pair[1] for pair in pairs)


def check_output(model, output):
    """Raises a ValueError unless the network gives a number, or a logit for each class."""
    shape = getattr(output, "shape", None)
    shape = None if shape is None else tuple(shape[1:])
    expected = ((), (1,)) if model.num_classes is None else ((model.num_classes,),)
    if shape not in expected:
        raise ValueError(
            "The energy network must give "
            + (
                "one number per example, an output of shape (B,) or (B, 1). "
                if model.num_classes is None
                else f"a logit for each class, an output of shape (B, {model.num_classes}). "
            )
            + f"Received: an output of shape {shape} per example."
        )
