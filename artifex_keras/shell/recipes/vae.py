"""Variational autoencoders from the shell."""

import numpy as np
from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.models import VAE
from artifex_keras.shell.recipes.recipe import (
    KINDS,
    Recipe,
    network_arguments,
    network_settings,
    training_settings,
)
from artifex_keras.trainers import VAETrainer

__all__ = ["RECIPES"]


def _defaults(dataset, requested):
    images = dataset.kind == "images"
    network = network_settings(
        dataset,
        requested["network"],
        {"mlp": 4 if images else 2, "conv": 16},
        {"mlp": [256, 256, 256] if images else [128, 128, 128], "conv": [32, 64]},
    )
    training = training_settings(
        dataset,
        requested,
        steps=3200,
        batch_size=64,
        optimizer={"type": "adamw", "learning_rate": 1e-3},
    )
    likelihood = requested["model"].get("reconstruction", "gaussian")
    variance = {"variance": 0.03 if images else "optimal"} if likelihood == "gaussian" else {}
    annealed = requested["model"].get("kl_annealing", "linear") not in ("none", None, False)
    return {
        "network": network,
        "model": {
            "reconstruction": likelihood,
            **variance,
            "kl_annealing": "linear",
            "ema_decay": 0.995,
        },
        "trainer": {"kl_warmup_epochs": training["num_epochs"] / 4} if annealed else {},
        "training": training,
    }


def _networks(dataset, network, model):
    kind, latent_dim, widths = network_arguments(network)
    if model["reconstruction"] == "categorical":
        raise ValueError(
            "reconstruction='categorical' needs data of whole levels, which the shell doesn't "
            "have. Choose 'bce' or 'gaussian', or write it in Python."
        )
    # Images lie in [0, 1], and so do their means.
    bounded = dataset.kind == "images" and model["reconstruction"] != "bce"
    options = {"output_activation": "sigmoid" if bounded else None}
    encoder, decoder = {
        "mlp": (networks.mlp_encoder, networks.mlp_decoder),
        "conv": (networks.conv_encoder, networks.conv_decoder),
    }[kind]
    return {
        "encoder": encoder(dataset.shape, latent_dim, widths),
        "decoder": decoder(latent_dim, dataset.shape, widths[::-1], **options),
    }


def _draw_reconstructions(model, dataset, folder):
    if dataset.kind != "images":
        return []
    held_out = (dataset.train if dataset.validation is None else dataset.validation)[:20]
    return [
        pictures.reconstructions(
            held_out,
            ops.convert_to_numpy(model.reconstruct(held_out)),
            folder / "reconstructions.png",
            title=f"Reconstructions of {dataset.name} it was not trained on",
        )
    ]


def _note(config, dataset):
    """Why a loss may be negative: that of a density, in nats, whose least value is known."""
    variance = config["model"].get("variance")
    if config["model"]["reconstruction"] != "gaussian" or not isinstance(variance, (int, float)):
        return None
    size = int(np.prod(dataset.shape))
    least = 0.5 * size * np.log(2 * np.pi * variance)
    return (
        f"The loss is -ln p of {size} values, a density of variance {variance:g}: it may be "
        f"negative, down to {least:,.0f} nats. With --set reconstruction=bce it is never below 0."
        if least < 0
        else None
    )


RECIPES = {
    "vae": Recipe(
        model=VAE,
        trainer=VAETrainer,
        scale="unit",
        defaults=_defaults,
        networks=_networks,
        network_keys=("kind", "latent_dim", *KINDS.values()),
        draw=_draw_reconstructions,
        note=_note,
        progress_metrics=("loss", "val_loss", "kl_loss"),
        units=dict.fromkeys(("loss", "elbo", "kl_loss", "reconstruction_loss"), "nats"),
    )
}
