"""Training generative adversarial networks."""

import keras

from artifex_keras.arguments import integer, lookup, number
from artifex_keras.models import GAN
from artifex_keras.objectives.adversarial import GAN_LOSSES
from artifex_keras.trainers.trainer import Trainer

__all__ = ["GANTrainer"]


def _loss(name, value):
    lookup(GAN_LOSSES, value, "GAN loss")
    return value


class GANTrainer(Trainer):
    """Trains a `GAN`. What is given here is set on the model; None leaves the model's own.

    `config.batch_size` is that of one step of either network: a model that takes `d_steps` steps
    of the discriminator per step of the generator is fed `batch_size * d_steps` examples of an
    array at a time, so that each step sees real examples of its own. An epoch is one pass over the
    data, thus has `d_steps` times fewer generator steps. Datasets that yield batches should yield
    them that large themselves.

    A `scheduler` counts the generator's updates; the discriminator's rate goes along with it.

    Args:
        model: a `GAN`.
        config: see `Trainer`. Its optimizer is the generator's.
        train_dataset: see `Trainer`.
        val_dataset: see `Trainer`.
        d_steps: discriminator steps per generator step.
        gp_weight: λ of the gradient penalty.
        loss_type: see `GAN`. A gradient penalty doesn't change it: for WGAN-GP say "wasserstein".
        r1_weight: γ of the R1 penalty.
        label_smoothing: of the real labels.
        ema_decay: decay of the generator's average.
        discriminator_optimizer: the discriminator's, in the forms that `config.optimizer` has; None
            is one like the generator's.
        **common: see `Trainer`.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")
        generator = ak.networks.mlp_generator(3, (2,), (8,))
        gan = ak.GAN(generator, ak.networks.mlp_critic((2,), (8,)), latent_dim=3)
        trainer = ak.GANTrainer(gan, {"num_epochs": 1, "verbose": 0}, x, d_steps=2, r1_weight=0.1)
        trainer.train()
        ```
    """

    family = GAN
    model_options = (
        "d_steps",
        "gp_weight",
        "loss_type",
        "r1_weight",
        "label_smoothing",
        "ema_decay",
    )
    own_options = ("discriminator_optimizer",)
    rules = {
        "d_steps": lambda name, value: integer(name, value, minimum=1),
        "gp_weight": lambda name, value: number(name, value, minimum=0.0),
        "loss_type": _loss,
        "r1_weight": lambda name, value: number(name, value, minimum=0.0),
        "label_smoothing": lambda name, value: number(name, value, minimum=0.0, maximum=0.5),
    }

    @property
    def batch_size(self):
        return self.config.batch_size * self.model.d_steps

    def compile_arguments(self):
        arguments = super().compile_arguments()
        other = self.options["discriminator_optimizer"]
        if other is None and isinstance(self.config.optimizer, keras.optimizers.Optimizer):
            return arguments  # the model makes one like it
        other = self.optimizer(other, updates_per_batch=self.model.d_steps)
        return {**arguments, "discriminator_optimizer": other}
