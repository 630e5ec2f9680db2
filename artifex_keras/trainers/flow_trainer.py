"""Training flows: normalizing flows by exact likelihood, and flow matching."""

from artifex_keras.arguments import number, share
from artifex_keras.models import FlowMatching, NormalizingFlow
from artifex_keras.trainers.trainer import Trainer

__all__ = ["FlowTrainer"]

MATCHING = ("path", "time_sampling", "sigma", "coupling", "condition_dropout")


class FlowTrainer(Trainer):
    """Trains a `NormalizingFlow` by its exact likelihood, or a `FlowMatching` by its regression.

    What is given here is set on the model; None leaves the model's own.

    Args:
        model: a `NormalizingFlow` or a `FlowMatching`.
        config: see `Trainer`.
        train_dataset: see `Trainer`; with conditions, (x, condition).
        val_dataset: see `Trainer`.
        ema_decay: decay of the averaged weights, which sample and validate.
        path: of `FlowMatching`, as the following ones: how noise becomes data.
        time_sampling: the density of times.
        sigma: the further noise on x_t.
        coupling: which noise goes with which data.
        condition_dropout: share of examples that train without their condition.
        **common: see `Trainer`.

    Raises:
        ValueError: for another model, and settings of flow matching for a normalizing flow.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
        model = ak.FlowMatching(ak.networks.timed_mlp((2,), (16,)))
        trainer = ak.FlowTrainer(model, {"num_epochs": 1, "verbose": 0}, x, ema_decay=0.99)
        trainer.train()
        ```
    """

    model_options = ("ema_decay", *MATCHING)
    rules = {
        "sigma": lambda name, value: number(name, value, minimum=0.0),
        "condition_dropout": share,
    }

    def check_model(self, model):
        if not isinstance(model, NormalizingFlow | FlowMatching):
            raise ValueError(
                "`model` must be a NormalizingFlow or a FlowMatching. Received: "
                f"{type(model).__name__}."
            )
        given = [name for name in MATCHING if self.options[name] is not None]
        if given and isinstance(model, NormalizingFlow):
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in given)} would be for FlowMatching. "
                "Received: a NormalizingFlow, which learns by its exact likelihood."
            )

    def configure(self):
        super().configure()
        if isinstance(self.model, FlowMatching):
            self.model.check_options()
