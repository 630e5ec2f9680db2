"""Diffusion models from the shell."""

from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.models import Diffusion
from artifex_keras.recipes.family import Family, training_settings
from artifex_keras.trainers import DiffusionTrainer
from artifex_keras.utils import lookup

__all__ = ["RECIPE"]

KINDS = {"mlp": "units", "unet": "filters"}  # kinds of networks, and what says how wide they are
SMALL = 16  # images up to that many pixels a side have two resolutions


def _defaults(dataset, asked):
    images = dataset.kind == "images"
    kind = asked["network"].get("kind", "unet" if images else "mlp")
    small = images and max(dataset.shape[:2]) <= SMALL
    widths = {
        "mlp": [256] * 3 if images else [128] * 3,
        "unet": [16, 32] if small else [32, 64, 64],
    }
    width = lookup(KINDS, kind, "kind of network")
    return {
        "network": {"kind": kind, width: widths[kind]},
        "model": {"noise_schedule": "cosine", "ema_decay": 0.999},
        "trainer": {},
        "training": training_settings(
            dataset,
            asked,
            steps=2400 if images else 6000,
            batch_size=64 if images else 256,
            optimizer={"type": "adamw", "learning_rate": 2e-3},
        ),
    }


def _networks(dataset, network, model):
    kind = network["kind"]
    width = lookup(KINDS, kind, "kind of network")
    for name in network:
        if name not in ("kind", width):
            raise ValueError(
                f"`{name}` is of no use to networks of kind {kind!r}, which have `{width}`. "
                f"Received: {name}={network[name]!r}."
            )
    if kind == "unet" and dataset.kind != "images":
        raise ValueError(f"A U-Net is for images. Received: {dataset.kind} in {dataset.name!r}.")
    make = {"mlp": networks.timed_mlp, "unet": networks.unet}[kind]
    scale = 100.0 if model["noise_schedule"] == "edm" else 1.0
    return {"network": make(dataset.shape, network[width], time_scale=scale)}


def _draw_denoising(model, dataset, folder):
    """A strip for each of a few examples: from noise at the left to the example at the right."""
    if dataset.kind != "images":
        return []
    limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
    states = ops.convert_to_numpy(model.denoising(6, 10, seed=0))
    path = folder / "denoising.png"
    rows = states.swapaxes(0, 1).reshape(-1, *dataset.shape)
    title = "From noise to an image"
    return [pictures.image_grid(rows, path, title=title, columns=len(states), limits=limits)]


RECIPE = Family(
    model=Diffusion,
    trainer=DiffusionTrainer,
    defaults=_defaults,
    networks=_networks,
    network_keys=("kind", *KINDS.values()),
    draw=_draw_denoising,
    shown=("loss", "val_loss"),
)
