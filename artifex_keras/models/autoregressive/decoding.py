"""The engine that generates tokens: one for `Autoregressive` and for policies of tokens.

A network reads the prompts once, then gives the logits of each next token: from its key-value
cache where it has one, from the whole row where it hasn't. `samplers.tokens` chooses tokens.
"""

import logging
import weakref

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer
from artifex_keras.models.autoregressive import hub
from artifex_keras.samplers import tokens as samplers

__all__ = [
    "check_token",
    "complete",
    "decoder_of",
    "end_ids",
    "fixed_width",
    "has_cache",
    "max_length",
    "padding_id",
    "start",
    "warn_without_cache",
]

logger = logging.getLogger("artifex_keras")

_warned = weakref.WeakSet()  # networks


# What a network offers


def has_cache(network):
    """Whether the network offers the cache of `networks.transformer`."""
    return hasattr(network, "make_cache") and hasattr(network, "step")


def fixed_width(network):
    """The one length of rows that a functional network takes; None for any."""
    shape = getattr(network, "input_shape", None) if network.built else None
    return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None


def max_length(network):
    """The longest row that the network takes, its context; None if it doesn't say."""
    own = getattr(network, "max_length", None) or hub.context(network)
    return fixed_width(network) if own is None else own


def way_to_longer(network):
    """What a message says of a network whose context is only the width of its input."""
    if getattr(network, "max_length", None) is not None:
        return ""
    return ", or begin the network with `keras.Input((None,))` if it can take rows of any length"


def warn_without_cache(network):
    """Warns once for each network that generation is slow without a key-value cache."""
    if not (has_cache(network) or hub.offers_cache(network)) and network not in _warned:
        _warned.add(network)
        logger.warning(
            "%r has no key-value cache: it is called on the whole row for every new token "
            "(artifex_keras.networks.transformer says what a cache offers)",
            network.name,
        )


# Which ids end a row, and which follow the end


def check_token(name, token, vocabulary_size):
    """Raises a ValueError for an id outside a vocabulary of that size; None is any size."""
    if vocabulary_size is not None and token >= vocabulary_size:
        raise ValueError(
            f"`{name}` must be below the vocabulary's size {vocabulary_size}. "
            f"Received: {name}={token}."
        )


def end_ids(end_token_id, vocabulary_size=None):
    """The ids that end a row as a list of ints, from one id or several; None for none.

    Raises:
        ValueError: for an empty list, and for what is no id of the vocabulary.
    """
    if end_token_id is None:
        return None
    ends = list(end_token_id) if np.ndim(end_token_id) else [end_token_id]
    if not ends:
        raise ValueError("`end_token_id` must hold an id, or be None. Received: an empty list.")
    ends = [integer("end_token_id", end) for end in ends]
    for end in ends:
        check_token("end_token_id", end, vocabulary_size)
    return ends


def padding_id(ends, *pads):
    """The id after the end of a row: the first of `pads` that isn't None, the first end, or 0."""
    return next(pad for pad in (*pads, (ends or [0])[0]) if pad is not None)


# Generation


def decoder_of(network, width, num_tokens):
    """The decoder of `samplers.tokens` for prompts (B, `width`) and `num_tokens` more."""
    if hub.is_causal_lm(network):
        return hub.HubDecoder(network, width, num_tokens)
    if has_cache(network):
        return samplers.CachedDecoder(network, width, num_tokens)
    return samplers.FullDecoder(network, width, num_tokens, fixed_width(network))


def start(decoder, prompt, lengths, rule, uniforms, *, group_size=1, ends=None, pad=0):
    """The state after the first token of each completion, see `samplers.tokens.start_decode`.

    A prompt is read once for all its completions. Arguments as for `complete`.
    """
    logits, cache = decoder.start(prompt, lengths)
    seen = None
    if rule.repetition_penalty is not None:
        real = ops.arange(prompt.shape[1], dtype="int32") < lengths[:, None]
        seen = samplers.seen_tokens(prompt, real, logits.shape[-1])
    if group_size > 1:
        logits, seen, cache = keras.tree.map_structure(
            lambda leaf: ops.repeat(leaf, group_size, axis=0),
            (logits, seen, cache),
            none_is_leaf=False,
        )
    return samplers.start_decode(logits, rule, uniforms, seen, cache, ends=ends, pad=pad)


def complete(decoder, prompt, lengths, rule, uniforms, *, group_size=1, ends=None, pad=0):
    """`(tokens, log_probs)`, each (B·G, N), in one loop that stops when all rows have ended.

    For use inside a step: it takes tensors and checks nothing.

    Args:
        decoder: what `decoder_of` gives.
        prompt: ids (B, P), of a static shape; the real ones first.
        lengths: (B,), how many are real, at least one.
        rule: a `samplers.tokens.Rule`.
        uniforms: the noise, (B·G, N) in [0, 1), for N tokens.
        group_size: G, completions of each prompt, side by side.
        ends: (E,) ids that end a row; or None.
        pad: what follows the end.
    """
    row_end = {"ends": ends, "pad": pad}
    if isinstance(decoder, hub.HubDecoder):
        made = decoder.complete(prompt, lengths, rule, uniforms, group_size=group_size, **row_end)
        if made is not None:
            return made
        warn_without_cache(decoder.model)
    state = start(decoder, prompt, lengths, rule, uniforms, group_size=group_size, **row_end)
    state = samplers.continue_decode(state, decoder, rule, uniforms, **row_end)
    return state["tokens"], state["log_probs"]
