"""How many tokens a model of text sees by default, what is cut then, and whether it fits."""

import os

from artifex_keras import backend
from artifex_keras.datasets.rows import bucket
from artifex_keras.planning.report import bytes_text
from artifex_keras.utils import warn

__all__ = ["LONGEST", "ROW_TOKENS", "attention_bytes", "default_context", "fitting_rows", "require"]

LONGEST = 1024  # tokens of a context by default: what attention takes grows with its square
ROW_TOKENS = 8192  # tokens in a batch by default
COPIES = 3  # of a layer's scores that a step holds: scores, probabilities, gradients


def default_context(lengths, wanted, name, lost):
    """The tokens of a context for rows of these `lengths`: the wanted number, or what holds the
    longest row, up to 1,024. A warning says how many rows are cut, and what they lose."""
    context = wanted or min(bucket(max(lengths)), LONGEST)
    say_cut(lengths, context, name, lost)
    return context


def say_cut(lengths, context, name, lost):
    """Warns of rows longer than the context."""
    if too_long := sum(length > context for length in lengths):
        warn(
            f"{too_long} of {len(lengths)} rows of {name!r} are longer than the context of "
            f"{context:,} tokens, the longest has {max(lengths):,}: {lost}. --context says another "
            "length."
        )


def fitting_rows(batch_size, context):
    """The rows of a batch by default: fewer where the context is long."""
    return max(1, min(batch_size, ROW_TOKENS // context))


def attention_bytes(rows, context, num_heads, num_layers):
    """About what the attention of a training step takes, in bytes: (rows, heads, T, T) float32,
    three times a layer."""
    return COPIES * num_layers * rows * num_heads * context**2 * 4


def require(rows, context, num_heads, num_layers):
    """Raises a ValueError where the attention of a step takes more memory than there is.

    Only a CPU's memory is known here; other devices are asked by the first step.
    """
    needed, there = attention_bytes(rows, context, num_heads, num_layers), memory()
    if there is not None and needed > there:
        raise ValueError(
            f"A step would need about {bytes_text(needed)} for attention, and this machine has "
            f"{bytes_text(there)}: {num_layers} layers of {num_heads} heads over {rows} rows of "
            f"{context:,} tokens. Take a shorter context (--context {LONGEST}), or a smaller "
            "--batch-size with --set gradient_accumulation_steps=8."
        )


def memory():
    """The bytes of this machine's memory; None where it isn't known, or isn't the device's."""
    if backend.device_memory() is not None:
        return None
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
