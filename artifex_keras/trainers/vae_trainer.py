"""Training variational autoencoders."""

from artifex_keras.arguments import number
from artifex_keras.models import VAE
from artifex_keras.trainers.trainer import Trainer

__all__ = ["VAETrainer"]


class VAETrainer(Trainer):
    """Trains a `VAE`. What is given here is set on the model; None leaves the model's own.

    Args:
        model: a `VAE`.
        config: see `Trainer`.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        kl_annealing: how the weight of the divergence rises from 0 to β: True or "linear",
            "sigmoid", "cyclical", "none" or False.
        kl_warmup_epochs: epochs until the full weight, may be a fraction; needs an annealing, here
            or in the model. Counted in batches, so the dataset must have a length.
        beta: β, the final weight of the divergence.
        free_bits: nats per latent dimension that cost nothing.
        **common: see `Trainer`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        x = np.random.default_rng(0).uniform(size=(64, 6)).astype("float32")
        trainer = ak.VAETrainer(
            vae, {"num_epochs": 2, "verbose": 0}, x, kl_annealing=True, kl_warmup_epochs=1
        )
        trainer.train()
        ```
    """

    family = VAE
    model_options = ("kl_annealing", "beta", "free_bits")
    own_options = ("kl_warmup_epochs",)

    rules = {"free_bits": lambda name, value: number(name, value, minimum=0.0)}

    def configure(self):
        super().configure()
        if self.options["kl_warmup_epochs"] is not None:
            self.model.kl_warmup_steps = self._warmup_steps()
        if self.options["free_bits"] is not None:
            self.model._check_one_divergence()

    def _warmup_steps(self):
        epochs = number("kl_warmup_epochs", self.options["kl_warmup_epochs"], minimum=0.0)
        if self.model.kl_annealing == "none":
            raise ValueError(
                "`kl_warmup_epochs` needs `kl_annealing`, for example kl_annealing=True. Received: "
                f"kl_warmup_epochs={epochs}, and a model without annealing."
            )
        if self.steps_per_epoch is None:
            raise ValueError(
                "`kl_warmup_epochs` needs a dataset with a length, or `steps_per_epoch` in "
                f"the config. Received: kl_warmup_epochs={epochs} and a dataset of type "
                f"{type(self.train_dataset).__name__}. The model's `kl_warmup_steps` does without."
            )
        return max(round(epochs * self.steps_per_epoch), int(epochs > 0))
