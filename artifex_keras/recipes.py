"""What the shell knows of each family: networks and settings that suit a data set, and pictures."""

import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.models import GAN, VAE
from artifex_keras.trainers import GANTrainer, VAETrainer
from artifex_keras.utils import lookup

__all__ = ["FAMILIES", "Family", "draw_samples", "network_arguments"]

SMALL = 16  # images up to that many pixels a side are learned by fully connected networks
KINDS = {"mlp": "units", "conv": "filters"}  # kinds of networks, and what says how wide they are


@dataclasses.dataclass(frozen=True)
class Family:
    """A row of `FAMILIES`.

    Attributes:
        model: the family's class.
        trainer: its trainer's class.
        scale: the range of images that its networks give.
        knobs: arguments of the trainer that the model doesn't have.
        defaults: from a dataset and the settings asked for to all settings, by section.
        networks: from a dataset and the sections `network` and `model` to the first arguments of
            the model.
        draw: from a model, a dataset and a folder to the paths of the pictures that only this
            family has.
        shown: the metrics of a progress bar.
        units: of the metrics that have one.
    """

    model: type
    trainer: type
    scale: str
    knobs: tuple
    defaults: Callable
    networks: Callable
    draw: Callable
    shown: tuple
    units: dict


def _network(dataset, asked, latent_dim, widths):
    """The section `network`: the kind that is asked for or suits the data, `widths` by kind."""
    small = dataset.kind != "images" or max(dataset.shape[:2]) <= SMALL
    kind = asked.get("kind", "mlp" if small else "conv")
    width = lookup(KINDS, kind, "kind of network")
    return {"kind": kind, "latent_dim": latent_dim[kind], width: widths[kind]}


def network_arguments(network):
    """`(kind, latent_dim, widths)` of a section `network`; what the kind has no use for raises."""
    width = lookup(KINDS, network["kind"], "kind of network")
    for name in network:
        if name not in ("kind", "latent_dim", width):
            raise ValueError(
                f"`{name}` is of no use to networks of kind {network['kind']!r}, which have "
                f"`{width}`. Received: {name}={network[name]!r}."
            )
    return network["kind"], network["latent_dim"], network[width]


def _epochs(dataset, steps, batch_size):
    """Epochs that make about so many steps, from 10 to 500."""
    return int(np.clip(round(steps * batch_size / len(dataset.train)), 10, 500))


def _training(dataset, asked, *, steps, batch_size, optimizer):
    batch_size = min(batch_size, len(dataset.train))
    return {
        "batch_size": batch_size,
        "num_epochs": asked["training"].get("num_epochs") or _epochs(dataset, steps, batch_size),
        "optimizer": optimizer,
        "scheduler": {"type": "cosine"},
    }


# Variational autoencoders


def _vae_defaults(dataset, asked):
    images = dataset.kind == "images"
    network = _network(
        dataset,
        asked["network"],
        {"mlp": 4 if images else 2, "conv": 16},
        {"mlp": [256, 256, 256] if images else [128, 128, 128], "conv": [32, 64]},
    )
    training = _training(
        dataset,
        asked,
        steps=3200,
        batch_size=64,
        optimizer={"type": "adamw", "learning_rate": 1e-3},
    )
    likelihood = asked["model"].get("reconstruction", "gaussian")
    variance = {"variance": 0.03 if images else "optimal"} if likelihood == "gaussian" else {}
    annealed = asked["model"].get("kl_annealing", "linear") not in ("none", None, False)
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


def _vae_networks(dataset, network, model):
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


# Generative adversarial networks


def _gan_defaults(dataset, asked):
    images = dataset.kind == "images"
    network = _network(
        dataset,
        asked["network"],
        {"mlp": 16 if images else 4, "conv": 64},
        {"mlp": [256, 256, 256] if images else [128, 128, 128], "conv": [64, 128]},
    )
    loss = asked["model"].get("loss_type", "relativistic")
    return {
        "network": network,
        "model": {"loss_type": loss, **_penalties(loss, images), "ema_decay": 0.999},
        "trainer": {},
        "training": _training(
            dataset,
            asked,
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


def _gan_networks(dataset, network, model):
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


def _draw_nothing(model, dataset, folder):
    return []


FAMILIES = {
    "vae": Family(
        model=VAE,
        trainer=VAETrainer,
        scale="unit",
        knobs=("kl_warmup_epochs",),
        defaults=_vae_defaults,
        networks=_vae_networks,
        draw=_draw_reconstructions,
        shown=("loss", "val_loss", "kl_loss"),
        units=dict.fromkeys(("loss", "elbo", "kl_loss", "reconstruction_loss"), "nats"),
    ),
    "gan": Family(
        model=GAN,
        trainer=GANTrainer,
        scale="symmetric",
        knobs=("discriminator_optimizer",),
        defaults=_gan_defaults,
        networks=_gan_networks,
        draw=_draw_nothing,
        shown=("d_loss", "g_loss", "d_real", "d_fake"),
        units={},
    ),
}


def draw_samples(samples, dataset, path, title=None):
    """A picture of samples beside the data they should resemble; None for more than the plane."""
    if dataset.kind == "images":
        limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
        return pictures.image_grid(samples, path, title=title, limits=limits)
    if dataset.shape == (2,):
        reference = dataset.train[: max(len(samples), 500)]
        return pictures.scatter(samples, path, reference=reference, title=title)
    return None
