"""Training autoregressive models."""

from artifex_keras.models import Autoregressive, PixelAutoregressive
from artifex_keras.trainers.trainer import Trainer

__all__ = ["AutoregressiveTrainer", "PixelAutoregressiveTrainer"]


class AutoregressiveTrainer(Trainer):
    """Trains an `Autoregressive`. What is given here is set on the model; None leaves its own.

    Args:
        model: an `Autoregressive`.
        config: see `Trainer`.
        train_dataset: rows of token ids, or (tokens, labels or mask), see `Autoregressive`; else as
            in `Trainer`.
        val_dataset: the same.
        label_smoothing: the share of the target spread over all tokens.
        z_loss: the weight of (logsumexp of the logits)².
        scheduled_sampling: how the share of true tokens among the inputs falls.
        scheduled_sampling_steps: k of that schedule, in updates.
        ema_decay: decay of the average of the weights.
        **common: see `Trainer`.
    """

    family = Autoregressive
    model_options = (
        "label_smoothing",
        "z_loss",
        "scheduled_sampling",
        "scheduled_sampling_steps",
        "ema_decay",
    )


class PixelAutoregressiveTrainer(Trainer):
    """Trains a `PixelAutoregressive`; the arguments are those of `Trainer`, and `ema_decay`."""

    family = PixelAutoregressive
    model_options = ("ema_decay",)
