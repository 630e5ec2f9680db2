"""Direct preference optimisation: of two answers one was preferred."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data
from artifex_keras.arguments import boolean, bounded, checked, dictionary, lookup, optional, share
from artifex_keras.datasets import preferences
from artifex_keras.objectives.preference import PREFERENCE_LOSSES, preference_loss
from artifex_keras.rl.answers import Answers
from artifex_keras.rl.policies.references import PRECOMPUTED, resolve_reference

__all__ = ["DPO"]

SIDES = ("chosen", "rejected")


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    reference_free=boolean,
    sampling=optional(dictionary),
    beta=bounded(above=0.0),
    label_smoothing=share,
    simpo_gamma=bounded(),
)
class DPO(Answers):
    """DPO and its relatives: `fit(pairs)` (2305.18290). With sums over a completion's tokens,

        h = (l_w - l_w^ref) - (l_l - l_l^ref),    L = -ln σ(β h)   for "sigmoid",

    the others by `objectives.preference`. Pairs are dicts of arrays `chosen`, `rejected` (B, T),
    prompt and completion in one row, padded on the right, and `chosen_mask`, `rejected_mask`, 1 on
    the completion's tokens, end token included. Dicts of `prompt`, `chosen`, `rejected` as texts or
    ids, lists of them and files of JSON lines become that by `datasets.preferences`.

    A `Diffusion` or `FlowMatching` makes this Diffusion-DPO (2311.12908): `chosen` and `rejected`
    are samples, `condition` may go with them, and l is -e/2, e the mean squared error of what the
    network predicts at a time and noise that are the same for both, and for the reference.

    Args:
        policy: the model to train, see `rl.policies.policy_of`.
        reference: what it starts from: None copies the policy as it is now, "lora_off" is the
            policy without its LoRA weights, or another model; "precomputed" keeps none, for pairs
            of `precompute_reference`. "simpo" and "orpo" have none.
        beta: β.
        loss_type: a row of `PREFERENCE_LOSSES`.
        label_smoothing: ε, the share of pairs that are labelled the wrong way round.
        reference_free: takes l^ref as 0.
        simpo_gamma: the margin γ of "simpo".
        tokenizer: for pairs of texts.
        end_token_id: ends completions that are given as texts or ids.
        pad_token_id: at the end of rows.
        max_length: longer rows are cut, the prompt first.
        sampling: options of the policy, as in `OnPolicy`.
        chunk_size: how many tokens' logits exist at a time, see `SFT`.
        ema_decay, seed: see `GenerativeModel`.

    Reference log-probabilities may be computed once:
    ``DPO(policy, reference="precomputed").fit(DPO(policy).precompute_reference(pairs))``.

    Metrics: `loss`, `reward_accuracy` (how often the chosen answer has the greater implicit reward
    β (l - l^ref)), `reward_margin`, `chosen_reward`, `rejected_reward`. That `chosen_reward` falls
    too is usual.

    Example:

        ```python
        import artifex_keras as ak

        policy = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.DPO(policy, beta=0.1, end_token_id=0)
        model.compile("adam")
        pairs = [{"prompt": [1, 2], "chosen": [7, 7], "rejected": [3]}] * 2
        history = model.fit(pairs, batch_size=2, verbose=0).history
        print(history["reward_accuracy"])
        ```
    """

    options = (
        "beta",
        "loss_type",
        "label_smoothing",
        "reference_free",
        "simpo_gamma",
        "end_token_id",
        "pad_token_id",
        "max_length",
        "sampling",
        "chunk_size",
        "ema_decay",
        "seed",
    )
    live_options = ("beta", "label_smoothing", "simpo_gamma")
    zero_options = ("label_smoothing",)
    derived_options = ("_needs_reference",)
    metric_names = {
        "reward_accuracy": "max",
        "reward_margin": "max",
        "chosen_reward": "max",
        "rejected_reward": "min",
    }
    counts = "pairs"
    columns = answers = SIDES

    def __init__(
        self,
        policy: keras.Model,
        reference: keras.Model | str | None = None,
        *,
        beta: float = 0.1,
        loss_type: str = "sigmoid",
        label_smoothing: float = 0.0,
        reference_free: bool = False,
        simpo_gamma: float = 0.5,
        tokenizer: Any = None,
        end_token_id: int | None = None,
        pad_token_id: int | None = None,
        max_length: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        chunk_size: int | str | None = "auto",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        row = lookup(PREFERENCE_LOSSES, loss_type, "preference loss")
        self._needs_reference = row.reference and not reference_free
        actor = self.actor_of(policy, end_token_id, pad_token_id, sampling)
        if not actor.tokens and (row.per_token or not self._needs_reference):
            raise ValueError(
                "A denoising model has no log-probability of its own, only one relative to a "
                "reference. Choose loss_type 'sigmoid', 'hinge' or 'robust' without "
                f"`reference_free`. Received: loss_type={loss_type!r}."
            )
        if reference_free and not row.reference:
            raise ValueError(
                f"The loss {loss_type!r} has no reference: leave `reference_free` out."
            )
        if not isinstance(reference, str) or reference != PRECOMPUTED or not self._needs_reference:
            reference = resolve_reference(reference, actor, self._needs_reference)
        elif not actor.tokens:
            raise ValueError(
                "`reference='precomputed'` is for policies of tokens: of a denoising model the "
                "reference is asked at a new noise each time."
            )
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.keep_policy(policy, actor, reference)
        self.keep_chunks(chunk_size, actor)
        self.beta = beta
        self.loss_type, self.reference_free = loss_type, reference_free
        self.label_smoothing = label_smoothing
        self.simpo_gamma = simpo_gamma
        preference_loss(
            *np.zeros((4, 1), "float32"),
            chosen_length=np.ones(1),
            rejected_length=np.ones(1),
            **self._settings(),
        )  # says what doesn't go together
        self.finish(tokenizer, end_token_id, pad_token_id, max_length, sampling)

    def _settings(self):
        """What `preference_loss` is given besides."""
        gamma = {}
        if "gamma" in PREFERENCE_LOSSES[self.loss_type].options:
            gamma = {"gamma": self.simpo_gamma}
        common = {"loss_type": self.loss_type, "label_smoothing": self.label_smoothing}
        return common | gamma | {"beta": self.beta}

    def _moves(self, name, value):
        within = name != "label_smoothing" or value is None or value < 0.5  # else some losses end
        return super()._moves(name, value) and within

    # The objective

    def objective(self, batch, training):
        x = batch.x
        if not self.actor.tokens:
            x = x | {"sampled": self.actor.draw(ops.shape(x[SIDES[0]])[0], self)}
        scores = self._scores(x)
        reference = self._reference_scores(x) if self._needs_reference else (None, None)
        lengths = [self._lengths(x, side) for side in SIDES]
        loss = preference_loss(
            *scores,
            *reference,
            chosen_length=lengths[0],
            rejected_length=lengths[1],
            **self._settings(),
        )
        rewards = [
            self.beta * (score if other is None else score - other)
            for score, other in zip(scores, reference, strict=True)
        ]
        margin = rewards[0] - rewards[1]
        return {
            "loss": loss,
            "reward_accuracy": ops.cast(margin > 0, "float32"),
            "reward_margin": margin,
            "chosen_reward": rewards[0],
            "rejected_reward": rewards[1],
        }

    def _lengths(self, x, side):
        return ops.sum(x[f"{side}_mask"], axis=1) if self.actor.tokens else None

    def _reference_scores(self, x):
        if f"reference_{SIDES[0]}" in x:
            return tuple(x[f"reference_{side}"] for side in SIDES)
        return self.under_reference(lambda model: self._scores(x, model))

    def _scores(self, x, model=None):
        """l of the chosen and of the rejected answers, (B,) each, from one pass over both."""
        if not self.actor.tokens:
            return self._denoising_scores(x, model)
        tokens, mask = (
            ops.concatenate([x[f"{side}{kind}"] for side in SIDES]) for kind in ("", "_mask")
        )
        return tuple(ops.split(self.completion_log_probs(tokens, mask, model), 2))

    def _denoising_scores(self, x, model):
        """-e/2 of both answers, e at the same time and noise."""
        prompts = {"condition": x["condition"]} if "condition" in x else {}
        return tuple(
            -0.5 * self.actor.errors(ops.cast(x[side], "float32"), prompts, x["sampled"], model)
            for side in SIDES
        )

    # Data

    def as_arrays(self, rows):
        return preferences(rows, **self.reading())

    def check_rows(self, x):
        super().check_rows(x)
        shapes = {tuple(x[side].shape) for side in SIDES}
        if len(shapes) > 1:
            raise ValueError(
                "`chosen` and `rejected` must have the same shape (B, T): they are scored "
                f"together. Received: {' and '.join(map(str, sorted(shapes)))}."
            )
        known = f"reference_{SIDES[0]}" in x and f"reference_{SIDES[1]}" in x
        if self.reference == PRECOMPUTED and not known:
            raise ValueError(
                "`reference='precomputed'` needs the columns 'reference_chosen' and "
                "'reference_rejected', which `precompute_reference` of a model with a reference "
                f"gives. Received: columns {sorted(x)}."
            )

    def precompute_reference(self, pairs: Data, batch_size: int = 32):
        """The pairs with the reference's log-probabilities beside them, as the columns
        `reference_chosen` and `reference_rejected`: `fit` on them doesn't ask the reference.

        Raises:
            ValueError: for a denoising model, and for a model without a reference.
        """
        if not self.actor.tokens or not self._needs_reference or self.reference == PRECOMPUTED:
            raise ValueError(
                "There is nothing to compute beforehand: the reference of a denoising model is "
                "asked at a new noise each time, and here may be none to ask. Received: "
                f"loss_type={self.loss_type!r}, reference={self.reference!r}."
            )
        pairs = self.prepared_data(pairs)
        if not isinstance(pairs, dict):
            raise ValueError(
                "`pairs` must be what `fit` takes as a whole, not batches. Received: "
                f"{type(pairs).__name__}."
            )
        names = [f"{side}{kind}" for side in SIDES for kind in ("", "_mask")]
        scores = self.score_in_batches(pairs, names, batch_size)
        return pairs | {f"reference_{side}": s for side, s in zip(SIDES, scores, strict=True)}
