"""Diffusion models from the shell."""

from keras import ops

from artifex_keras import pictures
from artifex_keras.models import Diffusion
from artifex_keras.shell.recipes.recipe import Recipe
from artifex_keras.shell.recipes.timed import KEYS, timed_network, timed_settings
from artifex_keras.trainers import DiffusionTrainer

__all__ = ["RECIPES"]


def _defaults(dataset, requested):
    return timed_settings(dataset, requested, {"noise_schedule": "cosine", "ema_decay": 0.999})


def _networks(dataset, network, model):
    scale = 100.0 if model["noise_schedule"] == "edm" else 1.0
    return {"network": timed_network(dataset, network, scale)}


def _draw_denoising(model, dataset, folder):
    """A strip for each of a few examples: from noise at the left to the example at the right."""
    if dataset.kind != "images":
        return []
    limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
    states = ops.convert_to_numpy(model.denoising(6, 10, seed=0))
    path, title = folder / "denoising.png", "From noise to an image"
    return [pictures.strips(states, path, title=title, limits=limits)]


RECIPES = {
    "diffusion": Recipe(
        model=Diffusion,
        trainer=DiffusionTrainer,
        defaults=_defaults,
        networks=_networks,
        network_keys=KEYS,
        draw=_draw_denoising,
        progress_metrics=("loss", "val_loss"),
    )
}
