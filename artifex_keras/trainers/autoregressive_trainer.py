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

    def __init__(
        self,
        model,
        config,
        train_dataset,
        val_dataset=None,
        *,
        label_smoothing=None,
        z_loss=None,
        scheduled_sampling=None,
        scheduled_sampling_steps=None,
        ema_decay=None,
        **common,
    ):
        self.options = {
            "label_smoothing": label_smoothing,
            "z_loss": z_loss,
            "scheduled_sampling": scheduled_sampling,
            "scheduled_sampling_steps": scheduled_sampling_steps,
        }
        self.ema_decay = ema_decay
        super().__init__(model, config, train_dataset, val_dataset, **common)


class PixelAutoregressiveTrainer(Trainer):
    """Trains a `PixelAutoregressive`; the arguments are those of `Trainer`, and `ema_decay`."""

    family = PixelAutoregressive

    def __init__(self, model, config, train_dataset, val_dataset=None, *, ema_decay=None, **common):
        self.ema_decay = ema_decay
        super().__init__(model, config, train_dataset, val_dataset, **common)
