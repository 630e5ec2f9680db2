"""Kahneman-Tversky optimisation: single answers that were judged good or bad."""

from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import bounded, checked
from artifex_keras.backend import without_gradient
from artifex_keras.datasets import completions
from artifex_keras.objectives.preference import implicit_rewards, kto_loss, kto_reference_point
from artifex_keras.rl.answers import Answers
from artifex_keras.rl.policies.references import resolve_reference

__all__ = ["KTO"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    beta=bounded(above=0.0),
    desirable_weight=bounded(minimum=0.0),
    undesirable_weight=bounded(minimum=0.0),
)
class KTO(Answers):
    """KTO, the sibling of `DPO` for answers without a partner: `fit(answers)` (2402.01306).

    With ``r = l - l_ref`` of a whole answer the loss is ``w_D (1 - σ(β(r - z)))`` for a good one,
    ``w_U (1 - σ(β(z - r)))`` for a bad one. z is the mean r, at least 0, of answers that belong to
    other prompts of the batch: so a batch needs two rows or more.

    Answers are dicts of arrays `tokens`, `tokens_mask` (B, T) as in `DPO` and `label` (B,), 1 for
    good. Dicts of `prompt`, `completion`, `label` become that by `datasets.completions`.

    Args:
        policy, reference, tokenizer, end_token_id, pad_token_id, max_length: as in `DPO`.
        beta: β.
        desirable_weight, undesirable_weight: w_D and w_U; their numbers of answers, weighted,
            should lie between 1:1 and 4:3.
        chunk_size: how many tokens' logits exist at a time, see `SFT`.
        ema_decay, seed: see `GenerativeModel`.

    Metrics: `loss`, `reward_accuracy` (how often an answer's β (r - z) has the sign of its label),
    `reward_margin` (twice the mean of β r, bad answers counted negatively), `kl` (z).

    Example:

        ```python
        import artifex_keras as ak

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.KTO(policy, end_token_id=0)
        model.compile("adam")
        answers = [
            {"prompt": [1, 2], "completion": [7, 7], "label": True},
            {"prompt": [3], "completion": [4, 5], "label": False},
        ]
        history = model.fit(answers, batch_size=2, verbose=0).history
        print(history["kl"])
        ```
    """

    options = (
        "beta",
        "desirable_weight",
        "undesirable_weight",
        "end_token_id",
        "pad_token_id",
        "max_length",
        "chunk_size",
        "ema_decay",
        "seed",
    )
    live_options = ("beta", "desirable_weight", "undesirable_weight")
    metric_names = {"reward_accuracy": "max", "reward_margin": "max", "kl": None}
    counts = "answers"
    columns = ("tokens", "label")
    answers = ("tokens",)

    def __init__(
        self,
        policy: keras.Model,
        reference: keras.Model | str | None = None,
        *,
        beta: float = 0.1,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        tokenizer: Any = None,
        end_token_id: int | None = None,
        pad_token_id: int | None = None,
        max_length: int | None = None,
        chunk_size: int | str | None = "auto",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        actor = self.actor_of(policy, end_token_id, pad_token_id, None)
        if not actor.tokens:
            raise ValueError("KTO is for policies of tokens. For a denoising model use DPO.")
        reference = resolve_reference(reference, actor, True)
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.keep_policy(policy, actor, reference)
        self.keep_chunks(chunk_size, actor)
        self.beta = beta
        self.desirable_weight = desirable_weight
        self.undesirable_weight = undesirable_weight
        self.finish(tokenizer, end_token_id, pad_token_id, max_length)

    def objective(self, batch, training):
        x = batch.x
        tokens, mask = x["tokens"], x["tokens_mask"]
        good = ops.reshape(ops.cast(x["label"], "bool"), (-1,))
        scores = self._scores(x)[0]
        others = mismatched(tokens, mask, self.actor.pad_token_id)
        reference = self.under_reference(
            lambda model: (
                self.completion_log_probs(tokens, mask, model),
                self.completion_log_probs(*others, model),
            )
        )
        z = kto_reference_point(
            without_gradient(lambda: self.completion_log_probs(*others)), reference[1]
        )
        loss = kto_loss(
            scores,
            reference[0],
            good,
            z,
            beta=self.beta,
            desirable_weight=self.desirable_weight,
            undesirable_weight=self.undesirable_weight,
        )
        rewards = implicit_rewards(scores, reference[0], self.beta)
        right = ops.equal(rewards > self.beta * z, good)
        return {
            "loss": loss,
            "reward_accuracy": ops.cast(right, "float32"),
            "reward_margin": 2 * ops.where(good, rewards, -rewards),
            "kl": z,
        }

    def _scores(self, x, model=None):
        return (self.completion_log_probs(x["tokens"], x["tokens_mask"], model),)

    def check_rows(self, x):
        super().check_rows(x)
        if x["tokens"].shape[0] == 1:
            raise ValueError(
                "A batch must have at least 2 answers: z is estimated from answers to other "
                "prompts. Received: 1."
            )

    def as_arrays(self, rows):
        arrays = completions(rows, **self.reading())
        if "label" not in arrays:
            raise ValueError(
                "KTO needs a column 'label', true for a good answer and false for a bad one. "
                "Received: rows without it."
            )
        return {"tokens": arrays["tokens"], "tokens_mask": arrays["mask"], "label": arrays["label"]}


def mismatched(tokens, mask, pad):
    """`(tokens, mask)`: each row's prompt followed by the completion of the row before it.

    What doesn't fit into the rows is cut off. Rows (B, T), prompt and completion without a gap.
    """
    real = ops.cast(ops.not_equal(mask, 0), "int32")
    places = ops.arange(tokens.shape[1], dtype="int32")[None]
    begins = ops.cast(ops.argmax(real, axis=1), "int32")[:, None]
    theirs, their_begins = ops.roll(tokens, 1, axis=0), ops.roll(begins, 1, axis=0)
    their_ends = their_begins + ops.roll(ops.sum(real, axis=1, keepdims=True), 1, axis=0)
    source = places - begins + their_begins
    shifted = ops.take_along_axis(theirs, ops.clip(source, 0, tokens.shape[1] - 1), axis=1)
    counted = ops.logical_and(places >= begins, source < their_ends)
    rows = ops.where(places < begins, tokens, ops.where(counted, shifted, pad))
    return rows, ops.cast(counted, "float32")
