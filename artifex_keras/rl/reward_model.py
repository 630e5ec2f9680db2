"""A reward model: a number for a text, learned from pairs of answers of which one was preferred."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import bounded, checked, integer
from artifex_keras.backend import compiled
from artifex_keras.datasets import preferences
from artifex_keras.datasets.rows import bucket, columns_of, filled, ids_of
from artifex_keras.models import checks
from artifex_keras.models.autoregressive.hub import is_backbone
from artifex_keras.objectives.preference import bradley_terry
from artifex_keras.rl.answers import Answers
from artifex_keras.rl.policies.hub import HubBackbone

__all__ = ["RewardModel"]

SIDES = ("chosen", "rejected")


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(centering=bounded(minimum=0.0))
class RewardModel(Answers):
    """A reward model: `fit(pairs)` learns a number r for a prompt with its answer (2312.09244).

        L = -ln σ(r_w - r_l - m) + c (r_w + r_l)²

    of the chosen answer w and the rejected l. A linear layer, which begins at 0, makes r of what
    the backbone makes of the last token that counts. Pairs are what `DPO.fit` takes; a column
    `margin` (B,) holds m, by how much w was preferred, 0 by default.

    The trained model is a reward as it is: `GRPO(policy, reward_model)` calls it inside the
    compiled step, and `reward(texts)` gives the numbers themselves.

    Args:
        backbone: a model from ids (B, T) to logits (B, T, V), such as a `CausalTransformer` or an
            `Autoregressive`; or a KerasHub backbone or `CausalLM`. The new layer stands on the last
            hidden vectors where the network has some (`CausalTransformer`, KerasHub, a functional
            model), else on the logits. All of it is trained, or its LoRA weights alone.
        centering: c, which holds the rewards around 0; pairs alone leave their mean free. 0.01 is
            usual.
        tokenizer: for texts.
        end_token_id: ends answers that are given as texts or lists of ids.
        pad_token_id: what pads rows. If it is given, it is taken off the left of rows as well.
        max_length: longer rows are cut, the prompt first.
        head: the layer on the backbone, (B, T, W) to (B, T, 1); by default a new `Dense(1)`.
        ema_decay, seed: see `GenerativeModel`.

    Metrics: `loss`, in nats; `reward_accuracy`, how often the chosen answer has the greater reward;
    `confidence`, the mean of σ(|r_w - r_l|), which a calibrated model has equal to its accuracy;
    `reward_margin`, `chosen_reward`, `rejected_reward`.

    Raises:
        ValueError: for a backbone that isn't built or takes no tokens, and for pairs that can't be
            used.

    Example:

        ```python
        import artifex_keras as ak

        network = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.RewardModel(network, centering=0.01)
        model.compile("adam")
        pairs = [{"prompt": [1, 2], "chosen": [7, 7], "rejected": [3]}] * 2
        model.fit(pairs, batch_size=2, verbose=0)
        print(model.reward([[1, 2, 7, 7], [1, 2, 3]]).shape)  # (2,)
        ```
    """

    submodels = ("backbone", "head")
    options = ("centering", "end_token_id", "pad_token_id", "max_length", "ema_decay", "seed")
    live_options = ("centering",)
    metric_names = {
        "reward_accuracy": "max",
        "confidence": None,
        "reward_margin": "max",
        "chosen_reward": "max",
        "rejected_reward": "min",
    }
    counts = "pairs"
    columns = answers = SIDES
    remedies = ("a `centering` above 0", "a smaller learning rate")
    unbounded = {}
    no_samples = "scores texts, by `reward(x)`: it has no `{name}`."
    not_served = "isn't exported yet: keep it by `save`; `load_model` gives it back to score texts."

    def __init__(
        self,
        backbone: keras.Model,
        *,
        centering: float = 0.0,
        tokenizer: Any = None,
        end_token_id: int | None = None,
        pad_token_id: int | None = None,
        max_length: int | None = None,
        head: keras.layers.Layer | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        actor = self._actor(backbone, end_token_id, pad_token_id)
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.backbone, self.actor, self.reference = backbone, actor, None
        self.head = _new_head(actor) if head is None else checks.network("head", head)
        self.centering = centering
        self.finish(tokenizer, end_token_id, pad_token_id, max_length)

    def _actor(self, backbone, end_token_id, pad_token_id):
        if is_backbone(backbone):
            return HubBackbone(backbone, end_token_id=end_token_id, pad_token_id=pad_token_id)
        actor = self.actor_of(backbone, end_token_id, pad_token_id, None, "backbone")
        if not actor.tokens:
            raise ValueError(
                "`backbone` must take token ids. For samples of a denoising model any Keras model "
                f"of samples is a reward. Received: {type(backbone).__name__}."
            )
        return actor

    @property
    def policy(self):
        """The backbone, under the name that all fine-tuning has for what it trains."""
        return self.backbone

    @property
    def vocabulary_size(self):
        """How many tokens it knows; None where the backbone doesn't say."""
        return self.actor.vocabulary_size

    @property
    def averaged_parts(self):
        return [self.backbone, self.head]

    # The reward

    def call(self, inputs, training=False):
        """The reward after each id of rows (B, T): (B, T) float32."""
        ids = ops.cast(inputs, "int32")
        length, before = ids.shape[1], self.actor.num_start_tokens
        if before:
            start = ops.full_like(ids[:, :1], self.actor.start_token_id)
            ids = ops.concatenate([start, ids], axis=1)
        width = self.actor.fixed_width or ids.shape[1]
        ids = ops.pad(ids, [[0, 0], [0, width - ids.shape[1]]])
        features = ops.cast(self.actor.features(ids), "float32")
        return self.head(features)[:, before : before + length, 0]

    def _rewards(self, ids, mask):
        """r of rows (B, T) after the last token that `mask` counts: (B,)."""
        ids, mask = ops.cast(ids, "int32"), ops.cast(ops.not_equal(mask, 0), "int32")
        if self.actor.strips:
            ids, mask = _moved_left(ids, mask, self.actor.pad_token_id)
        last = ops.max(ops.where(mask > 0, ops.arange(ids.shape[1]), 0), axis=1)
        return ops.take_along_axis(self.call(ids), last[:, None], axis=1)[:, 0]

    def reward(self, x, batch_size=32):
        """The rewards of texts, or of rows of ids: NumPy float32 (B,).

        Args:
            x: texts of prompt and answer together, which end with the end token where there is one;
                or lists of ids; or an array (B, T), at whose ends `pad_token_id` is padding.
            batch_size: rows at a time.

        Raises:
            ValueError: for no rows, an empty one, ids outside the vocabulary, texts without a
                tokenizer.
        """
        batch_size = integer("batch_size", batch_size, minimum=1)
        rows = self._rows(x)
        ids = filled(rows, self._width(max(map(len, rows))), self.actor.pad_token_id)
        self.actor.check_ids(np.concatenate(rows))
        lengths = np.array([len(row) for row in rows])
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype("float32")
        parts = [
            self._reward_program(ids[i : i + batch_size], mask[i : i + batch_size])
            for i in range(0, len(ids), batch_size)
        ]
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])

    @compiled
    def _reward_program(self, ids, mask):
        with self.ema_weights():
            return self._rewards(ids, mask)

    def _rows(self, x):
        x = [x] if isinstance(x, str) else x
        if self.actor.strips and getattr(x, "ndim", 0) == 2:
            x = [_stripped(row, self.actor.pad_token_id) for row in ops.convert_to_numpy(x)]
        rows = ids_of(x, "x", tokenizer=self.tokenizer, template=None, pad=None)
        ends = self.actor.end_token_ids
        if ends is not None and rows and isinstance(x[0], str):
            rows = [np.append(row, ends[0]).astype("int32") for row in rows]
        if not rows:
            raise ValueError("`x` must have at least one row. Received: none.")
        for index, row in enumerate(rows):
            if not len(row):
                raise ValueError(f"A row must have at least one token. Received: row {index}.")
        return rows

    def _width(self, longest):
        room = self._room()
        if room is not None and longest > room:
            raise ValueError(
                f"Rows must fit into the backbone's context of {room} tokens. Received: a row of "
                f"{longest}."
            )
        return bucket(longest) if room is None else min(bucket(longest), room)

    def _room(self):
        longest = self.actor.max_length
        return None if longest is None else longest - self.actor.num_start_tokens

    # The objective

    def objective(self, batch, training):
        x = batch.x
        ids, mask = (ops.concatenate([x[f"{s}{kind}"] for s in SIDES]) for kind in ("", "_mask"))
        chosen, rejected = ops.split(self._rewards(ids, mask), 2)
        margin = ops.reshape(x["margin"], (-1,)) if "margin" in x else 0.0
        difference = chosen - rejected
        return {
            "loss": bradley_terry(chosen, rejected, margin, self.centering),
            "reward_accuracy": ops.cast(difference > 0, "float32"),
            "confidence": ops.sigmoid(ops.abs(difference)),
            "reward_margin": difference,
            "chosen_reward": chosen,
            "rejected_reward": rejected,
        }

    # Data

    def as_arrays(self, rows):
        columns = columns_of(rows)
        arrays = preferences(columns, **self.reading())
        if columns.get("margin") is None:
            return arrays
        margins = [0.0 if margin is None else margin for margin in columns["margin"]]
        return arrays | {"margin": _margins(margins)}

    def reading(self):
        room = self._room()
        return super().reading() | {"max_length": self.max_length or room}

    def check_rows(self, x):
        super().check_rows(x)
        width, room = x["chosen"].shape[1], self._room()
        if room is not None and width > room:
            self._width(width)
        if "margin" in x:
            _margins(x["margin"])


