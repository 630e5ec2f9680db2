"""What reward models share: a head of one number on a backbone, and the rewards of rows."""

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.datasets.rows import bucket, filled, ids_of
from artifex_keras.models import checks
from artifex_keras.models.autoregressive.hub import is_backbone
from artifex_keras.rl.answers import Answers
from artifex_keras.rl.policies.hub import HubBackbone

__all__ = ["Scored", "moved_left"]


class Scored(Answers):
    """The base of reward models: a layer of one number on what a backbone makes of each token."""

    submodels = ("backbone", "head")
    unbounded = {}
    way_with_texts = "Their rewards are `reward(texts)`."
    no_samples = "scores texts, by `reward(x)`: it has no `{name}`."
    not_served = "isn't exported yet: keep it by `save`; `load_model` gives it back to score texts."

    def keep_backbone(self, backbone, actor, head):
        """Keeps the backbone with its head, by default a new one."""
        self.backbone, self.actor, self.reference = backbone, actor, None
        self.head = _new_head(actor) if head is None else checks.network("head", head)

    def backbone_of(self, backbone, end_token_id, pad_token_id):
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
        return self.scores(ops.cast(inputs, "int32"))

    def scores(self, ids):
        """What the head makes of each id of rows (B, T): (B, T) float32."""
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
            ids, mask = moved_left(ids, mask, self.actor.pad_token_id)
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
        ids, mask, _ = self.arrays_of(x)
        parts = [
            self._reward_program(ids[i : i + batch_size], mask[i : i + batch_size])
            for i in range(0, len(ids), batch_size)
        ]
        return np.concatenate([ops.convert_to_numpy(part) for part in parts])

    def arrays_of(self, x):
        """`(ids, mask, lengths)` of texts or rows of ids, checked, as NumPy arrays."""
        rows = self._rows(x)
        ids = filled(rows, self._width(max(map(len, rows))), self.actor.pad_token_id)
        self.actor.check_ids(np.concatenate(rows))
        lengths = np.array([len(row) for row in rows])
        return ids, (np.arange(ids.shape[1]) < lengths[:, None]).astype("float32"), lengths

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


def moved_left(ids, mask, pad):
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
