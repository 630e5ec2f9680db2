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
        label_smoothing: the share of the target that all tokens get in equal parts.
        z_loss: the weight of (logsumexp of the logits)².
        scheduled_sampling: how the share of true tokens among the inputs falls.
        scheduled_sampling_steps: k of that schedule, in updates.
        ema_decay: decay of the average of the weights.
        **common: see `Trainer`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        network = ak.networks.CausalTransformer(8, 6, num_layers=1, num_heads=2, width=8)
        tokens = np.random.default_rng(0).integers(0, 8, (32, 6))
        trainer = ak.AutoregressiveTrainer(
            ak.Autoregressive(network), {"num_epochs": 1, "verbose": 0}, tokens, z_loss=1e-4
        )
        trainer.train()
        ```
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
    """Trains a `PixelAutoregressive`; the arguments are those of `Trainer`, and `ema_decay`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        network = ak.networks.pixelcnn((4, 4, 1), 2, filters=4, num_blocks=1)
        images = np.random.default_rng(0).integers(0, 2, (32, 4, 4, 1)).astype("float32")
        trainer = ak.PixelAutoregressiveTrainer(
            ak.PixelAutoregressive(network, num_levels=2), {"num_epochs": 1, "verbose": 0}, images
        )
        trainer.train()
        ```
    """

    family = PixelAutoregressive
    model_options = ("ema_decay",)
