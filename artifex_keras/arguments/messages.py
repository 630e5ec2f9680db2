"""What an error says of an argument: the rule, the value received, the nearest name."""

import difflib

__all__ = ["broken_rule", "nearest", "shown", "unknown_name"]

SHOWN = 200  # characters of a value in a message
# What other libraries call what we have.
OTHER_WORDS = {
    "condition": ("labels", "label", "y", "classes", "class_labels", "cond", "context"),
    "n": ("n_samples", "num_samples", "num_images", "count", "size", "batch_size", "shape"),
    "num_steps": ("steps", "n_steps", "num_inference_steps", "timesteps", "num_timesteps"),
    "guidance_scale": ("cfg", "cfg_scale", "guidance", "guidance_strength", "w"),
    "num_generations": ("group_size", "n_samples", "num_samples", "samples_per_prompt"),
    "max_new_tokens": ("max_length", "length", "max_tokens"),
    "sampler": ("solver", "method", "scheduler"),
    "solver": ("sampler", "method"),
    "discriminator_optimizer": ("d_optimizer", "critic_optimizer"),
    "optimizer": ("g_optimizer", "generator_optimizer"),
    "reward_fn": ("reward_funcs", "reward_function", "reward", "rewards"),
    "min_bytes": ("min_size",),
    "epochs": ("num_epochs", "n_epochs", "nb_epoch"),
    "vanilla": ("bce", "minimax", "non-saturating", "non_saturating", "ns", "dcgan", "gan"),
    "wasserstein": ("wgan", "wgan-gp", "wgan_gp", "wgangp"),
    "lsgan": ("mse", "least_squares", "least-squares"),
}


def broken_rule(name, value, rule, hint=""):
    """The ValueError for the argument `name`, whose `value` must be `rule`."""
    return ValueError(f"`{name}` must be {rule}. Received: {name}={shown(value)}.{hint}")


def shown(value):
    """`value` as a message shows it, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:  # Python may refuse to print it
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(name, choices):
    """What a message says of the choices nearest to `name`: " Did you mean ...?", or nothing.

    They are other words for it, or names of which it is the initials or the beginning, or similar.
    """
    name, choices = str(name), list(choices)
    near = [c for c in choices if name in OTHER_WORDS.get(c, ())]
    near = near or [c for c in choices if "".join(part[:1] for part in c.split("_")) == name]
    near = near or [c for c in choices if len(name) > 2 and c.startswith(name)]
    near = near or [c for c in choices if c.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown_name(name, choices, what):
    """The message for a name that is not among `choices`, with the nearest ones first."""
    choices = sorted({*map(str, choices)})
    return f"Unknown {what} {shown(name)}.{nearest(name, choices)} Choices: {', '.join(choices)}."
