"""Training diffusion models."""

from artifex_keras.arguments import number, share
from artifex_keras.models import Diffusion
from artifex_keras.trainers.trainer import Trainer

__all__ = ["DiffusionTrainer"]


class DiffusionTrainer(Trainer):
    """Trains a `Diffusion`. What is given here is set on the model; None leaves the model's own.

    Args:
        model: a `Diffusion`.
        config: see `Trainer`.
        train_dataset: see `Trainer`; with conditions, (x, condition).
        val_dataset: see `Trainer`. Its loss is under the averaged weights, at the same levels and
            with the same noise each time.
        ema_decay: decay of the averaged weights, which sample and validate.
        prediction_type: what the network predicts. A network trained before has to learn anew.
        timestep_sampling: density of the levels.
        loss_weighting: weight of the levels.
        snr_gamma: γ of the weighting "min_snr".
        condition_dropout: share of examples that train without their condition.
        **common: see `Trainer`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
        model = ak.Diffusion(ak.networks.timed_mlp((2,), (16,)))
        trainer = ak.DiffusionTrainer(
            model, {"num_epochs": 1, "verbose": 0}, x, loss_weighting="min_snr", snr_gamma=5.0
        )
        trainer.train()
        ```
    """

    family = Diffusion
    model_options = (
        "ema_decay",
        "prediction_type",
        "timestep_sampling",
        "loss_weighting",
        "snr_gamma",
        "condition_dropout",
    )
    rules = {
        "snr_gamma": lambda name, value: number(name, value, above=0.0),
        "condition_dropout": share,
    }

    def configure(self):
        super().configure()
        self.model.check_options()
