"""Training energy-based models."""

from artifex_keras.models.energy import RULES, TRAINING_METHODS, EnergyModel
from artifex_keras.trainers.trainer import Trainer

__all__ = ["EnergyTrainer"]


class EnergyTrainer(Trainer):
    """Trains an `EnergyModel`. What is given here is set on the model; None leaves the model's own.

    Args:
        model: an `EnergyModel`.
        config: see `Trainer`.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        mcmc_steps: steps of the chain that draws the negatives of a batch.
        step_size: of the chain.
        noise_scale: of the chain's noise.
        gradient_clipping: the largest norm of a gradient in the chain.
        replay_buffer_init_prob: probability that a kept chain goes on.
        energy_regularization: α of α(E(x⁺)² + E(x⁻)²).
        gradient_penalty_weight: λ of λ E‖∇E‖².
        data_noise: standard deviation of noise added to the data.
        ema_decay: decay of the average of the weights.
        **common: see `Trainer`.

    Raises:
        ValueError: also for a batch larger than the model's replay buffer.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
        model = ak.EnergyModel(ak.networks.mlp_critic((2,), (16,)), replay_buffer_size=64)
        trainer = ak.EnergyTrainer(model, {"num_epochs": 1, "verbose": 0}, x, mcmc_steps=5)
        trainer.train()
        ```
    """

    family = EnergyModel
    model_options = (
        "mcmc_steps",
        "step_size",
        "noise_scale",
        "gradient_clipping",
        "replay_buffer_init_prob",
        "energy_regularization",
        "gradient_penalty_weight",
        "data_noise",
        "ema_decay",
    )
    rules = RULES

    def configure(self):
        super().configure()
        size = self.model.replay_buffer_size
        keeps_chains = TRAINING_METHODS[self.model.training_method].keeps_chains
        if keeps_chains and self.config.batch_size > size:
            raise ValueError(
                "`replay_buffer_size` must be at least the batch size. Received: "
                f"replay_buffer_size={size}, batch_size={self.config.batch_size}."
            )
