"""Training flows: normalizing flows by exact likelihood, and flow matching."""

from artifex_keras.arguments import number, share
from artifex_keras.models import FlowMatching, NormalizingFlow
from artifex_keras.trainers.trainer import Trainer

__all__ = ["FlowTrainer"]


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
    """

    rules = {
        "sigma": lambda name, value: number(name, value, minimum=0.0),
        "condition_dropout": share,
    }

    def __init__(
        self,
        model,
        config,
        train_dataset,
        val_dataset=None,
        *,
        ema_decay=None,
        path=None,
        time_sampling=None,
        sigma=None,
        coupling=None,
        condition_dropout=None,
        **common,
    ):
        given = {
            "path": path,
            "time_sampling": time_sampling,
            "sigma": sigma,
            "coupling": coupling,
            "condition_dropout": condition_dropout,
        }
        self.options = {name: value for name, value in given.items() if value is not None}
        self.ema_decay = ema_decay
        _check_model(model, self.options)
        super().__init__(model, config, train_dataset, val_dataset, **common)

    def configure(self):
        super().configure()
        if isinstance(self.model, FlowMatching):
            self.model.check_options()


def _check_model(model, options):
    if not isinstance(model, NormalizingFlow | FlowMatching):
        raise ValueError(
            "`model` must be a NormalizingFlow or a FlowMatching. Received: "
            f"{type(model).__name__}."
        )
    if options and isinstance(model, NormalizingFlow):
        raise ValueError(
            f"{' and '.join(f'`{name}`' for name in options)} would be for FlowMatching. Received: "
            "a NormalizingFlow, which learns by its exact likelihood."
        )
