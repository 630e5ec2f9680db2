"""Policies of tokens: a language model samples completions and scores them."""

import functools

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import factor, integer
from artifex_keras.models import Autoregressive
from artifex_keras.models.autoregressive import chunks, decoding
from artifex_keras.objectives import tokens as objectives
from artifex_keras.rl.policies.base import Policy
from artifex_keras.rl.rollout import Rollout, Scores
from artifex_keras.samplers import tokens as samplers

__all__ = ["TokenPolicy"]


class TokenPolicy(Policy):
    """A policy of tokens, whose prompts may have any lengths.

    If the model keeps an average of its weights, the average takes their place: from it, which
    `sample` shows, training starts, and later `sample` shows what was trained.

    Args:
        model: an `Autoregressive`, or a network from ids (B, T) to logits (B, T, V). One with the
            cache of `networks.transformer` samples faster.
        max_new_tokens: C, how many tokens a completion has at most.
        temperature: of sampling, and of all log-probabilities.
        end_token_id: an id, or several, of which any ends a completion.
        pad_token_id: what stands after the end, and at the end of an array's prompts. By default
            the model's own, or the (first) end token.
    """

    option_names = ("max_new_tokens", "temperature", "end_token_id", "pad_token_id")
    tokens = True
    chunk_size = "auto"  # how many tokens' logits exist at a time

    def __init__(
        self, model, *, max_new_tokens=None, temperature=1.0, end_token_id=None, pad_token_id=None
    ):
        super().__init__(model)
        if isinstance(model, Autoregressive):
            model.load_ema_weights()
        self.max_new_tokens = integer("max_new_tokens", max_new_tokens, minimum=1, optional=True)
        self.temperature = factor("temperature", temperature)
        self.strips = pad_token_id is not None
        self.end_token_ids = decoding.end_ids(end_token_id, self.vocabulary_size)
        self.pad_token_id = self._padding(pad_token_id)

    def _padding(self, pad_token_id):
        own = getattr(self.model, "pad_token_id", None)
        pad = integer("pad_token_id", decoding.padding_id(self.end_token_ids, pad_token_id, own))
        decoding.check_token("pad_token_id", pad, self.vocabulary_size)
        given = pad_token_id is not None or own is not None or self.end_token_ids
        self.known_pad = pad if given else None  # 0 for want of an end is a token as well
        return pad

    @property
    def temperature(self):
        """τ; may be set to a function that gives the one of the moment."""
        return self._temperature() if callable(self._temperature) else self._temperature

    @temperature.setter
    def temperature(self, value):
        self._temperature = value

    # The network

    def network_of(self, model):
        """The network within a model of this kind."""
        return model.network if isinstance(model, Autoregressive) else model

    @property
    def network(self):
        """The network that is trained."""
        return self.network_of(self.model)

    @property
    def sampled_by(self):
        return self.network

    @property
    def variables(self):
        """What training changes."""
        return self.network.trainable_variables

    @property
    def vocabulary_size(self):
        """V; None where the model has none."""
        if hasattr(self.model, "vocabulary_size"):
            return int(self.model.vocabulary_size)
        shape = getattr(self.model, "output_shape", None)
        return int(shape[-1]) if isinstance(shape, tuple) and shape[-1] else None

    @functools.cached_property
    def max_length(self):
        """The longest row that the network takes; None if it has no limit."""
        return decoding.max_length(self.network)

    @functools.cached_property
    def fixed_width(self):
        """The one length that a functional network takes; None for any."""
        return decoding.fixed_width(self.network)

    @property
    def start_token_id(self):
        """What stands before every row, None without."""
        return getattr(self.model, "start_token_id", None)

    @property
    def num_start_tokens(self):
        """How many tokens `unpack` puts before a prompt."""
        return int(self.start_token_id is not None)

    @property
    def feature_width(self):
        """The width of `features`; None where the network gives logits alone."""
        if hasattr(self.network, "hidden") and hasattr(self.network, "head"):
            return self.network.hidden(keras.KerasTensor((1, 2), "int32")).shape[-1]
        entry = chunks.last_entry(self.network)
        return None if entry is None else entry.shape[-1]

    def has_head(self, model=None):
        """Whether `features` and `head` are two parts of the network, not all of it and nothing."""
        return chunks.has_head(self.network_of(self.model if model is None else model))

    @property
    def takes_segments(self):
        """Whether the network may be called with `[ids, segments]`."""
        return bool(getattr(self.network, "takes_segments", False))

    def features(self, ids, model=None, training=False):
        """What the logits after ids (N, S) are made of by `head`, (N, S, W), dropout off unless in
        `training`. A network that `takes_segments` takes `[ids, segments]` too."""
        network = self.network_of(self.model if model is None else model)
        return chunks.features(network, ids, training)

    def head(self, features, model=None):
        """The logits of `features`, float32."""
        return chunks.head(self.network_of(self.model if model is None else model), features)

    def chunk(self, features, *models):
        """How many tokens' logits are made at a time of features (N, S, W); None for all at once,
        as where one of the `models` has no head."""
        if not all(self.has_head(model) for model in models or (None,)):
            return None
        return chunks.chunk_of(self.chunk_size, *features.shape[:2], self.vocabulary_size)

    # Acting

    def unpack(self, x):
        """A batch's prompts: a dict of `prompt` (P, W) and `prompt_length` (P,)."""
        columns = x if isinstance(x, dict) else {"prompt": x}
        prompt = ops.cast(columns["prompt"], "int32")
        length = columns.get("prompt_length")
        if length is None:
            length = self._lengths(prompt)
        length = ops.cast(length, "int32")
        if self.start_token_id is not None:
            start = ops.full_like(prompt[:, :1], self.start_token_id)
            prompt, length = ops.concatenate([start, prompt], axis=1), length + 1
        return {"prompt": prompt, "prompt_length": length}

    def _lengths(self, prompt, ops=ops):
        """How many ids of each row stand before the padding at its end, by `keras.ops` or NumPy."""
        if not self.strips:
            return ops.full_like(prompt[:, 0], prompt.shape[1])
        places = ops.arange(1, prompt.shape[1] + 1, dtype="int32")
        return ops.maximum(ops.max(ops.where(prompt != self.pad_token_id, places, 0), axis=1), 1)

    def rollout(self, prompts, group_size, draw, greedy=False):
        """`group_size` completions of each prompt, N rows side by side.

        Args:
            prompts: what `unpack` gives.
            draw: has `uniform(shape)`, the noise.
            greedy: adds to each prompt's completions, as its last, that of the likeliest tokens.

        Returns:
            a `Rollout`.
        """
        prompt, length = prompts["prompt"], prompts["prompt_length"]
        uniforms = draw.uniform((prompt.shape[0] * group_size, self.max_new_tokens))
        tokens, log_probs = self.completions(prompt, length, group_size, uniforms)
        if greedy:
            unused = ops.zeros((prompt.shape[0], self.max_new_tokens))
            best = self.completions(prompt, length, 1, unused, greedy=True)
            tokens = _with_last(tokens, best[0], group_size)
            log_probs = _with_last(log_probs, best[1], group_size)
            group_size += 1
        start = ops.repeat(length, group_size, axis=0)
        prompt = ops.repeat(prompt, group_size, axis=0)
        ended = objectives.ended(tokens, self.end_token_ids)
        return Rollout(
            completion=tokens,
            log_probs=log_probs,
            mask=objectives.end_mask(tokens, self.end_token_ids),
            ended=ops.ones_like(ended) if self.end_token_ids is None else ended,
            sequence=joined(prompt, start, tokens, self.pad_token_id),
            start=start,
        )

    def completions(self, prompt, length, group_size, uniforms, greedy=False):
        """`(tokens, log_probs)`, each (N, C), sampled with the noise `uniforms` (N, C), or the
        likeliest if `greedy`.

        A prompt is read once for all its completions.
        """
        decoder, rule = self._decoder(prompt.shape[1]), self._rule(greedy)
        row_end = {"ends": self._ends(), "pad": self.pad_token_id}
        return decoding.complete(
            decoder, prompt, length, rule, uniforms, group_size=group_size, **row_end
        )

    def _rule(self, greedy):
        return samplers.Rule(greedy=True) if greedy else samplers.Rule(self.temperature)

    def _ends(self):
        if self.end_token_ids is None:
            return None
        return ops.convert_to_tensor(self.end_token_ids, "int32")

    def _decoder(self, width):
        decoding.warn_without_cache(self.network)
        return decoding.decoder_of(self.network, width, self.max_new_tokens)

    # Scoring

    def score(self, rollout, model=None, entropy=False):
        """How likely a rollout's tokens are under `model`, by default the trained one.

        Returns:
            `Scores`; with `entropy` that of the tempered distribution.
        """
        before = self.features(self.inputs(rollout.sequence), model)
        before = self.before_tokens(before, rollout)
        log_probs, *entropies = self._scored(before, rollout.completion, model, entropy)
        return Scores(log_probs, entropy=entropies[0] if entropy else None, features=before)

    def _scored(self, features, tokens, model, entropy=False):
        """`(log_probs,)` of tokens (N, S) by what is before them, or `(log_probs, entropies)`."""
        temperature = self.temperature

        def scored(features, tokens):
            logits = self.head(features, model)
            log_probs = objectives.token_log_probs(logits, tokens, temperature)
            return (log_probs, objectives.entropy(logits, temperature)) if entropy else (log_probs,)

        return chunks.in_chunks(scored, (features, tokens), self.chunk(features, model))

    def before_tokens(self, values, rollout):
        """Of values (N, S, W) after each place of the sequence those before each token of the
        completion, (N, C, W)."""
        steps = ops.arange(rollout.completion.shape[1], dtype="int32")
        places = rollout.start[:, None] - 1 + steps
        places = ops.minimum(places, values.shape[1] - 1)
        return ops.take_along_axis(values, places[:, :, None], axis=1)

    def inputs(self, sequence):
        """What of a sequence the network sees: all but the last token, in a width that it takes."""
        width = sequence.shape[1] - 1
        if self.max_length is not None:
            width = self.fixed_width or min(width, self.max_length)
        seen = sequence[:, :width]
        return ops.pad(seen, [[0, 0], [0, width - seen.shape[1]]])

    def sequence_log_probs(self, tokens, model=None):
        """ln p of each token of rows (B, T) but the first, (B, T - 1); of all of them, (B, T), for
        a model with a start token."""
        if self.start_token_id is not None:
            start = ops.full_like(tokens[:, :1], self.start_token_id)
            tokens = ops.concatenate([start, tokens], axis=1)
        targets = tokens[:, 1:]
        features = self.features(self.inputs(tokens), model)[:, : targets.shape[1]]
        return self._scored(features, targets, model)[0]

    def check_batch(self, x, algorithm):
        prompt = x.get("prompt") if isinstance(x, dict) else x
        shape, dtype = tuple(getattr(prompt, "shape", ())), str(getattr(prompt, "dtype", None))
        if len(shape) != 2 or "int" not in dtype:
            raise ValueError(
                f"{algorithm} takes prompts as rows of token ids (P, W), or as texts "
                f"with a `tokenizer`. Received: `prompt` of shape {shape}, dtype {dtype}."
            )
        if not prompt.shape[1]:
            raise ValueError("A prompt must have at least one token. Received: shape (P, 0).")
        prompt = ops.convert_to_numpy(prompt)
        self.check_ids(prompt)
        lengths = x.get("prompt_length") if isinstance(x, dict) else None
        if lengths is None:
            lengths = self._lengths(prompt, np)  # a program for each step of it would take longer
        lengths = ops.convert_to_numpy(lengths)
        if lengths.size and (lengths.min() < 1 or lengths.max() > shape[1]):
            raise ValueError(
                f"`prompt_length` must be from 1 to {shape[1]}, the width of the prompts. "
                f"Received: {lengths.min()} to {lengths.max()}."
            )
        self.check_prompts(lengths)

    def check_ids(self, ids):
        """Raises a ValueError for ids outside the vocabulary."""
        size = self.vocabulary_size
        if size is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
            raise ValueError(
                f"Token ids must be in [0, {size}), the policy's vocabulary. Received: ids from "
                f"{ids.min()} to {ids.max()}."
            )

    def check_prompts(self, lengths):
        """Raises a ValueError for prompts that leave no room for a completion."""
        if self.max_length is None or not len(lengths):
            return
        longest = int(max(lengths)) + self.num_start_tokens
        if longest + (self.max_new_tokens or 1) - 1 > self.max_length:
            raise ValueError(
                "Prompt and completion must fit into the network's context of "
                f"{self.max_length} tokens (the last new one is not looked at). Received: a prompt "
                f"of {longest} tokens and max_new_tokens={self.max_new_tokens}."
            )


def joined(prompt, length, completion, pad):
    """Prompts (N, W), of which `length` (N,) ids are real, with completions (N, C) behind the real
    ones: (N, W + C), `pad` at the end."""
    width, total = prompt.shape[1], prompt.shape[1] + completion.shape[1]
    places = ops.arange(total, dtype="int32")[None]
    length = length[:, None]
    within = places < length
    source = ops.where(within, places, ops.minimum(width + places - length, total - 1))
    both = ops.concatenate([prompt, completion], axis=1)
    rows = ops.take_along_axis(both, source, axis=1)
    real = places < length + completion.shape[1]
    return ops.where(real, rows, pad)


def _with_last(rows, last, group_size):
    """Rows (P·G, C) with one of `last` (P, C) behind each group of them."""
    groups = ops.reshape(rows, (-1, group_size, rows.shape[1]))
    return ops.reshape(ops.concatenate([groups, last[:, None]], axis=1), (-1, rows.shape[1]))
