"""KerasHub's causal language models as policies, with their cache, tokenizer and LoRA."""

import inspect

import keras
from keras import ops

from artifex_keras.backend import keras_internals
from artifex_keras.datasets.tokenizers import Tokenizer, as_tokenizer
from artifex_keras.models.autoregressive import decoding
from artifex_keras.models.lora import enable_like, without_lora
from artifex_keras.rl.policies.tokens import TokenPolicy
from artifex_keras.samplers import tokens as samplers

__all__ = ["HubBackbone", "HubPolicy", "is_backbone", "without_lora"]

INPUTS = {"token_ids", "padding_mask"}
END_TOKENS = ("end_token_id", "end_token2_id")  # of a tokenizer; Llama 3 has two
# What `_build_cache` may ask for besides ids: None where there are no pictures.
ABSENT = {"img_embeddings", "vision_mask", "padding_mask", "vision_indices"}


class HubPolicy(TokenPolicy):
    """A `keras_hub.models.CausalLM`: `fit` then takes and rewards texts, if it has a tokenizer.

    Tokens are drawn from the whole distribution at the temperature, whatever sampler the model was
    compiled with: truncated by top-k or top-p, they would not be draws from the policy that is
    scored. If the model's preprocessor begins texts with a start token, as `generate` then does,
    every prompt begins with it here: prompts of ids don't bring it along.

    After `backbone.enable_lora(rank)` the LoRA weights alone are trained, see `rl.base.FineTuning`,
    and ``reference="lora_off"`` needs no second model. The model by itself is saved with LoRA
    merged, as KerasHub does; an algorithm that is saved keeps it.

    Args:
        model: the model; `end_token_id` and `pad_token_id` are its tokenizer's unless they are
            given. The other arguments are those of `TokenPolicy`.

    Raises:
        ValueError: for a model that sees more than tokens, and for one whose logits aren't made of
            what its backbone gives.
    """

    def __init__(self, model, *, end_token_id=None, **options):
        inputs = model.input if isinstance(model.input, dict) else {}
        if set(inputs) != INPUTS or _hidden(model) is None:
            raise ValueError(
                "A KerasHub policy must make logits from what its backbone makes of `token_ids` "
                f"and `padding_mask`. Received: {type(model).__name__} with the inputs "
                f"{sorted(inputs)}."
            )
        self._its_tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
        if self._its_tokenizer is not None:
            self.tokenizer = ModelTokenizer(self._its_tokenizer)
            own = [getattr(self._its_tokenizer, name, None) for name in END_TOKENS]
            own = [int(token) for token in own if token is not None]
            end_token_id = own or None if end_token_id is None else end_token_id
        super().__init__(model, end_token_id=end_token_id, **options)
        self._cached = None

    def _padding(self, pad_token_id):
        if pad_token_id is None:
            pad_token_id = getattr(self._its_tokenizer, "pad_token_id", None)
        return super()._padding(None if pad_token_id is None else int(pad_token_id))

    @property
    def max_length(self):
        return getattr(self.model.backbone, "max_sequence_length", None)

    @property
    def start_token_id(self):
        if not getattr(getattr(self.model, "preprocessor", None), "add_start_token", False):
            return None
        start = getattr(self._its_tokenizer, "start_token_id", None)
        return None if start is None else int(start)

    @property
    def feature_width(self):
        return _hidden(self.model).shape[-1]

    def has_head(self, model=None):
        return True

    def features(self, ids, model=None, training=False):
        model = self.model if model is None else model
        ids = ops.convert_to_tensor(ids)
        # Rows are padded on the right: nothing real sees padding, and no mask is needed.
        inputs = {"token_ids": ids, "padding_mask": ops.ones_like(ids)}
        return model.backbone(inputs, training=training)

    def head(self, features, model=None):
        model = self.model if model is None else model
        return ops.cast(keras.Function(_hidden(model), model.output)(features), "float32")

    def copy(self):
        """A frozen copy of the model, without its preprocessor."""
        config = self.model.get_config() | {"preprocessor": None}
        copy = type(self.model).from_config(config)
        enable_like(copy, self.model)
        copy.set_weights([ops.convert_to_numpy(weight) for weight in self.model.weights])
        copy.trainable = False
        return copy

    # Sampling. KerasHub's cache has one place for all rows, counted from their beginning: so rows
    # go on column by column, and where a prompt is longer its own token is kept.

    def completions(self, prompt, length, group_size, uniforms, greedy=False):
        total = self._total(prompt.shape[1])
        cache = self._prefill(prompt, length, total)
        if cache is None:
            decoding.warn_without_cache(self.network)
            return super().completions(prompt, length, group_size, uniforms, greedy)
        prompt, length, cache = keras.tree.map_structure(
            lambda leaf: ops.repeat(leaf, group_size, axis=0), (prompt, length, cache)
        )
        column, rule = ops.min(length), self._rule(greedy)
        state = {
            "column": column,  # the first without a token
            "latest": ops.take(prompt, column - 1, axis=1),
            "tokens": ops.full(uniforms.shape, self.pad_token_id, "int32"),
            "log_probs": ops.zeros(uniforms.shape, "float32"),
            "done": ops.zeros_like(length, "bool"),
            "cache": cache,
        }
        names = sorted(state)

        def keep_decoding(*values):
            here = dict(zip(names, values, strict=True))
            rows_go_on = ops.logical_not(ops.all(here["done"]))
            return ops.logical_and(here["column"] <= total, rows_go_on)

        def step(*values):
            here = dict(zip(names, values, strict=True))
            here = self._stepped(here, prompt, length, uniforms, rule)
            return [here[name] for name in names]

        values = ops.while_loop(keep_decoding, step, [state[name] for name in names])
        state = dict(zip(names, values, strict=True))
        return state["tokens"], state["log_probs"]

    def _total(self, width):
        """How many columns are looked at: all but the last new token's, and not beyond the context,
        where prompts are padded to more than their length."""
        total = width + self.max_new_tokens - 1
        return total if self.max_length is None else min(total, self.max_length)

    def _prefill(self, prompt, length, total):
        """The cache of `total` columns after prompts (P, W); None for a model without."""
        if self._cached is False or not _offers_cache(self.model):
            return None
        ids = ops.pad(prompt, [[0, 0], [0, max(total - prompt.shape[1], 0)]])[:, :total]
        cache = _cache(self.model, ids)
        if self._cached is None:
            other = _cache(self.model, ops.zeros((1, total - 1 if total > 1 else 2), "int32"))
            pairs = zip(keras.tree.flatten(cache), keras.tree.flatten(other), strict=True)
            self._cached = all(tuple(a.shape[1:]) != tuple(b.shape[1:]) for a, b in pairs)
        return cache if self._cached else None

    def _stepped(self, state, prompt, length, uniforms, rule):
        """`state` with one more column."""
        column, done = state["column"], state["done"]
        fed = state["latest"][:, None]
        logits, _, cache = self.model.call_with_cache(fed, state["cache"], column - 1)
        index = column - length  # which of its new tokens this is in each row
        last = self.max_new_tokens - 1
        noise = ops.take_along_axis(uniforms, ops.clip(index, 0, last)[:, None], axis=1)[:, 0]
        tokens, scores = rule(logits[:, 0], None, noise)
        new = ops.logical_and(index >= 0, ops.logical_not(done))
        here = ops.logical_and(ops.arange(last + 1, dtype="int32") == index[:, None], new[:, None])
        ended = index >= last
        if self.end_token_ids is not None:
            ended = ops.logical_or(ended, ops.any(tokens[:, None] == self._ends(), axis=-1))
        given = ops.take(prompt, ops.minimum(column, prompt.shape[1] - 1), axis=1)
        return {
            "column": column + 1,
            "latest": ops.where(index < 0, given, tokens),
            "tokens": ops.where(here, tokens[:, None], state["tokens"]),
            "log_probs": ops.where(here, scores[:, None], state["log_probs"]),
            "done": ops.logical_or(done, ops.logical_and(new, ended)),
            "cache": keras.tree.pack_sequence_as(state["cache"], keras.tree.flatten(cache)),
        }

    def _decoder(self, width):
        def network(ids, training=False):
            return self.head(self.features(ids))

        total = self._total(width)
        return samplers.FullDecoder(network, width, self.max_new_tokens, total)


