"""Generative adversarial networks from the shell."""

from artifex_keras import networks
from artifex_keras.models import GAN
from artifex_keras.shell.recipes.recipe import (
    KINDS,
    Recipe,
    network_arguments,
    network_settings,
    training_settings,
)
from artifex_keras.trainers import GANTrainer

__all__ = ["RECIPES"]


def _defaults(dataset, requested):
    images = dataset.kind == "images"
    network = network_settings(
        dataset,
        requested["network"],
        {"mlp": 16 if images else 4, "conv": 64},
        {"mlp": [256, 256, 256] if images else [128, 128, 128], "conv": [64, 128]},
    )
    loss = requested["model"].get("loss_type", "relativistic")
    return {
        "network": network,
        "model": {"loss_type": loss, **_penalties(loss, images), "ema_decay": 0.999},
        "trainer": {},
        "training": training_settings(
            dataset,
            requested,
            steps=8000,
            batch_size=64 if images else 128,
            optimizer={
                "type": "adam",
                "learning_rate": 5e-4 if images else 1e-3,
                "beta1": 0.5,
                "beta2": 0.99,
            },
        ),
    }


def _penalties(loss, images):
    """What keeps the discriminator smooth under each loss."""
    if loss == "wasserstein":
        return {"gp_weight": 10.0 if images else 0.1, "d_steps": 5}
    weight = 0.3 if images else 0.05
    both = {"r1_weight": weight, "r2_weight": weight}
    return both if loss == "relativistic" else {"r1_weight": weight}


def _networks(dataset, network, model):
    kind, latent_dim, widths = network_arguments(network)
    options = {"output_activation": "tanh" if dataset.kind == "images" else None}
    if kind == "conv":
        critic = networks.conv_critic(dataset.shape, widths)
        generator = networks.conv_generator(
            latent_dim, dataset.shape, widths[::-1], upsampling="resize", **options
        )
    else:
        critic = networks.mlp_critic(dataset.shape, widths)
        generator = networks.mlp_generator(
            latent_dim, dataset.shape, widths[::-1], activation="leaky_relu", **options
        )
    return {"generator": generator, "discriminator": critic, "latent_dim": latent_dim}


RECIPES = {
    "gan": Recipe(
        model=GAN,
        trainer=GANTrainer,
        defaults=_defaults,
        networks=_networks,
        network_keys=("kind", "latent_dim", *KINDS.values()),
        progress_metrics=("d_loss", "g_loss", "d_real", "d_fake"),
    )
}
