"""KerasHub's causal language models as policies, with their cache, tokenizer and LoRA."""

import contextlib

import keras
from keras import ops

from artifex_keras.backend import ReadThroughScope, assign_all
from artifex_keras.datasets.text import as_tokenizer
from artifex_keras.rl.policy import TokenPolicy
from artifex_keras.samplers import tokens as samplers

__all__ = ["HubPolicy", "without_lora"]

END_TOKENS = ("end_token_id", "end_token2_id")  # of a tokenizer; Llama 3 has two


class HubPolicy(TokenPolicy):
    """A `keras_hub.models.CausalLM`: `fit` then takes and rewards texts, if it has a tokenizer.

    Tokens are drawn from the whole distribution at the temperature, whatever sampler the model was
    compiled with: truncated by top-k or top-p, they would not be draws from the policy that is
    scored. After `backbone.enable_lora(rank)` the LoRA weights alone are trained, and
    ``reference="lora_off"`` needs no second model. A model with LoRA is saved with it merged, as
    KerasHub does.

    Args:
        model: the model; `end_token_id` and `pad_token_id` are its tokenizer's unless they are
            given. The other arguments are those of `TokenPolicy`.
    """

    def __init__(self, model, *, end_token_id=None, pad_token_id=None, **options):
        tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
        if tokenizer is not None:
            self.tokenizer = as_tokenizer(tokenizer)
            own = [getattr(tokenizer, name, None) for name in END_TOKENS]
            own = [int(token) for token in own if token is not None]
            end_token_id = own or None if end_token_id is None else end_token_id
        super().__init__(model, end_token_id=end_token_id, pad_token_id=pad_token_id, **options)
        _train_lora_alone(model)
        if pad_token_id is None and getattr(tokenizer, "pad_token_id", None) is not None:
            self.pad_token_id = int(tokenizer.pad_token_id)

    @property
    def vocabulary_size(self):
        return int(self.model.backbone.vocabulary_size)

    @property
    def max_length(self):
        return getattr(self.model.backbone, "max_sequence_length", None)

    @property
    def fixed_width(self):
        return None

    @property
    def start_token_id(self):
        return None

    @property
    def feature_width(self):
        return self.model.backbone.hidden_dim

    def features(self, ids, model=None):
        backbone = (self.model if model is None else model).backbone
        ids = ops.convert_to_tensor(ids)
        inputs = {"token_ids": ids, "padding_mask": ops.ones_like(ids)}
        return backbone(inputs, training=False)

    def head(self, features, model=None):
        backbone = (self.model if model is None else model).backbone
        return ops.cast(backbone.token_embedding(features, reverse=True), "float32")

    def copy(self):
        """A frozen copy of the model, with LoRA merged into it."""
        config = keras.saving.serialize_keras_object(self.model)
        config.pop("compile_config", None)
        copy = keras.saving.deserialize_keras_object(config)
        ours, theirs = (_layers_with_weights(model) for model in (self.model, copy))
        for layer, other in zip(ours, theirs, strict=True):
            store = {}
            layer.save_own_variables(store)
            other.load_own_variables(
                {key: ops.convert_to_numpy(value) for key, value in store.items()}
            )
        copy.trainable = False
        return copy

    # Sampling. KerasHub's cache has one place for all rows, counted from their beginning: so rows
    # go on column by column, and where a prompt is longer its own token is kept.

    def completions(self, prompt, length, group_size, uniforms):
        if not hasattr(self.model, "call_with_cache"):
            self.tell_of_no_cache()
            return super().completions(prompt, length, group_size, uniforms)
        state = self._begun(prompt, length, group_size)
        names = sorted(state)
        length = ops.repeat(length, group_size, axis=0)
        total = state["ids"].shape[1]

        def going(*values):
            here = dict(zip(names, values, strict=True))
            rows_go_on = ops.logical_not(ops.all(here["done"]))
            return ops.logical_and(here["column"] < total, rows_go_on)

        def step(*values):
            here = self._stepped(dict(zip(names, values, strict=True)), length, uniforms)
            return [here[name] for name in names]

        values = ops.while_loop(going, step, [state[name] for name in names])
        state = dict(zip(names, values, strict=True))
        places = length[:, None] + ops.arange(self.max_new_tokens, dtype="int32")
        made = (ops.take_along_axis(state[name], places, axis=1) for name in ("ids", "log_probs"))
        return tuple(made)

    def _begun(self, prompt, length, group_size):
        """The state before the first new token of the shortest prompt."""
        ids = ops.pad(prompt, [[0, 0], [0, self.max_new_tokens]])
        real = ops.arange(ids.shape[1], dtype="int32") < length[:, None]
        ids = ops.where(real, ids, self.pad_token_id)
        _, cache = self.model._build_cache(ids)
        ids, cache = keras.tree.map_structure(
            lambda leaf: ops.repeat(leaf, group_size, axis=0), (ids, cache)
        )
        return {
            "ids": ids,
            "log_probs": ops.zeros_like(ids, "float32"),
            "done": ops.zeros_like(ids[:, 0], "bool"),
            "column": ops.min(length),
            "cache": cache,
        }

    def _stepped(self, state, length, uniforms):
        """`state` with one more column."""
        column, done = state["column"], state["done"]
        before = ops.take(state["ids"], column - 1, axis=1)[:, None]
        logits, _, cache = self.model.call_with_cache(before, state["cache"], column - 1)
        index = column - length  # which of its new tokens this is in each row
        last = self.max_new_tokens - 1
        noise = ops.take_along_axis(uniforms, ops.clip(index, 0, last)[:, None], axis=1)[:, 0]
        tokens, scores = samplers.Rule(temperature=self.temperature)(logits[:, 0], None, noise)
        tokens = ops.where(done, ops.full_like(tokens, self.pad_token_id), tokens)
        given = index < 0
        tokens = ops.where(given, ops.take(state["ids"], column, axis=1), tokens)
        scores = ops.where(ops.logical_or(given, done), 0.0, scores)
        done = ops.logical_or(done, index >= last)
        if self.end_token_ids is not None:
            ended = ops.any(tokens[:, None] == self._ends(), axis=-1)
            done = ops.logical_or(done, ops.logical_and(ended, ops.logical_not(given)))
        return {
            "ids": _with_column(state["ids"], tokens, column),
            "log_probs": _with_column(state["log_probs"], scores, column),
            "done": done,
            "column": column + 1,
            "cache": cache,
        }


def _train_lora_alone(model):
    """Where LoRA is on, KerasHub leaves the biases beside it trainable: then nothing could be
    switched off again."""
    if any("lora" in variable.name for variable in model.variables):
        for variable in model.trainable_variables:
            if "lora" not in variable.name:
                variable.trainable = False


def _with_column(table, values, column):
    start = [ops.zeros_like(column), column]
    return ops.slice_update(table, start, ops.cast(values[:, None], table.dtype))


def _layers_with_weights(model):
    return [
        layer
        for layer in model._flatten_layers()
        if layer._trainable_variables or layer._non_trainable_variables
    ]


@contextlib.contextmanager
def without_lora(model):
    """Inside, the model is what it was before its LoRA weights learned anything."""
    factors = [v for v in model.variables if v.name in ("lora_kernel_b", "lora_embeddings_b")]
    pairs = [(factor, ops.zeros_like(factor.value)) for factor in factors]
    with ReadThroughScope(pairs) as scope:
        yield
        assigned, values = scope.updates(excluding=factors)
    assign_all(assigned, values)
