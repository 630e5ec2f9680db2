"""What an `Autoregressive` generates: rows from nothing, and what follows prompts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import factor, integer, number
from artifex_keras.backend import compiled
from artifex_keras.models import data_contract
from artifex_keras.models.autoregressive import decoding, hub, prompts
from artifex_keras.samplers import tokens as samplers

__all__ = ["Generation"]

LEAST_SHARE = 1e-30  # a smaller one is 0 to float32, which would rule out every token
STREAMED = 8  # new tokens from one call of a stream to the next


class Generation:
    """The part of an `Autoregressive` that generates tokens."""

    def sample(
        self,
        n: int = 1,
        length: int | None = None,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """`n` rows of tokens, (n, length) int32.

        With a `start_token_id` they are draws from the model. Without, the first token of each is
        drawn uniformly from the vocabulary, padding left out, and the others follow: `generate`
        begins with a prompt of yours. `length` is by default that of the rows it was trained on, or
        the network's context.

        Example:

        ```python
        import artifex_keras as ak

        network = ak.networks.CausalTransformer(8, 16, num_layers=1, num_heads=2, width=8)
        model = ak.Autoregressive(network, start_token_id=0)
        model.build((None, 6))
        rows = model.sample(2, length=5, top_k=3, seed=0)  # (2, 5)
        ```
        """
        self._check_built("sample")
        n = integer("n", n, minimum=1)
        length = integer("length", self.length if length is None else length, minimum=1)
        self._check_length(length)
        controls, static = _settings(self.vocabulary_size, temperature, top_k, top_p, min_p)
        with self.drawing_from(seed):
            return self._sampled_program(controls, n=n, length=length, **static)

    @compiled
    def _sampled_program(self, controls, *, n, length, **static):
        if self.start_token_id is None:
            first = self._first_tokens(n)
        else:
            first = ops.full((n, 1), self.start_token_id, "int32")
        if length == self._shift:
            return first
        with self.ema_weights():
            tokens, _ = self.completions(
                first,
                ops.ones((n,), "int32"),
                samplers.Rule(**controls, **static),
                num_tokens=length - self._shift,
            )
        return ops.concatenate([first, tokens], axis=1) if self._shift else tokens

    def _first_tokens(self, n):
        """(n, 1) tokens that are not padding, all alike probable."""
        pad = self.pad_token_id
        count = self.vocabulary_size - (pad is not None)
        tokens = ops.cast(ops.floor(self.uniform((n, 1)) * count), "int32")
        return tokens if pad is None else tokens + ops.cast(tokens >= pad, "int32")

    def completions(self, prompt, lengths, rule, *, num_tokens, ends=None, pad=0):
        """`(tokens, log_probs)`, each (B, N), in one loop that stops when all rows have ended.

        What `generate` does, for use inside a step: it takes tensors, checks nothing, and uses the
        weights and the stream of noise of the moment.

        Args:
            prompt: ids (B, P), of a static shape; the real ones first.
            lengths: (B,), how many are real, at least one.
            rule: a `samplers.tokens.Rule`.
            num_tokens: N.
            ends: (E,) ids that end a row; or None.
            pad: what follows the end.
        """
        uniforms = self.uniform((prompt.shape[0], num_tokens))
        decoder = decoding.decoder_of(self.network, prompt.shape[1], num_tokens)
        row_end = {"ends": ends, "pad": pad}
        return decoding.complete(decoder, prompt, lengths, rule, uniforms, **row_end)

    @property
    def has_cache(self):
        """Whether the network offers the cache of `networks.transformer`, or KerasHub's."""
        return decoding.has_cache(self.network) or hub.offers_cache(self.network)

    def generate(
        self,
        prompt: Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        end_token_id: int | Sequence[int] | None = None,
        *,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        prompt_mask: Tensor = None,
        prompt_lengths: Tensor = None,
        num_beams: int = 1,
        length_penalty: float = 0.0,
        return_log_probs: bool = False,
        stream: Callable[..., Any] | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """The tokens that follow the prompts: (B, `max_new_tokens`) int32.

        One compiled loop, which stops when every row has ended. Prompts are padded to one of a few
        widths, so that a new length seldom compiles anew.

        Args:
            prompt: ids: rows of any lengths in a list, an array (B, T), or a single row. With a
                `pad_token_id` padding is taken off both ends of an array's rows.
            max_new_tokens: at most so many in each row.
            temperature: divides the logits; 0 takes the likeliest token.
            top_k: choose among the k likeliest.
            top_p: choose among the likeliest that together have that probability.
            end_token_id: an id, or several of which any ends a row. The end token is part of the
                row; after it stands `pad_token_id`, or without one the (first) end token. By
                default what ends a text for the tokenizer of a KerasHub `CausalLM`.
            min_p: choose among those at least that share as likely as the likeliest.
            repetition_penalty: makes tokens of prompt and row less likely, above 1 (1909.05858).
            prompt_mask: (B, T), not zero where a token of the prompt is real.
            prompt_lengths: (B,), instead: the number of real ones, padding on the right.
            num_beams: with more than 1 a beam search for the likeliest sequence: nothing is drawn,
                and neither temperature nor what else rules choice may be given.
            length_penalty: see `samplers.tokens.beam_search`.
            return_log_probs: give `(tokens, log_probs)`. They are the model's at that temperature
                (at 1 where the temperature is 0) before top-k, top-p, min-p and penalty; after the
                end they are 0.
            stream: called with each few new tokens (B, k), NumPy, as they come;
                `datasets.TextStream` prints them.
            seed: draws the same ones each time.

        Raises:
            ValueError: for an empty prompt, ids outside the vocabulary, a prompt and tokens longer
                than the network's context, settings outside their range.

        Example:

        ```python
        import artifex_keras as ak

        network = ak.networks.CausalTransformer(8, 16, num_layers=1, num_heads=2, width=8)
        model = ak.Autoregressive(network, start_token_id=0)
        model.build((None, 6))
        tokens = model.generate([[1, 2], [3]], 4, temperature=0.8, end_token_id=7)  # (2, 4)
        ```
        """
        self._check_built("generate")
        controls, static = _settings(
            self.vocabulary_size, temperature, top_k, top_p, min_p, repetition_penalty
        )
        count = integer("max_new_tokens", max_new_tokens, minimum=1)
        rows = prompts.rows_of(
            prompt,
            mask=prompt_mask,
            lengths=prompt_lengths,
            pad=self.pad_token_id,
            start=self.start_token_id,
        )
        ids, lengths = self._checked_prompts(rows, count)
        ends, place = self._place(ids, count, end_token_id)
        decoding.warn_without_cache(self.network)
        with self.drawing_from(seed):
            if integer("num_beams", num_beams, minimum=1) > 1:
                _check_beams(controls, static, stream)
                made = self._beams_program(
                    *(ids, lengths, ends),
                    num_beams=num_beams,
                    length_penalty=number(
                        "length_penalty", length_penalty, minimum=-10, maximum=10
                    ),
                    **place,
                )
            elif stream is None:
                made = self._generated_program(ids, lengths, ends, controls, **place, **static)
            else:
                made = self._streamed(stream, ids, lengths, ends, controls, **place, **static)
        return made if return_log_probs else made[0]

    def generated(
        self,
        prompt,
        prompt_lengths,
        max_new_tokens,
        temperature=1.0,
        top_k=None,
        top_p=None,
        end_token_id=None,
        *,
        min_p=None,
        repetition_penalty=None,
    ):
        """`generate` of prompts as tensors, (B, P) ids with the real ones first and (B,) how many.

        It looks at no value, so it may be part of a program.
        """
        rules = (temperature, top_k, top_p, min_p, repetition_penalty)
        controls, static = _settings(self.vocabulary_size, *rules)
        self._check_length(prompt.shape[1] + max_new_tokens - 1)
        ends, place = self._place(prompt, max_new_tokens, end_token_id)
        return self._generated_program(prompt, prompt_lengths, ends, controls, **place, **static)[0]

    def _place(self, ids, num_tokens, end_token_id):
        """`(ends, place)`: the ids that end a row, int32, and what a program is made for."""
        if end_token_id is None:
            end_token_id = hub.end_ids(self.network)
        ends = decoding.end_ids(end_token_id, self.vocabulary_size)
        place = {"rows": ids.shape[0], "width": ids.shape[1], "num_tokens": num_tokens}
        place["pad"] = decoding.padding_id(ends, self.pad_token_id)
        return None if ends is None else np.array(ends, "int32"), place

    # The number of rows and the width are settings of the programs, so that each is traced with
    # the shapes that it has.

    @compiled
    def _generated_program(
        self, ids, lengths, ends, controls, *, rows, width, num_tokens, pad, **static
    ):
        with self.ema_weights():
            return self.completions(
                ops.reshape(ids, (rows, width)),
                ops.reshape(lengths, (rows,)),
                samplers.Rule(**controls, **static),
                num_tokens=num_tokens,
                ends=ends,
                pad=pad,
            )

    @compiled
    def _beams_program(self, ids, lengths, ends, *, rows, width, num_tokens, **search):
        decoder = decoding.decoder_of(self.network, width, num_tokens)
        ids, lengths = ops.reshape(ids, (rows, width)), ops.reshape(lengths, (rows,))
        with self.ema_weights():
            logits, cache = decoder.start(ids, lengths)
            return samplers.beam_search(
                logits, decoder, cache, num_tokens=num_tokens, ends=ends, **search
            )

    def _streamed(self, stream, ids, lengths, ends, controls, **static):
        """`_generated_program` in pieces, each shown to `stream`."""
        state, uniforms = self._start_program(ids, lengths, ends, controls, **static)
        shown, count = 0, static["num_tokens"]
        while True:
            made = int(state["index"])
            stream(ops.convert_to_numpy(state["tokens"])[:, shown:made])
            shown = made
            if made == count or bool(ops.convert_to_numpy(state["done"]).all()):
                return state["tokens"], state["log_probs"]
            until = np.int32(min(made + STREAMED, count))
            state = self._continue_program(state, uniforms, until, ends, controls, **static)

    @compiled
    def _start_program(
        self, ids, lengths, ends, controls, *, rows, width, num_tokens, pad, **static
    ):
        uniforms = self.uniform((rows, num_tokens))
        with self.ema_weights():
            state = decoding.start(
                decoding.decoder_of(self.network, width, num_tokens),
                ops.reshape(ids, (rows, width)),
                ops.reshape(lengths, (rows,)),
                samplers.Rule(**controls, **static),
                uniforms,
                ends=ends,
                pad=pad,
            )
        return state, uniforms

    @compiled
    def _continue_program(
        self, state, uniforms, until, ends, controls, *, rows, width, num_tokens, pad, **static
    ):
        with self.ema_weights():
            return samplers.continue_decode(
                state,
                decoding.decoder_of(self.network, width, num_tokens),
                samplers.Rule(**controls, **static),
                uniforms,
                until=until,
                ends=ends,
                pad=pad,
            )

    def _checked_prompts(self, rows, count):
        ids = data_contract.tokens(self.vocabulary_size)
        for index, row in enumerate(rows):
            data_contract.check(ids, row, place=f"prompt {index}")
        longest = max(map(len, rows))
        if self.max_length is not None:
            if longest > self.max_length:
                raise ValueError(
                    f"A prompt must fit into the network's context of {self.max_length} tokens. "
                    f"Received: a prompt of {longest}. Cut it from the left"
                    f"{decoding.way_to_longer(self.network)}."
                )
            if longest + count - 1 > self.max_length:
                raise ValueError(
                    f"Prompt and new tokens must fit into the network's context of "
                    f"{self.max_length} tokens (the last new one is not looked at). Received: a "
                    f"prompt of {longest} and max_new_tokens={count}"
                    f"{decoding.way_to_longer(self.network)}."
                )
        # Padding must not reach beyond the places that the network knows.
        context = self.length - self._shift if self.max_length is None else self.max_length
        return prompts.padded(rows, room=context - count + 1)


def _settings(size, temperature, top_k=None, top_p=None, min_p=None, repetition_penalty=None):
    """What rules the choice of a token, checked, as fields of `samplers.tokens.Rule`: those that
    are numbers of a program, and those that are its settings."""
    temperature = factor("temperature", temperature, zero=True)
    greedy = temperature == 0
    probabilities = {"top_p": top_p, "min_p": min_p}
    controls = {
        name: max(number(name, value, above=0.0, maximum=1.0), LEAST_SHARE)
        for name, value in probabilities.items()
        if value is not None
    }
    if repetition_penalty is not None:
        controls["repetition_penalty"] = factor("repetition_penalty", repetition_penalty)
    if not greedy:
        controls["temperature"] = temperature
    if top_k is not None:
        top_k = min(integer("top_k", top_k, minimum=1), size)
    controls = {name: np.float32(value) for name, value in controls.items()}
    return controls, {"top_k": top_k, "greedy": greedy}


def _check_beams(controls, static, stream):
    given = [name for name, value in controls.items() if name != "temperature" or value != 1]
    given += [name for name, value in static.items() if value]
    given += ["stream"] if stream is not None else []
    if given:
        raise ValueError(
            "A beam search draws nothing and shows nothing before its end. Received: num_beams "
            f"with a setting for {', '.join(given)}."
        )