class HubBackbone(TokenPolicy):
    """A KerasHub backbone, which gives hidden vectors and no logits: what a reward model scores."""

    @property
    def vocabulary_size(self):
        return getattr(self.model, "vocabulary_size", None)

    @property
    def max_length(self):
        return getattr(self.model, "max_sequence_length", None)

    @property
    def feature_width(self):
        return self.model.output_shape[-1]

    def features(self, ids, model=None):
        model = self.model if model is None else model
        ids = ops.convert_to_tensor(ids)
        return model({"token_ids": ids, "padding_mask": ops.ones_like(ids)}, training=False)


def is_backbone(model):
    """Whether a model is a KerasHub backbone of tokens, and not a model on top of one."""
    inputs = getattr(model, "input", None)
    takes_tokens = isinstance(inputs, dict) and set(inputs) == INPUTS
    return takes_tokens and getattr(model, "backbone", None) is None


class ModelTokenizer(Tokenizer):
    """The tokenizer within a model, with which it is saved. It is asked when it is used: a model
    that is being loaded has no vocabulary yet."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    @property
    def vocabulary_size(self):
        return int(self.tokenizer.vocabulary_size())

    def encode(self, text):
        return as_tokenizer(self.tokenizer).encode(text)

    def _text(self, ids):
        return as_tokenizer(self.tokenizer).decode(ids)


def _hidden(model):
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


def _offers_cache(model):
    """Whether the model has KerasHub's cache, to be filled by ids alone."""
    needed = keras_internals.hub_cache_arguments(model)
    if needed is None or not hasattr(model, "call_with_cache"):
        return False
    accepted = list(inspect.signature(model.call_with_cache).parameters)
    known = {"token_ids"} | ABSENT
    return accepted[:3] == ["token_ids", "cache", "cache_update_index"] and known.issuperset(needed)


def _cache(model, ids):
    """The cache after ids (P, W), of W columns. One that has no columns, of a recurrent network,
    would see padding and what is fed twice."""
    needed = keras_internals.hub_cache_arguments(model)
    absent = {name: None for name in needed if name in ABSENT}
    return keras_internals.fill_hub_cache(model, ids, **absent)
