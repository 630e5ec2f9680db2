"""A process reward model: how likely each step of an answer is right, learned from judged steps."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import checked, integer, row_of, shown
from artifex_keras.backend import compiled
from artifex_keras.datasets.rows import columns_of, filled, ids_of, required
from artifex_keras.models.autoregressive import decoding
from artifex_keras.models.base import Batch
from artifex_keras.objectives.tokens import row_mean
from artifex_keras.rl.scored import Scored, moved_left

__all__ = ["REDUCTIONS", "ProcessRewardModel"]


def _up_to_each(reduce, values, otherwise):
    """`reduce` over the columns of (B, T) up to each of them, by one masked reduction."""
    places = ops.arange(values.shape[1], dtype="int32")
    before = places[None, None, :] <= places[None, :, None]
    return reduce(ops.where(before, values[:, None, :], otherwise), axis=-1)


def _lowest(p, ends):
    return _up_to_each(ops.min, ops.where(ends, p, 1.0), 1.0)


def _product(p, ends):
    return ops.exp(ops.cumsum(ops.where(ends, ops.log(ops.maximum(p, 1e-30)), 0.0), axis=1))


def _latest(p, ends):
    places = ops.arange(p.shape[1], dtype="int32")
    latest = _up_to_each(ops.max, ops.where(ends, places, ops.zeros_like(places)), 0)
    return ops.take_along_axis(p, latest, axis=1)


# From probabilities (B, T) and where steps end to one number up to each place.
REDUCTIONS = {"min": _lowest, "product": _product, "last": _latest}


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(reduction=row_of(REDUCTIONS, "reduction"))
class ProcessRewardModel(Scored):
    """A process reward model: `fit(rows)` learns p, how likely each step of an answer is right
    (2305.20050). A row is `{"prompt", "completions": [step, ...], "labels": [True, False, ...]}`,
    texts or ids. A separator follows each step, and there the model is asked:

        L = -y ln p - (1 - y) ln(1 - p)    in nats, the mean over all steps of an update

    `step_rewards(x)` gives the p of each step, `reward(x)` one number for the row. As a reward,
    `GRPO(policy, process_reward_model)`, it is called inside the compiled step: a completion counts
    as far as the policy has ended its steps by the separator, and is worth 0 without one.

    Args:
        backbone: as for `RewardModel`, with which it shares the new layer.
        separator_token_id: the id that ends each step; prompts and steps must not have it.
        reduction: the reward of several steps: `"min"`, the least p; `"product"` of all;
            `"last"`, that of the last step.
        tokenizer: for texts.
        pad_token_id: what pads rows. If it is given, it is taken off the left of rows as well.
        head: the layer on the backbone, (B, T, W) to (B, T, 1); by default a new `Dense(1)`.
        ema_decay, seed: see `GenerativeModel`.

    Arrays are taken as they are: `tokens`, `tokens_mask` and `label` (B, T), the mask 1 at the
    separators that count, the label there 1 for a right step and 0 for a wrong one.

    Metrics: `loss`; `step_accuracy`, how often p is on the right side of a half.

    Raises:
        ValueError: for rows that can't be used: another number of labels than of steps, labels
            that are neither right nor wrong, a separator inside a step, no separator at all.

    Example:

        ```python
        import artifex_keras as ak

        network = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.ProcessRewardModel(network, separator_token_id=9)
        model.compile("adam")
        rows = [{"prompt": [1], "completions": [[2, 3], [5]], "labels": [True, False]}] * 2
        model.fit(rows, batch_size=2, verbose=0)
        print(model.step_rewards([[1, 2, 3, 9, 5, 9]]))  # [array of 2]
        ```
    """

    options = ("separator_token_id", "reduction", "pad_token_id", "ema_decay", "seed")
    fixed_options = {"separator_token_id": "what was learned, and the rows, have it"}
    metric_names = {"step_accuracy": "max"}
    counts = "steps"
    columns = ("tokens", "label")
    answers = ("tokens",)
    remedies = ("a smaller learning rate",)

    def __init__(
        self,
        backbone: keras.Model,
        *,
        separator_token_id: int,
        reduction: str = "min",
        tokenizer: Any = None,
        pad_token_id: int | None = None,
        head: keras.layers.Layer | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        actor = self.backbone_of(backbone, None, pad_token_id)
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.keep_backbone(backbone, actor, head)
        self.finish(tokenizer, None, pad_token_id, None)
        self.separator_token_id = integer("separator_token_id", separator_token_id)
        decoding.check_token("separator_token_id", self.separator_token_id, self.vocabulary_size)
        self.reduction = reduction

    # The reward

    def call(self, inputs, training=False):
        """The reward of the steps that have ended up to each id of rows (B, T): (B, T) float32."""
        ids = ops.cast(inputs, "int32")
        ends = ops.equal(ids, self.separator_token_id)
        reduced = REDUCTIONS[self.reduction](ops.sigmoid(self.scores(ids)), ends)
        return ops.where(ops.cumsum(ops.cast(ends, "int32"), axis=1) > 0, reduced, 0.0)

    def step_rewards(self, x: Any, batch_size: int = 32) -> list:
        """How likely each step is right: a list with a NumPy array (steps,) for each row.

        Args:
            x: rows of ids, or texts, with the separator after each step.
            batch_size: rows at a time.

        Raises:
            ValueError: as `reward` does, and for a row without a separator.
        """
        ids, _, lengths = self.arrays_of(x)
        parts = [
            ops.convert_to_numpy(self._probabilities_program(ids[i : i + batch_size]))
            for i in range(0, len(ids), integer("batch_size", batch_size, minimum=1))
        ]
        found = []
        for index, (row, p) in enumerate(zip(ids, np.concatenate(parts), strict=True)):
            ends = (row == self.separator_token_id) & (np.arange(len(row)) < lengths[index])
            if not ends.any():
                raise ValueError(
                    f"A row must have the separator {self.separator_token_id} after each step. "
                    f"Received: none in row {index}."
                )
            found.append(p[ends])
        return found

    @compiled
    def _probabilities_program(self, ids):
        with self.ema_weights():
            return ops.sigmoid(self.scores(ops.cast(ids, "int32")))

    # The objective

    def unpack(self, data):
        """A batch, in which a row weighs as much as it has steps: all means are over steps."""
        x, _, weight = super().unpack(data)
        mask = ops.cast(ops.not_equal(x["tokens_mask"], 0), "int32")
        return Batch(x, None, weight * ops.cast(ops.sum(mask, axis=1), "float32"))

    def objective(self, batch, training):
        x = batch.x
        ids = ops.cast(x["tokens"], "int32")
        mask, label = (
            ops.cast(ops.not_equal(x[name], 0), "int32") for name in ("tokens_mask", "label")
        )
        if self.actor.strips:
            pad, padded = self.actor.pad_token_id, ids
            ids, label = moved_left(padded, label * mask, pad)
            mask = moved_left(padded, mask, pad)[1]
        scores, right = self.scores(ids), ops.cast(label, "float32")
        terms = {
            "loss": ops.softplus(scores) - right * scores,
            "step_accuracy": ops.cast(ops.equal(scores > 0, label > 0), "float32"),
        }
        return {name: row_mean(value, ops.cast(mask, "float32")) for name, value in terms.items()}

    # Data

    def as_arrays(self, rows):
        columns = columns_of(rows)
        given = [required(columns, name) for name in ("prompt", "completions", "labels")]
        prompts = ids_of(given[0], "prompt", tokenizer=self.tokenizer)
        made, marks = [], []
        for index, (prompt, steps, labels) in enumerate(zip(prompts, *given[1:], strict=True)):
            ids, judged = self._row(index, prompt, steps, labels)
            made.append(ids)
            marks.append(judged)
        width = self._width(max(map(len, made)))
        label = filled(marks, width, -1)
        return {
            "tokens": filled(made, width, self.actor.pad_token_id),
            "tokens_mask": (label >= 0).astype("float32"),
            "label": (label > 0).astype("float32"),
        }

    def _row(self, index, prompt, steps, labels):
        """`(ids, marks)` of one row: marks are 1 or 0 at the end of a step, else -1."""
        if isinstance(steps, str) or not len(steps) or len(steps) != np.size(labels):
            raise ValueError(
                "`completions` must be a list of steps, and `labels` must have one for each. "
                f"Received: {shown(steps)} with labels {shown(labels)} in row {index}."
            )
        if not all(value in (0, 1) for value in np.ravel(labels).tolist()):
            raise ValueError(
                "`labels` must be True for a right step and False for a wrong one. Received: "
                f"{shown(labels)} in row {index}."
            )
        steps = ids_of(list(steps), "completions", tokenizer=self.tokenizer)
        end = self.separator_token_id
        for name, part in [("prompt", prompt), *(("completions", step) for step in steps)]:
            if end in part:
                raise ValueError(
                    f"`separator_token_id` is put after each step, and must not be in a prompt or "
                    f"inside a step. Received: {end} in {name!r} of row {index}."
                )
        ids, marks = [prompt], [np.full(len(prompt), -1)]
        for step, label in zip(steps, np.ravel(labels), strict=True):
            ids += [step, [end]]
            marks += [np.full(len(step), -1), [int(label)]]
        return np.concatenate(ids).astype("int32"), np.concatenate(marks).astype("int32")

    def check_rows(self, x):
        super().check_rows(x)
        ids, mask, label = (
            ops.convert_to_numpy(x[name]) for name in ("tokens", "tokens_mask", "label")
        )
        if label.shape != ids.shape or not np.isin(label, (0, 1)).all():
            raise ValueError(
                "`label` must have the shape of `tokens`, 1 for a right step and 0 for a wrong "
                f"one. Received: shape {label.shape}, values {shown(np.unique(label))}."
            )
        if (ids[mask != 0] != self.separator_token_id).any():
            raise ValueError(
                "`tokens_mask` must be 1 at separators alone, where steps end. Received: a mask "
                f"that counts other ids than {self.separator_token_id}."
            )
        room = self._room()
        if room is not None and ids.shape[1] > room:
            self._width(ids.shape[1])
