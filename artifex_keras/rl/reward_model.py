"""A reward model: a number for a text, learned from pairs of answers of which one was preferred."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import bounded, checked
from artifex_keras.datasets import preferences
from artifex_keras.datasets.rows import columns_of
from artifex_keras.objectives.preference import bradley_terry
from artifex_keras.rl.scored import Scored

__all__ = ["RewardModel"]

SIDES = ("chosen", "rejected")


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(centering=bounded(minimum=0.0))
class RewardModel(Scored):
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
        actor = self.backbone_of(backbone, end_token_id, pad_token_id)
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.keep_backbone(backbone, actor, head)
        self.centering = centering
        self.finish(tokenizer, end_token_id, pad_token_id, max_length)

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
