"""Autoregressive models of tokens: one network that predicts the next from those before."""

import functools
from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import bounded, checked, count, integer, optional, row_of, share
from artifex_keras.backend import without_gradient
from artifex_keras.models import checks, data_contract
from artifex_keras.models.autoregressive import chunks, decoding, hub, prompts
from artifex_keras.models.autoregressive.generation import Generation
from artifex_keras.models.autoregressive.likelihood import Likelihood
from artifex_keras.models.base import Batch, GenerativeModel
from artifex_keras.models.batch import unpacked
from artifex_keras.models.lora import train_lora_alone
from artifex_keras.models.metrics import ExponentialMean
from artifex_keras.objectives import tokens as objectives
from artifex_keras.samplers import tokens as samplers

__all__ = ["Autoregressive"]

UNCOUNTED = "What doesn't count has the label `ignore_index`, or False among booleans."


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    label_smoothing=share,
    z_loss=bounded(minimum=0.0),
    scheduled_sampling=optional(
        row_of({"none": None, **objectives.FORCING_SCHEDULES}, "scheduled sampling")
    ),
    scheduled_sampling_steps=count(),
    chunk_size=chunks.chunk_size_rule,
)
class Autoregressive(Generation, Likelihood, GenerativeModel):
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
            only. One with the cache of `networks.transformer` generates faster. Or a KerasHub
            `CausalLM`, with its own cache; of one with LoRA the LoRA weights alone are trained.
        pad_token_id: the id of padding in training and of what follows the end in generation. By
            default that of a `CausalLM`'s tokenizer.
        ignore_index: the label of a place that doesn't count.
        label_smoothing: ε, the share of the target divided among all tokens.
        z_loss: weight ζ of (logsumexp of the logits)²; 1e-4 in 2204.02311.
        scheduled_sampling: how the share of true tokens among the inputs falls in training
            (1506.03099): `"none"` keeps all of them, see `objectives.tokens.forcing_probability`
            for `"linear"`, `"exponential"`, `"inverse_sigmoid"`. The others are drawn from what the
            model says of that place after the true tokens before it, in one pass over the row.
            Biased (1511.05101): use it knowingly.
        scheduled_sampling_steps: k of that schedule, in updates.
        start_token_id: put before every row and every prompt, so that the first token is learned
            and drawn like the others. By default that of a `CausalLM` whose preprocessor has
            `add_start_token`.
        chunk_size: how many tokens' logits exist at a time in the loss, `log_prob` and
            `perplexity`; they are made once more for the gradient. `"auto"` takes chunks of 64 MiB
            where all would be more than 128 MiB; None makes all at once. A number needs a network
            with `hidden` and `head`, as `CausalTransformer` has them, a last layer `Dense`, or
            KerasHub.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `perplexity` (of the targets alone, without smoothing and z-loss), `accuracy`
    (how often the likeliest token is the right one).

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).integers(1, 8, (32, 6))
    network = ak.networks.CausalTransformer(8, 16, num_layers=1, num_heads=2, width=8)
    model = ak.Autoregressive(network, start_token_id=0)
    model.build((None, 6))
    model.compile("adam")
    model.fit(x, epochs=1, verbose=0)
    rows = model.sample(2)  # (2, 6)
    ```
    """

    served = ("sample", "log_prob", "generate")
    submodels = ("network",)
    options = (
        "pad_token_id",
        "ignore_index",
        "label_smoothing",
        "z_loss",
        "scheduled_sampling",
        "scheduled_sampling_steps",
        "start_token_id",
        "chunk_size",
        "ema_decay",
        "seed",
    )
    unbounded = {"network": "logits"}
    data_have_scale = False
    takes_shorter = True
    remedies = (
        "a rate that warms up (`warmup_steps` of its schedule)",
        "`z_loss` (1e-4, say), which holds the logits",
        "rows with a token that counts",
    )
    live_options = zero_options = ("label_smoothing", "z_loss")
    metric_names = {"perplexity": "min", "accuracy": "max"}
    metric_types = {"perplexity": ExponentialMean}
    counts = "tokens"

    def __init__(
        self,
        network: keras.layers.Layer,
        *,
        pad_token_id: int | None = None,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        scheduled_sampling: str = "none",
        scheduled_sampling_steps: int = 1000,
        start_token_id: int | None = None,
        chunk_size: int | str | None = "auto",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.network = checks.network("network", network)
        if self._is_hub:
            hub.check(network)
            pad_token_id = hub.padding_id(network) if pad_token_id is None else pad_token_id
            start_token_id = hub.start_id(network) if start_token_id is None else start_token_id
        self.pad_token_id = integer("pad_token_id", pad_token_id, optional=True)
        self.ignore_index = integer("ignore_index", ignore_index, minimum=-(2**31))
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.scheduled_sampling = scheduled_sampling or "none"
        self.scheduled_sampling_steps = scheduled_sampling_steps
        self.start_token_id = integer("start_token_id", start_token_id, optional=True)
        self.chunk_size = chunk_size
        length = self._network_length()
        if network.built and length is not None:
            self.build((None, length))

    # Building and checking

    @property
    def _is_hub(self):
        return hub.is_causal_lm(self.network) or hub.is_backbone(self.network)

    @property
    def _shift(self):
        """How many tokens of a row are given rather than learned."""
        return 1 if self.start_token_id is None else 0

    @property
    def max_length(self):
        """The longest row that the network takes, its context; None if it doesn't say."""
        return decoding.max_length(self.network)

    def _network_length(self):
        """Rows whose inputs fill a fixed width; of a network that takes shorter ones, its own."""
        if self._is_hub:
            return hub.usual_length(self.network)
        fixed = decoding.fixed_width(self.network)
        return self.max_length if fixed is None else fixed + self._shift

    def follow_networks(self):
        if self._is_hub and self.running_fit is None:
            train_lora_alone(self.network)
        super().follow_networks()

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
        logits = chunks.logits(self.network, keras.KerasTensor((None, width), dtype="int32"))
        if len(logits.shape) != 3 or tuple(logits.shape[1:-1]) != (width,):
            raise ValueError(
                f"The network must give logits of shape (B, {width}, V) for ids of shape "
                f"(B, {width}). Received: an output of shape {tuple(logits.shape)}."
            )
        chunks.check_chunks(self.chunk_size, self.network, chunks.has_head(self.network))
        self.vocabulary_size = int(logits.shape[-1])
        self.length = int(input_shape[1])
        for name in ("pad_token_id", "start_token_id"):
            token = getattr(self, name)
            if token is not None:
                decoding.check_token(name, token, self.vocabulary_size)
        self.finish_build((None, self.length))

    def check_batch(self, x, y):
        if len(x.shape) != 2:
            raise ValueError(
                "Autoregressive learns rows of token ids (B, T). Received: data of shape "
                f"{tuple(x.shape)}.{prompts.rows_hint(tuple(x.shape), self.vocabulary_size)}"
            )
        if y is not None and tuple(y.shape[1:]) != tuple(x.shape[1:]):
            raise ValueError(
                "Labels must have the shape of the tokens: they are moved by one here. Received: "
                f"labels of shape {tuple(y.shape)}, tokens of shape {tuple(x.shape)}."
            )
        prompts.check_not_shifted(x, y)
        self._check_length(int(x.shape[1]))
        self._check_something_to_predict(x)
        if "int" not in keras.backend.standardize_dtype(x.dtype):
            raise ValueError(
                f"Token ids must be integers. Received: an array of {x.dtype}. Convert it by "
                "astype('int32') if they are whole numbers."
            )

    def data_contract(self):
        ids = data_contract.tokens(self.vocabulary_size)
        targets = data_contract.tokens(
            self.vocabulary_size, "Labels", besides=self.ignore_index, cure=UNCOUNTED
        )
        return data_contract.Contract(x=ids, y=targets, inputs=(ids,))

    def _check_something_to_predict(self, tokens):
        if tokens.shape[1] is not None and tokens.shape[1] <= self._shift:
            raise ValueError(
                "Rows need at least one token to predict, and without a `start_token_id` the first "
                f"is given. Received: rows of shape {tuple(tokens.shape)}. Give rows of two tokens "
                "or more, or a `start_token_id`, from which a single one can be learned."
            )

    def _check_length(self, length):
        if self.max_length is not None and length - self._shift > self.max_length:
            raise ValueError(
                f"Rows must fit into the network's context of {self.max_length} tokens. Received: "
                f"rows of {length} tokens, of which {length - self._shift} are inputs."
            )

    # The objective

    def unpack(self, data):
        """The batch as inputs `x` (B, S), `y` = (targets, what each counts), and `weight`, the sum
        of what a row's tokens count: thus all means are over tokens."""
        tokens, labels, weight = unpacked(data)
        tokens = ops.cast(ops.convert_to_tensor(tokens), "int32")
        self._check_something_to_predict(tokens)
        if labels is not None and not _is_mask(labels):
            labels = ops.cast(ops.convert_to_tensor(labels), "int32")
        counts, targets = self._counts(tokens, labels, weight), tokens
        if labels is not None and not _is_mask(labels):
            targets = labels
        counts, targets = counts[:, self._shift :], targets[:, self._shift :]
        targets = ops.where(counts > 0, targets, 0)
        return Batch(self._network_inputs(tokens), (targets, counts), ops.sum(counts, axis=1))

    def _network_inputs(self, tokens):
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
        smoothing = {}
        if self.uses("label_smoothing") or self.uses("z_loss"):
            smoothing = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss}
        features, head, chunk = self._halves(inputs, training)
        nats, right, loss = chunks.token_terms(head, features, targets, chunk, **smoothing)
        terms = {"loss": loss, "perplexity": nats, "accuracy": right}
        return {name: _row_means(value, counts) for name, value in terms.items()}

    def _halves(self, inputs, training=False):
        """`(features, head, chunk)`: what the logits of ids are made of, by what, and of how many
        tokens at a time. Where all are made at once, features are the network's own logits."""
        chunk = None
        if chunks.has_head(self.network):
            chunk = chunks.chunk_of(self.chunk_size, *inputs.shape, self.vocabulary_size)
        if chunk is None:
            return chunks.logits(self.network, inputs, training), chunks.as_logits, None
        features = chunks.features(self.network, inputs, training)
        return features, functools.partial(chunks.head, self.network), chunk

    def _partly_own(self, inputs):
        """The inputs, some of them replaced by what the model would have said in their place."""
        forced = objectives.forcing_probability(
            self.step, self.scheduled_sampling, self.scheduled_sampling_steps
        )
        with self.frozen_batch_stats(self.network):
            features, head, chunk = self._halves(inputs, training=True)
        rest = inputs[:, 1:]
        noise = self.uniform((2, *ops.shape(rest)), rows=1)
        parts = ops.stop_gradient(features)[:, :-1], noise[0]

        def sampled(features, noise):
            return (samplers.choice(head(features), noise),)

        own = without_gradient(lambda: chunks.in_chunks(sampled, parts, chunk))[0]
        mixed = ops.where(noise[1] < forced, rest, own)
        return ops.concatenate([inputs[:, :1], mixed], axis=1)

    # Use

    def data_spec(self, rows=None):
        return keras.InputSpec(shape=(rows, self.length), dtype="int32", name="tokens")

    def call(self, inputs, training=False):
        """The logits (B, T, V) that the network gives for ids (B, T)."""
        inputs = ops.cast(inputs, "int32")
        if training:
            return ops.cast(chunks.logits(self.network, inputs, True), "float32")
        with self.ema_weights():
            return ops.cast(chunks.logits(self.network, inputs), "float32")

    def served_method(self, name):
        programs = {"log_prob": self._log_prob_program, "generate": self.generated}
        return programs.get(name) or super().served_method(name)

    def method_specs(self, name, rows, options):
        if name != "generate":
            return super().method_specs(name, rows, options)
        count = integer("max_new_tokens", options.setdefault("max_new_tokens", 1), minimum=1)
        width = options.pop("prompt_length", max(1, self.length - count))
        width = integer("prompt_length", width, minimum=1)
        prompt = keras.InputSpec(shape=(rows, width), dtype="int32", name="prompt")
        return [prompt, keras.InputSpec(shape=(rows,), dtype="int32", name="prompt_lengths")]


def _is_mask(labels):
    return keras.backend.standardize_dtype(labels.dtype) == "bool"


def _row_means(values, counts):
    """Σ_t m v / Σ_t m of each row, (B,); what counts nothing may be NaN."""
    total = ops.sum(counts, axis=1)
    kept = ops.where(counts == 0, 0.0, values)
    return ops.sum(counts * kept, axis=1) / ops.where(total == 0, 1.0, total)
