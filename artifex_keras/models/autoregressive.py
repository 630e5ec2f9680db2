"""Autoregressive models of tokens: one network that tells the next from those before."""

import logging

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer, lookup, number
from artifex_keras.backend import compiled
from artifex_keras.models import checks, prompts
from artifex_keras.models.base import Batch, GenerativeModel
from artifex_keras.models.metrics import ExponentialMean
from artifex_keras.objectives import tokens as objectives
from artifex_keras.samplers import tokens as samplers

logger = logging.getLogger("artifex_keras")

STREAMED = 8  # new tokens from one call of a stream to the next


@keras.saving.register_keras_serializable(package="artifex_keras")
class Autoregressive(GenerativeModel):
    """A model of sequences: `fit(tokens)`, then `generate(prompt, n)`, `sample(n)`, `log_prob(x)`.

    The loss is the mean over all tokens that count, over a batch and over an epoch, of

        -ln p(x_t | x_<t)   in nats,

    so a long row weighs more than a short one. Rows (B, T) of ids are their own targets, moved by
    one: the first token is given, unless there is a `start_token_id`. What counts may be said

    - by targets, `fit(tokens, labels)`: integers (B, T), the token that each place should have had,
      `ignore_index` where none counts; or booleans (B, T), False where the token doesn't count (the
      prompts in supervised fine-tuning);
    - by `sample_weight` (B,) or (B, T);
    - else by `pad_token_id`: tokens of that id don't count. Where padding has the id of the end
      token too, say what counts instead.

    Rows are padded on the right. Accumulated micro-batches weigh alike, whatever they count.

    Args:
        network: from ids (B, T) to logits (B, T, V), where logits t may depend on ids up to t
            only. One with the cache of `networks.transformer` generates faster.
        pad_token_id: the id of padding in training and of what follows the end in generation.
        ignore_index: the label of a place that doesn't count.
        label_smoothing: ε, the share of the target spread over all tokens.
        z_loss: weight ζ of (logsumexp of the logits)²; 1e-4 in 2204.02311.
        scheduled_sampling: how the share of true tokens among the inputs falls in training
            (1506.03099): `"none"` keeps all of them, see `objectives.tokens.forcing_probability`
            for `"linear"`, `"exponential"`, `"inverse_sigmoid"`. The others are drawn from what the
            model says of that place after the true tokens before it, in one pass over the row.
            Biased (1511.05101): use it knowingly.
        scheduled_sampling_steps: k of that schedule, in updates.
        start_token_id: put before every row and every prompt, so that the first token is learned
            and drawn like the others.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `perplexity` (of the targets alone, without smoothing and z-loss), `accuracy`
    (how often the likeliest token is the right one).
    """

    submodels = ("network",)
    options = (
        "pad_token_id",
        "ignore_index",
        "label_smoothing",
        "z_loss",
        "scheduled_sampling",
        "scheduled_sampling_steps",
        "start_token_id",
        "ema_decay",
        "seed",
    )
    metric_names = ("perplexity", "accuracy")
    metric_types = {"perplexity": ExponentialMean}
    counts = "tokens"

    def __init__(
        self,
        network,
        *,
        pad_token_id=None,
        ignore_index=-100,
        label_smoothing=0.0,
        z_loss=0.0,
        scheduled_sampling="none",
        scheduled_sampling_steps=1000,
        start_token_id=None,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.network = checks.network("network", network)
        self.pad_token_id = _token("pad_token_id", pad_token_id)
        self.ignore_index = integer("ignore_index", ignore_index, minimum=-(2**31))
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.scheduled_sampling = scheduled_sampling
        self.scheduled_sampling_steps = scheduled_sampling_steps
        self.start_token_id = _token("start_token_id", start_token_id)
        self._told = False
        length = self._network_length()
        if network.built and length is not None:
            self.build((None, length))

    @property
    def label_smoothing(self):
        """ε, the share of the target spread over all tokens."""
        return self._label_smoothing

    @label_smoothing.setter
    def label_smoothing(self, value):
        value = number("label_smoothing", value, minimum=0.0, maximum=1.0)
        self._label_smoothing = value

    @property
    def z_loss(self):
        """The weight of (logsumexp of the logits)²."""
        return self._z_loss

    @z_loss.setter
    def z_loss(self, value):
        self._z_loss = number("z_loss", value, minimum=0.0)

    @property
    def scheduled_sampling(self):
        """How the share of true tokens falls: "none" or a row of `FORCING_SCHEDULES`."""
        return self._scheduled_sampling

    @scheduled_sampling.setter
    def scheduled_sampling(self, value):
        name = "none" if value is None else value
        lookup({"none": None, **objectives.FORCING_SCHEDULES}, name, "scheduled sampling")
        self._scheduled_sampling = name

    @property
    def scheduled_sampling_steps(self):
        """k of the schedule."""
        return self._scheduled_sampling_steps

    @scheduled_sampling_steps.setter
    def scheduled_sampling_steps(self, value):
        self._scheduled_sampling_steps = integer("scheduled_sampling_steps", value, minimum=1)

    # Building and checking

    @property
    def _shift(self):
        """How many tokens of a row are given rather than learned."""
        return 1 if self.start_token_id is None else 0

    @property
    def max_length(self):
        """The longest row that the network takes, its context; None if it doesn't tell."""
        own = getattr(self.network, "max_length", None)
        return self._fixed_width() if own is None else own

    def _fixed_width(self):
        """The one length that a functional network takes; None for any."""
        shape = getattr(self.network, "input_shape", None) if self.network.built else None
        return shape[1] if isinstance(shape, tuple) and len(shape) == 2 else None

    def _network_length(self):
        """Rows whose inputs fill a fixed width; of a network that takes shorter ones, its own."""
        fixed = self._fixed_width()
        return self.max_length if fixed is None else fixed + self._shift

    def build(self, input_shape, condition=None):
        """Builds the network for rows (B, T) and checks that it gives logits."""
        if self.built:
            return
        if len(input_shape) != 2 or (input_shape[1] or 2) <= self._shift:
            raise ValueError(
                "Autoregressive learns rows of token ids (B, T) with at least one token to "
                f"predict. Received: data of shape {tuple(input_shape)}."
            )
        width = input_shape[1] - self._shift
        logits = self.network(keras.KerasTensor((None, width), dtype="int32"))
        if len(logits.shape) != 3 or tuple(logits.shape[1:-1]) != (width,):
            raise ValueError(
                f"The network must give logits of shape (B, {width}, V) for ids of shape "
                f"(B, {width}). Received: an output of shape {tuple(logits.shape)}."
            )
        self.vocabulary_size = int(logits.shape[-1])
        self.length = int(input_shape[1])
        for name in ("pad_token_id", "start_token_id"):
            token = getattr(self, name)
            if token is not None and token >= self.vocabulary_size:
                raise ValueError(
                    f"`{name}` must be below the vocabulary's size {self.vocabulary_size}. "
                    f"Received: {name}={token}."
                )
        self.finish_build((None, self.length))

    def fit(self, x=None, y=None, *args, **kwargs):
        if hasattr(x, "shape") and hasattr(x, "dtype") and len(x) and self.built:
            self._check_ids(ops.convert_to_numpy(x))
        return super().fit(x, y, *args, **kwargs)

    def check_batch(self, x, y):
        if len(x.shape) != 2:
            raise ValueError(
                "Autoregressive learns rows of token ids (B, T). Received: data of shape "
                f"{tuple(x.shape)}."
            )
        if y is not None and tuple(y.shape[1:]) != tuple(x.shape[1:]):
            raise ValueError(
                "Labels must have the shape of the tokens: they are moved by one here. Received: "
                f"labels of shape {tuple(y.shape)}, tokens of shape {tuple(x.shape)}."
            )
        self._check_length(int(x.shape[1]))
        self._check_ids(ops.convert_to_numpy(x))

    def _check_length(self, length):
        if self.max_length is not None and length - self._shift > self.max_length:
            raise ValueError(
                f"Rows must fit into the network's context of {self.max_length} tokens. Received: "
                f"rows of {length} tokens, of which {length - self._shift} are inputs."
            )

    def _check_ids(self, ids):
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(
                f"Token ids must be integers. Received: an array of {ids.dtype}. Convert it by "
                "astype('int32') if they are whole numbers."
            )
        if not ids.size or not self.built:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocabulary_size:
            raise ValueError(
                f"Token ids must be in [0, {self.vocabulary_size}), the network's vocabulary. "
                f"Received: ids from {low} to {high}."
            )

    # The objective

    def unpack(self, data):
        """The batch as inputs `x` (B, S), `y` = (targets, what each counts), and `weight`, the sum
        of what a row's tokens count: thus all means are over tokens."""
        tokens, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is not None and tuple(labels.shape[1:]) == (0,):
            labels = None  # stands beside weights that came without labels
        tokens = ops.cast(ops.convert_to_tensor(tokens), "int32")
        counts, targets = self._counts(tokens, labels, weight), tokens
        if labels is not None and not _is_mask(labels):
            targets = ops.cast(ops.convert_to_tensor(labels), "int32")
        counts, targets = counts[:, self._shift :], targets[:, self._shift :]
        targets = ops.where(counts > 0, targets, 0)
        return Batch(self._inputs(tokens), (targets, counts), ops.sum(counts, axis=1))

    def _inputs(self, tokens):
        """What the network sees: all tokens but the last, after a start token if there is one."""
        before = tokens[:, :-1]
        if self.start_token_id is None:
            return before
        return ops.concatenate([ops.full_like(tokens[:, :1], self.start_token_id), before], axis=1)

    def _counts(self, tokens, labels, weight):
        """How much each token counts as a target, (B, T) float32."""
        counts = ops.ones_like(tokens, "float32")
        if labels is not None:
            labels = ops.convert_to_tensor(labels)
            counted = labels if _is_mask(labels) else labels != self.ignore_index
            counts = ops.cast(counted, "float32")
        elif self.pad_token_id is not None and (weight is None or len(weight.shape) < 2):
            counts = ops.cast(tokens != self.pad_token_id, "float32")
        if weight is None:
            return counts
        weight = ops.cast(weight, "float32")
        if len(weight.shape) < 2 or tuple(weight.shape[1:]) == (1,):
            weight = ops.reshape(weight, (-1, 1))
        return counts * weight

    def objective(self, batch, training):
        targets, counts = batch.y
        inputs = batch.x
        if training and self.scheduled_sampling != "none":
            inputs = self._partly_own(inputs)
        logits = ops.cast(self.network(inputs, training=training), "float32")
        nats = -objectives.token_log_probs(logits, targets)
        loss = nats
        if self.label_smoothing or self.z_loss:
            loss = objectives.cross_entropy(
                logits, targets, label_smoothing=self.label_smoothing, z_loss=self.z_loss
            )
        right = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
        terms = {"loss": loss, "perplexity": nats, "accuracy": ops.cast(right, "float32")}
        return {name: _row_means(value, counts) for name, value in terms.items()}

    def _partly_own(self, inputs):
        """The inputs, some of them replaced by what the model would have said in their place."""
        share = objectives.forcing_probability(
            self.step, self.scheduled_sampling, self.scheduled_sampling_steps
        )
        with self.frozen_batch_stats(self.network):
            logits = ops.stop_gradient(self.network(inputs, training=True))
        rest = inputs[:, 1:]
        noise = self.uniform((2, *ops.shape(rest)), rows=1)
        own = samplers.choice(logits[:, :-1], noise[0])
        mixed = ops.where(noise[1] < share, rest, own)
        return ops.concatenate([inputs[:, :1], mixed], axis=1)

    # Use

    def call(self, inputs, training=False):
        """The logits (B, T, V) that the network gives for ids (B, T)."""
        inputs = ops.cast(inputs, "int32")
        if training:
            return ops.cast(self.network(inputs, training=True), "float32")
        with self.ema_weights():
            return ops.cast(self.network(inputs, training=False), "float32")

    def log_prob(self, tokens):
        """ln p(x_t | x_<t) of each token in nats, float32: (B, T - 1), for the first token is
        given; (B, T) with a `start_token_id`. Padding isn't left out."""
        self._check_built("log_prob")
        tokens = self._checked_rows(tokens)
        return self._log_prob_program(ops.convert_to_tensor(tokens))

    @compiled
    def _log_prob_program(self, tokens):
        with self.ema_weights():
            logits = self.network(self._inputs(tokens), training=False)
            return objectives.token_log_probs(logits, tokens[:, self._shift :])

    def perplexity(self, tokens, labels=None, *, sample_weight=None, batch_size=32):
        """exp of the mean of -ln p(x_t | x_<t) over all tokens that count: a float. What counts is
        said as in `fit`."""
        self._check_built("perplexity")
        tokens = self._checked_rows(tokens)
        total, count = 0.0, 0.0
        for start in range(0, len(tokens), batch_size):
            rows = slice(start, start + batch_size)
            parts = [None if part is None else part[rows] for part in (labels, sample_weight)]
            nats, counted = self._totals_program(ops.convert_to_tensor(tokens[rows]), *parts)
            total, count = total + float(nats), count + float(counted)
        if not count:
            raise ValueError("No token counts: a perplexity needs at least one.")
        return float(np.exp(total / count))

    @compiled
    def _totals_program(self, tokens, labels, weight):
        batch = self.unpack((tokens, labels, weight))
        targets, counts = batch.y
        with self.ema_weights():
            log_p = objectives.token_log_probs(self.network(batch.x, training=False), targets)
        return -ops.sum(ops.where(counts > 0, counts * log_p, 0.0)), ops.sum(counts)

    def _checked_rows(self, tokens):
        tokens = ops.convert_to_numpy(tokens)
        self.check_batch(tokens, None)
        return tokens.astype("int32")

    def sample(self, n=1, length=None, *, temperature=1.0, top_k=None, top_p=None, min_p=None,
               seed=None):  # fmt: skip
        """`n` rows of tokens, (n, length) int32.

        With a `start_token_id` they are draws from the model. Without, the first token of each is
        drawn uniformly from the vocabulary, padding left out, and the others follow: `generate`
        begins with a prompt of yours. `length` is by default that of the rows it was trained on, or
        the network's context.
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

    def completions(self, prompt, lengths, choose, *, num_tokens, ends=None, pad=0):
        """`(tokens, log_probs)`, each (B, N), in one loop that stops when all rows have ended.

        What `generate` does, for use inside a step: it takes tensors, checks nothing, and uses the
        weights and the stream of noise of the moment.

        Args:
            prompt: ids (B, P), of a static shape; the real ones first.
            lengths: (B,), how many are real, at least one.
            choose: a `samplers.tokens.Rule`.
            num_tokens: N.
            ends: (E,) ids that end a row; or None.
            pad: what follows the end.
        """
        uniforms = self.uniform((prompt.shape[0], num_tokens))
        decoder = self._decoder(prompt.shape[1], num_tokens)
        state = self._begun(decoder, prompt, lengths, choose, uniforms, ends=ends, pad=pad)
        state = samplers.continue_decode(state, decoder, choose, uniforms, ends=ends, pad=pad)
        return state["tokens"], state["log_probs"]

    def _begun(self, decoder, prompt, lengths, choose, uniforms, **row_end):
        logits, cache = decoder.start(prompt, lengths)
        seen = None
        if choose.repetition_penalty is not None:
            real = ops.arange(prompt.shape[1], dtype="int32") < lengths[:, None]
            seen = samplers.seen_tokens(prompt, real, self.vocabulary_size)
        return samplers.start_decode(logits, choose, uniforms, seen, cache, **row_end)

    def _decoder(self, width, num_tokens):
        if self.has_cache:
            return samplers.CachedDecoder(self.network, width, num_tokens)
        return samplers.FullDecoder(self.network, width, num_tokens, self._fixed_width())

    @property
    def has_cache(self):
        """Whether the network offers the cache of `networks.transformer`."""
        return hasattr(self.network, "make_cache") and hasattr(self.network, "step")

    def generate(
        self,
        prompt,
        max_new_tokens,
        temperature=1.0,
        top_k=None,
        top_p=None,
        end_token_id=None,
        *,
        min_p=None,
        repetition_penalty=None,
        prompt_mask=None,
        prompt_lengths=None,
        num_beams=1,
        length_penalty=0.0,
        return_log_probs=False,
        stream=None,
        seed=None,
    ):
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
                row; after it stands `pad_token_id`, or without one the (first) end token.
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
        ends = self._ends(end_token_id)
        place = {"rows": len(ids), "width": ids.shape[1], "num_tokens": count}
        place["pad"] = self._padding(ends)
        self._tell_of_no_cache()
        with self.drawing_from(seed):
            if integer("num_beams", num_beams, minimum=1) > 1:
                _check_beams(controls, static, stream)
                made = self._beams_program(
                    *(ids, lengths, ends),
                    num_beams=num_beams,
                    length_penalty=number("length_penalty", length_penalty),
                    **place,
                )
            elif stream is None:
                made = self._generated_program(ids, lengths, ends, controls, **place, **static)
            else:
                made = self._streamed(stream, ids, lengths, ends, controls, **place, **static)
        return made if return_log_probs else made[0]

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
        decoder = self._decoder(width, num_tokens)
        ids, lengths = ops.reshape(ids, (rows, width)), ops.reshape(lengths, (rows,))
        with self.ema_weights():
            logits, cache = decoder.start(ids, lengths)
            return samplers.beam_search(
                logits, decoder, cache, num_tokens=num_tokens, ends=ends, **search
            )

    def _streamed(self, stream, ids, lengths, ends, controls, **static):
        """`_generated_program` in pieces, each shown to `stream`."""
        state, uniforms = self._begun_program(ids, lengths, ends, controls, **static)
        shown, count = 0, static["num_tokens"]
        while True:
            made = int(state["index"])
            stream(ops.convert_to_numpy(state["tokens"])[:, shown:made])
            shown = made
            if made == count or bool(ops.convert_to_numpy(state["done"]).all()):
                return state["tokens"], state["log_probs"]
            until = np.int32(min(made + STREAMED, count))
            state = self._continued_program(state, uniforms, until, ends, controls, **static)

    @compiled
    def _begun_program(
        self, ids, lengths, ends, controls, *, rows, width, num_tokens, pad, **static
    ):
        uniforms = self.uniform((rows, num_tokens))
        with self.ema_weights():
            state = self._begun(
                self._decoder(width, num_tokens),
                ops.reshape(ids, (rows, width)),
                ops.reshape(lengths, (rows,)),
                samplers.Rule(**controls, **static),
                uniforms,
                ends=ends,
                pad=pad,
            )
        return state, uniforms

    @compiled
    def _continued_program(
        self, state, uniforms, until, ends, controls, *, rows, width, num_tokens, pad, **static
    ):
        with self.ema_weights():
            return samplers.continue_decode(
                state,
                self._decoder(width, num_tokens),
                samplers.Rule(**controls, **static),
                uniforms,
                until=until,
                ends=ends,
                pad=pad,
            )

    def _checked_prompts(self, rows, count):
        for row in rows:
            self._check_ids(row)
        longest = max(map(len, rows))
        if self.max_length is not None:
            if longest > self.max_length:
                raise ValueError(
                    f"A prompt must fit into the network's context of {self.max_length} tokens. "
                    f"Received: a prompt of {longest}. Cut it from the left."
                )
            if longest + count - 1 > self.max_length:
                raise ValueError(
                    f"Prompt and new tokens must fit into the network's context of "
                    f"{self.max_length} tokens (the last new one is not looked at). Received: a "
                    f"prompt of {longest} and max_new_tokens={count}."
                )
        # Padding must not reach beyond the places that the network knows.
        context = self.length - self._shift if self.max_length is None else self.max_length
        return prompts.padded(rows, room=context - count + 1)

    def _ends(self, end_token_id):
        """The ids that end a row, (E,) int32; None for none."""
        if end_token_id is None:
            return None
        ends = np.atleast_1d(np.asarray(end_token_id))
        if ends.ndim != 1 or not ends.size or not np.issubdtype(ends.dtype, np.integer):
            raise ValueError(
                "`end_token_id` must be a token's id or a list of ids. Received: "
                f"end_token_id={end_token_id!r}."
            )
        self._check_ids(ends)
        return ends.astype("int32")

    def _padding(self, ends):
        """What stands after the end of a row."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return 0 if ends is None else int(ends[0])

    def _tell_of_no_cache(self):
        if not self.has_cache and not self._told:
            self._told = True
            logger.warning(
                "%r has no key-value cache: it is called on the whole row for every new token "
                "(artifex_keras.networks.transformer says what a cache offers)",
                self.network.name,
            )


def _settings(size, temperature, top_k=None, top_p=None, min_p=None, repetition_penalty=None):
    """What rules the choice of a token, checked, as fields of `samplers.tokens.Rule`: those that
    are numbers of a program, and those that are its settings."""
    temperature = number("temperature", temperature, minimum=0.0)
    greedy = temperature == 0
    shares = {"top_p": top_p, "min_p": min_p}
    controls = {
        name: number(name, value, above=0.0, maximum=1.0)
        for name, value in shares.items()
        if value is not None
    }
    if repetition_penalty is not None:
        penalty = number("repetition_penalty", repetition_penalty, above=0.0)
        controls["repetition_penalty"] = penalty
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


def _token(name, value):
    return None if value is None else integer(name, value)


def _is_mask(labels):
    return keras.backend.standardize_dtype(labels.dtype) == "bool"


def _row_means(values, counts):
    """Σ_t m v / Σ_t m of each row, (B,); what counts nothing may be NaN."""
    total = ops.sum(counts, axis=1)
    kept = ops.where(counts == 0, 0.0, values)
    return ops.sum(counts * kept, axis=1) / ops.where(total == 0, 1.0, total)
