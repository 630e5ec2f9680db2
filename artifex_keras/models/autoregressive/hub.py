"""KerasHub's causal language models as networks of ids: their halves, their context, their cache.

A `CausalLM` takes a dict and has a cache of its own kind. What stands here is the one place that
knows both, for `Autoregressive` and for policies alike.
"""

import inspect
import weakref

import keras
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.samplers import tokens as samplers

__all__ = [
    "HubDecoder",
    "check",
    "context",
    "end_ids",
    "features",
    "head",
    "hidden",
    "is_backbone",
    "is_causal_lm",
    "offers_cache",
    "padding_id",
    "start_id",
    "tokenizer",
    "usual_length",
]

INPUTS = {"token_ids", "padding_mask"}
END_TOKENS = ("end_token_id", "end_token2_id")  # of a tokenizer; Llama 3 has two
# What `_build_cache` may ask for besides ids: None where there are no pictures.
ABSENT = {"img_embeddings", "vision_mask", "padding_mask", "vision_indices"}
LENGTH = 1024  # KerasHub's own, of rows of a model that names none

_has_columns = weakref.WeakKeyDictionary()  # by model: whether its cache is one of columns


# Which models these are


def is_causal_lm(model):
    """Whether a model is a KerasHub `CausalLM`, or of its kind."""
    if isinstance(model, keras.Model) and hasattr(model, "call_with_cache"):
        return True
    return type(model).__module__.startswith("keras_hub") and not is_backbone(model)


def is_backbone(model):
    """Whether a model is a KerasHub backbone of tokens, and not a model on top of one."""
    inputs = getattr(model, "input", None)
    takes_tokens = isinstance(inputs, dict) and set(inputs) == INPUTS
    return takes_tokens and getattr(model, "backbone", None) is None


def check(model):
    """Raises a ValueError for a KerasHub model that isn't one of tokens with a head."""
    if is_backbone(model):
        raise ValueError(
            "A KerasHub backbone gives hidden vectors, and no logits: make the `CausalLM` of its "
            f"family of it, such as keras_hub.models.{_family(model)}CausalLM(backbone=backbone, "
            f"preprocessor=None). Received: {type(model).__name__} {model.name!r}."
        )
    inputs = model.input if isinstance(model.input, dict) else {}
    if set(inputs) != INPUTS or hidden(model) is None:
        raise ValueError(
            "A KerasHub model must make logits from what its backbone makes of `token_ids` "
            f"and `padding_mask`. Received: {type(model).__name__} with the inputs "
            f"{sorted(inputs)}."
        )


def _family(backbone):
    return type(backbone).__name__.removesuffix("Backbone")


# The network


def hidden(model):
    """What the backbone gives in the graph of a model, of which it makes its logits; None if that
    isn't where they come from."""
    tensors = list(keras.tree.flatten(model.output))
    while tensors:
        tensor = tensors.pop()
        operation, inputs = keras_internals.origin(tensor)
        if operation is model.backbone:
            return tensor
        tensors += inputs
    return None


def features(model, ids, training=False):
    """What the backbone of a model, or a backbone, makes of ids (B, T): (B, T, W)."""
    ids = ids if isinstance(ids, keras.KerasTensor) else ops.convert_to_tensor(ids)
    # Rows are padded on the right: nothing real sees padding, and no mask is needed.
    inputs = {"token_ids": ids, "padding_mask": ops.ones_like(ids)}
    return getattr(model, "backbone", model)(inputs, training=training)


def head(model, features):
    """The logits of `features`, float32."""
    return ops.cast(keras.Function(hidden(model), model.output)(features), "float32")


def context(model):
    """The longest row that a model takes; None if it has no limit."""
    return getattr(getattr(model, "backbone", model), "max_sequence_length", None)


def usual_length(model):
    """How long the rows of a model are where nothing else says: its context, or its
    preprocessor's rows."""
    own = getattr(getattr(model, "preprocessor", None), "sequence_length", None)
    return int(context(model) or own or LENGTH)


# Its tokenizer


def tokenizer(model):
    """The tokenizer of KerasHub within a model; None without."""
    return getattr(getattr(model, "preprocessor", None), "tokenizer", None)


def end_ids(model):
    """The ids by which its tokenizer ends a text, a list; None without."""
    found = [getattr(tokenizer(model), name, None) for name in END_TOKENS]
    return [int(token) for token in found if token is not None] or None


def padding_id(model):
    """The id with which its tokenizer pads; None without."""
    found = getattr(tokenizer(model), "pad_token_id", None)
    return None if found is None else int(found)


def start_id(model):
    """The id that its preprocessor puts before each text; None where it doesn't."""
    if not getattr(getattr(model, "preprocessor", None), "add_start_token", False):
        return None
    found = getattr(tokenizer(model), "start_token_id", None)
    return None if found is None else int(found)


# Generation