def _new_head(actor):
    """A layer of one number on the features of a policy."""
    width = actor.feature_width or actor.vocabulary_size
    if width is None:
        raise ValueError(
            "`head` is needed: the backbone says neither how wide its hidden vectors are nor how "
            "many logits it gives. Give a built layer from (B, T, W) to (B, T, 1)."
        )
    head = keras.layers.Dense(1, kernel_initializer="zeros", dtype="float32", name="reward")
    head.build((None, None, width))
    return head


def _moved_left(ids, mask, pad):
    """Rows without the padding on their left, which is put on their right."""
    length = ids.shape[1]
    real = ops.cast(ids != pad, "int32")
    first = ops.argmax(ops.maximum(real, mask), axis=1)[:, None]
    places = (ops.arange(length) + ops.cast(first, "int32")) % length
    return ops.take_along_axis(ids, places, axis=1), ops.take_along_axis(mask, places, axis=1)


def _stripped(row, pad):
    """A row of ids without what pads it on either side."""
    real = np.flatnonzero(row != pad)
    return row[real[0] : real[-1] + 1] if len(real) else row[:0]


def _margins(margins):
    """Margins as float32 (B,).

    Raises:
        ValueError: for what is no finite number.
    """
    for index, margin in enumerate(ops.convert_to_numpy(m) for m in margins):
        if np.ndim(margin) > 1 or margin.dtype.kind not in "biuf" or not np.isfinite(margin).all():
            raise ValueError(
                "`margin` must be a finite number: by how much the chosen answer was preferred. "
                f"Received: {margin.tolist()!r} in row {index}."
            )
    return np.reshape(np.asarray(margins, "float32"), (-1,))
