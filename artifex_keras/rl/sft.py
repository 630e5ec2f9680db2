"""Supervised fine-tuning: the next token of texts, completions and chats."""

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import boolean, checked, optional, row_of
from artifex_keras.arguments import function as function_rule
from artifex_keras.datasets.packing import PACKINGS
from artifex_keras.datasets.rows import are_rows
from artifex_keras.datasets.supervised import KINDS, Supervised
from artifex_keras.models.autoregressive.chunks import token_terms
from artifex_keras.models.base import Batch
from artifex_keras.models.metrics import ExponentialMean
from artifex_keras.objectives.tokens import row_mean
from artifex_keras.rl.answers import Answers

__all__ = ["SFT"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    assistant_only=boolean,
    packing=optional(row_of(PACKINGS, "packing")),
    chat_template=optional(function_rule),
)
class SFT(Answers):
    """Supervised fine-tuning of a language model: `fit(rows)`. The loss is the mean of

        -ln p(x_t | x_<t)   in nats

    over all tokens that count in an update, Σ loss / Σ tokens, accumulated batches included, so a
    long row weighs more than a short one. Rows are a list of dicts, a table of pandas, polars or
    `datasets`, or a file of JSON lines:

    | a row has | counted are |
    |---|---|
    | `text` | all tokens; plain texts do as well, or rows of ids, an array (N, T) too |
    | `prompt` and `completion` | the completion's tokens, the end token included |
    | `messages`, {"role", "content"} each | the assistant's turns with their end tokens |

    A list of ids may stand for a text. Dicts of arrays are taken as they are: `tokens` and `mask`
    (B, T), 1 where a token counts, padded on the right, and `segments` for packed rows.

    Args:
        policy: the model to train: an `Autoregressive`, a KerasHub `CausalLM` or any `keras.Model`
            from ids (B, T) to logits (B, T, V). It remains the attribute `policy`.
        assistant_only: False counts all tokens of a chat.
        packing: `"best_fit"` or `"wrapped"` puts several rows into one, so that little is padding:
            see `datasets.packed`. Each still sees itself alone, for which the policy must take
            `[ids, segments]`, as `CausalTransformer` does.
        max_length: tokens of a row at most, by default what the policy takes. A prompt that is too
            long loses its beginning, all else its end, with a warning. With `packing` the length of
            the packed rows.
        tokenizer: for texts; one of another library brings its chat template along.
        chunk_size: how many tokens' logits exist at a time; they are made once more for the
            gradient. `"auto"` takes chunks of 64 MiB where all would be more than 128 MiB; None
            makes all at once. A number needs a policy with `hidden` and `head`, as
            `CausalTransformer` has them, a KerasHub model, or a last layer `Dense`.
        chat_template: a function of the messages that gives the text of a chat, up to the
            assistant's next answer, or also takes `add_generation_prompt`. See
            `datasets.chat_text`. Functions are saved only if they are registered with Keras.
        end_token_id: ends completions, texts and turns that don't end with it. It is the model's
            own, if that is KerasHub's.
        pad_token_id: at the end of rows.
        ema_decay, seed: see `GenerativeModel`.

    Metrics: `loss`, `perplexity`, `accuracy` (how often the likeliest token is the right one).

    Raises:
        ValueError: for a policy that isn't built or takes no tokens, packing for one that takes no
            segments, and rows that can't be used, a chat without the assistant among them.

    Example:

        ```python
        import artifex_keras as ak

        policy = ak.networks.CausalTransformer(14, 32, num_layers=1, num_heads=2, width=8)
        tokenizer = ak.datasets.CharacterTokenizer.of("0123456789+=.\\n")
        model = ak.SFT(policy, packing="best_fit", tokenizer=tokenizer, end_token_id=1)
        model.compile("adam")
        rows = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "2+5=", "completion": "7"}]
        history = model.fit(rows, batch_size=1, verbose=0).history
        print(history["perplexity"])
        ```
    """

    submodels = ("policy",)
    options = (
        "assistant_only",
        "packing",
        "max_length",
        "chunk_size",
        "end_token_id",
        "pad_token_id",
        "ema_decay",
        "seed",
    )
    metric_names = {"perplexity": "min", "accuracy": "max"}
    metric_types = {"perplexity": ExponentialMean}
    counts = "tokens"
    columns = ("tokens", "mask")
    remedies = ("rows with a token that counts", "a rate that warms up (`warmup_steps`)")

    def __init__(
        self,
        policy,
        *,
        assistant_only=True,
        packing=None,
        max_length=None,
        tokenizer=None,
        chunk_size="auto",
        chat_template=None,
        end_token_id=None,
        pad_token_id=None,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        actor = self.actor_of(policy, end_token_id, pad_token_id, None)
        if not actor.tokens:
            raise ValueError(
                "SFT is for models of tokens. A denoising model learns from samples by its own "
                f"`fit`. Received: {type(policy).__name__}."
            )
        _check_packing(packing, actor)
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.keep_policy(policy, actor, None)
        self.keep_chunks(chunk_size, actor)
        self.assistant_only, self.packing = assistant_only, packing
        self.chat_template = chat_template
        self.finish(tokenizer, end_token_id, pad_token_id, max_length)

    # The step

    def unpack(self, data):
        """The batch as inputs `x`, ids (B, S) or `[ids, segments]`, `y` = (targets, which count),
        and the tokens that count in each row: thus all means are over tokens."""
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        tokens = ops.cast(x["tokens"], "int32")
        mask = ops.cast(ops.not_equal(x["mask"], 0), "float32")
        segments = x.get("segments")
        if segments is not None:
            segments = ops.cast(segments, "int32")
            goes_on = ops.logical_and(segments[:, 1:] == segments[:, :-1], segments[:, 1:] > 0)
            counts, targets = mask[:, 1:] * ops.cast(goes_on, "float32"), tokens[:, 1:]
            inputs = [tokens[:, :-1], segments[:, :-1]]
        else:
            if self.actor.start_token_id is not None:
                start = ops.full_like(tokens[:, :1], self.actor.start_token_id)
                tokens = ops.concatenate([start, tokens], axis=1)
                mask = ops.pad(mask, [[0, 0], [1, 0]])
            counts, targets = mask[:, 1:], tokens[:, 1:]
            inputs = self.actor.inputs(tokens)
        weights = ops.sum(counts, axis=1)
        if weight is not None:
            weights *= ops.reshape(ops.cast(weight, "float32"), ops.shape(weights))
        return Batch(inputs, (ops.where(counts > 0, targets, 0), counts), weights)

    def objective(self, batch, training):
        targets, counts = batch.y
        features = self.actor.features(batch.x, training=training)[:, : targets.shape[1]]
        chunk = self.actor.chunk(features)
        nats, right, _ = token_terms(self.actor.head, features, targets, chunk)
        terms = {"loss": nats, "perplexity": nats, "accuracy": right}
        return {name: row_mean(value, counts) for name, value in terms.items()}

    # Data

    def prepared_data(self, x):
        if isinstance(x, dict) and {"ids", "segments"} <= set(x):  # of `datasets.packed`
            mask = np.asarray(x["segments"] != 0, "float32")
            x = {"tokens": x["ids"], "mask": mask, "segments": x["segments"]}
        if isinstance(x, dict) and not any(kind in x for kind in KINDS) and not are_rows(x):
            self.check_batch(x, None)
            return x
        if isinstance(x, dict) or are_rows(x) or hasattr(x, "shape"):
            x = self.as_arrays(x)
            self.check_batch(x, None)
        return x

    def as_arrays(self, rows):
        """Rows as the dict of arrays that `fit` makes of them: `tokens`, `mask`, and `segments`
        where they are packed."""
        return Supervised(**self.reading()).arrays(rows)

    def reading(self):
        """How rows become arrays: the arguments of `datasets.supervised.Supervised`."""
        actor, packs = self.actor, self.packing is not None
        longest = self.max_length
        if longest is None and actor.max_length is not None:
            longest = actor.max_length + 1 - (0 if packs else actor.num_start_tokens)
        return {
            "tokenizer": self.tokenizer,
            "assistant_only": self.assistant_only,
            "packing": self.packing,
            "max_length": longest,
            "end_token_ids": actor.end_token_ids,
            "pad_token_id": actor.known_pad,
            "start_token_id": actor.start_token_id if packs else None,
            "given": 1 if packs else 1 - actor.num_start_tokens,
            "chat_template": self.chat_template,
        }

    def check_batch(self, x, y):
        if not isinstance(x, dict) or not set(self.columns) <= set(x):
            received = f"the columns {sorted(x)}" if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                "SFT takes rows with 'text', 'prompt' and 'completion', or 'messages'; or dicts of "
                f"arrays 'tokens' and 'mask', 1 where a token counts. Received: {received}."
            )
        if "segments" in x:
            _check_packing("segments", self.actor)
        self.check_rows(x)

    def check_rows(self, x):
        """Raises a ValueError for rows of tokens that can't be learned."""
        arrays = {name: ops.convert_to_numpy(value) for name, value in x.items()}
        shapes = {name: array.shape for name, array in arrays.items()}
        ids, mask = arrays["tokens"], arrays["mask"]
        if ids.ndim != 2 or len(set(shapes.values())) > 1:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in x)} must be (B, T) and agree. Received: "
                f"shapes {list(shapes.values())}."
            )
        self.actor.check_ids(ids)
        given = 1 if "segments" in arrays else 1 - self.actor.num_start_tokens
        if not mask[:, given:].any():
            raise ValueError("No token counts: `mask` must be 1 at one at least, not the first.")
        longest, length = self.actor.max_length, ids.shape[1] - given
        if "segments" in arrays and longest is not None:
            length = _longest_piece(arrays["segments"]) - 1
        if longest is not None and length > longest:
            raise ValueError(
                f"Rows must fit into the network's context of {longest} tokens. Received: `tokens` "
                f"of shape {ids.shape}, of which {length} are inputs. `max_length` cuts texts."
            )

    def get_config(self):
        config = super().get_config()
        template, name = self.chat_template, getattr(self.chat_template, "__name__", "")
        if template is not None and keras.saving.get_registered_name(template) != name:
            config["chat_template"] = keras.saving.serialize_keras_object(template)
        return config


def _longest_piece(segments):
    """The most ids of a row that are one segment."""
    return max(int(np.bincount(row[row > 0]).max()) for row in segments if (row > 0).any())


def _check_packing(packing, actor):
    if packing is not None and not actor.takes_segments:
        raise ValueError(
            "`packing` needs a policy that keeps the texts in a row apart: one that is called with "
            "[ids, segments] and says so by `takes_segments = True`, as `CausalTransformer` does. "
            f"{type(actor.model).__name__} {actor.model.name!r} takes ids alone, and each text "
            "would see those before it. Leave `packing` out: rows are then padded. Received: "
            f"packing={packing!r}."
        )