class HubDecoder(samplers.FullDecoder):
    """Logits of a KerasHub model: with its cache in `complete`, else of the whole row each time."""

    def __init__(self, model, width, num_tokens):
        self.model, self.num_tokens = model, num_tokens
        # All columns but the last new token's are looked at, and none beyond the context, where
        # prompts are padded to more than their length.
        total = width + num_tokens - 1
        total = total if context(model) is None else min(total, context(model))
        super().__init__(self._logits, width, num_tokens, total)

    def _logits(self, ids, training=False):
        return head(self.model, features(self.model, ids, training))

    def complete(self, prompt, length, rule, uniforms, *, group_size=1, ends=None, pad=0):
        """`(tokens, log_probs)` as `decoding.complete` gives them, by the cache; None for a model
        without one, and for a rule that looks at what has been said.

        KerasHub's cache has one place for all rows, counted from their beginning. So all rows move
        column by column, and where a prompt is longer its own token is kept.
        """
        cache = None if rule.repetition_penalty is not None else self.prefill(prompt)
        if cache is None:
            return None
        prompt, length, cache = keras.tree.map_structure(
            lambda leaf: ops.repeat(leaf, group_size, axis=0), (prompt, length, cache)
        )
        column = ops.min(length)
        state = {
            "column": column,  # the first without a token
            "latest": ops.take(prompt, column - 1, axis=1),
            "tokens": ops.full(uniforms.shape, pad, "int32"),
            "log_probs": ops.zeros(uniforms.shape, "float32"),
            "done": ops.zeros_like(length, "bool"),
            "cache": cache,
        }
        names = sorted(state)

        def keep_decoding(*values):
            here = dict(zip(names, values, strict=True))
            some_are_open = ops.logical_not(ops.all(here["done"]))
            return ops.logical_and(here["column"] <= self.total, some_are_open)

        def step(*values):
            here = dict(zip(names, values, strict=True))
            here = self._stepped(here, prompt, length, uniforms, rule, ends)
            return [here[name] for name in names]

        values = ops.while_loop(keep_decoding, step, [state[name] for name in names])
        state = dict(zip(names, values, strict=True))
        return state["tokens"], state["log_probs"]

    def prefill(self, prompt):
        """The cache after prompts (B, P), of `total` columns; None for a model without.

        A cache that has no columns, of a recurrent network, would see padding, and twice what is
        fed twice: it isn't used.
        """
        if not offers_cache(self.model):
            return None
        room = max(self.total - prompt.shape[1], 0)
        cache = _cache(self.model, ops.pad(prompt, [[0, 0], [0, room]])[:, : self.total])
        if self.model not in _has_columns:
            other = ops.zeros((1, self.total - 1 if self.total > 1 else 2), "int32")
            other = keras.tree.flatten(_cache(self.model, other))
            pairs = zip(keras.tree.flatten(cache), other, strict=True)
            differ = all(tuple(a.shape[1:]) != tuple(b.shape[1:]) for a, b in pairs)
            _has_columns[self.model] = differ
        return cache if _has_columns[self.model] else None

    def _stepped(self, state, prompt, length, uniforms, rule, ends):
        """`state` with one more column."""
        column, done = state["column"], state["done"]
        fed = state["latest"][:, None]
        logits, _, cache = self.model.call_with_cache(fed, state["cache"], column - 1)
        index = column - length  # which of its new tokens this is in each row
        last = self.num_tokens - 1
        noise = ops.take_along_axis(uniforms, ops.clip(index, 0, last)[:, None], axis=1)[:, 0]
        tokens, scores = rule(logits[:, 0], None, noise)
        new = ops.logical_and(index >= 0, ops.logical_not(done))
        here = ops.logical_and(ops.arange(last + 1, dtype="int32") == index[:, None], new[:, None])
        ended = index >= last
        if ends is not None:
            ended = ops.logical_or(ended, ops.any(tokens[:, None] == ends, axis=-1))
        given = ops.take(prompt, ops.minimum(column, prompt.shape[1] - 1), axis=1)
        return {
            "column": column + 1,
            "latest": ops.where(index < 0, given, tokens),
            "tokens": ops.where(here, tokens[:, None], state["tokens"]),
            "log_probs": ops.where(here, scores[:, None], state["log_probs"]),
            "done": ops.logical_or(done, ops.logical_and(new, ended)),
            "cache": keras.tree.pack_sequence_as(state["cache"], keras.tree.flatten(cache)),
        }


def offers_cache(model):
    """Whether a KerasHub model has a cache of columns, to be filled by ids alone."""
    needed = keras_internals.hub_cache_arguments(model)
    if needed is None or not hasattr(model, "call_with_cache"):
        return False
    accepted = list(inspect.signature(model.call_with_cache).parameters)
    known = {"token_ids"} | ABSENT
    fits = accepted[:3] == ["token_ids", "cache", "cache_update_index"]
    return fits and known.issuperset(needed) and _has_columns.get(model, True)


def _cache(model, ids):
    """The cache after ids (P, W), of W columns."""
    needed = keras_internals.hub_cache_arguments(model)
    absent = {name: None for name in needed if name in ABSENT}
    return keras_internals.fill_hub_cache(model, ids, **absent)
