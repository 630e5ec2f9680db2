"""Networks that know the time, as the recipes of diffusion and flow matching have them."""

from artifex_keras import networks
from artifex_keras.arguments import lookup
from artifex_keras.shell.recipes.recipe import SMALL, reject_unused, training_settings

__all__ = ["KEYS", "timed_network", "timed_settings"]

KINDS = {"mlp": "units", "unet": "filters"}  # kinds of networks, and what says how wide they are
KEYS = ("kind", *KINDS.values())


def timed_settings(dataset, requested, model):
    """All settings, by section, with `model` for the section of that name."""
    images = dataset.kind == "images"
    kind = requested["network"].get("kind", "unet" if images else "mlp")
    small = images and max(dataset.shape[:2]) <= SMALL
    widths = {
        "mlp": [256] * 3 if images else [128] * 3,
        "unet": [16, 32] if small else [32, 64, 64],
    }
    return {
        "network": {"kind": kind, lookup(KINDS, kind, "kind of network"): widths[kind]},
        "model": model,
        "trainer": {},
        "training": training_settings(
            dataset,
            requested,
            steps=2400 if images else 6000,
            batch_size=64 if images else 256,
            optimizer={"type": "adamw", "learning_rate": 2e-3},
        ),
    }


def timed_network(dataset, network, time_scale):
    """The network of a section `network`."""
    kind = network["kind"]
    width = lookup(KINDS, kind, "kind of network")
    reject_unused(network, (width,))
    if kind == "unet" and dataset.kind != "images":
        raise ValueError(f"A U-Net is for images. Received: {dataset.kind} in {dataset.name!r}.")
    make = {"mlp": networks.timed_mlp, "unet": networks.unet}[kind]
    return make(dataset.shape, network[width], time_scale=time_scale)
