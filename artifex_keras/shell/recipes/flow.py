"""Normalizing flows and flow matching from the shell."""

import numpy as np
from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.arguments import lookup
from artifex_keras.models import FlowMatching, NormalizingFlow
from artifex_keras.shell.recipes.recipe import Recipe, reject_unused, training_settings
from artifex_keras.shell.recipes.timed import KEYS, timed_network, timed_settings
from artifex_keras.trainers import FlowTrainer

__all__ = ["RECIPES"]


def _draw_density(model, dataset, folder):
    if dataset.shape != (2,):
        return []

    def log_prob(x):
        parts = np.array_split(x, 20)
        return np.concatenate([ops.convert_to_numpy(model.log_prob(part)) for part in parts])

    return [
        pictures.density(
            log_prob,
            folder / "density.png",
            bounds=pictures.bounds_of(dataset.train),
            reference=dataset.train[:500],
            title=f"The density learned from {dataset.name}",
        )
    ]


# Normalizing flows

FLOWS = {  # kinds of flows: how they are made, what they are made of, and the keys of `network`
    "realnvp": (networks.realnvp, {"num_layers": 8, "units": [64, 64]}),
    "spline": (networks.spline_flow, {"num_layers": 4, "units": [64, 64]}),
    "autoregressive": (networks.masked_autoregressive_flow, {"num_layers": 5, "units": [64, 64]}),
    "glow": (networks.glow, {"num_scales": 2, "num_steps": 4, "units": [32, 32]}),
}


def _flow_defaults(dataset, requested):
    images = dataset.kind == "images"
    # Fully connected ones learn small sets of images by heart.
    scaled = images and all(side % 4 == 0 for side in dataset.shape[:2])
    kind = requested["network"].get("kind", "glow" if scaled else "realnvp" if images else "spline")
    _, settings = lookup(FLOWS, kind, "kind of flow")
    levels = {"dequantize": _levels(dataset.train), "unit_interval": True} if images else {}
    training = training_settings(
        dataset,
        requested,
        steps=1200 if images else 4000,
        batch_size=64 if images else 256,
        optimizer={"type": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1 if images else 0},
    )
    return {
        "network": {"kind": kind, **settings},
        "model": {**levels, "ema_decay": 0.995},
        "trainer": {},
        "training": training | {"gradient_clip_norm": 5.0},
    }


def _levels(x):
    """How many levels the images in [0, 1] have, from the least difference between two values."""
    values = np.unique(x[:200])
    steps = np.diff(values)
    steps = steps[steps > 1e-3]
    return int(np.clip(round(1 / steps.min()) + 1, 2, 256)) if len(steps) else 2


def _flow_networks(dataset, network, model):
    make, settings = lookup(FLOWS, network["kind"], "kind of flow")
    reject_unused(network, tuple(settings))
    options = {name: network[name] for name in settings}
    if model.get("dequantize") is not None:
        first = [networks.Logit()]
    else:
        first = [networks.Standardise().adapt(dataset.train)]
    return {"bijection": make(dataset.shape, **options, first=first)}


RECIPE = Recipe(
    model=NormalizingFlow,
    trainer=FlowTrainer,
    defaults=_flow_defaults,
    networks=_flow_networks,
    network_keys=("kind", "num_layers", "num_scales", "num_steps", "units"),
    scale="unit",
    draw=_draw_density,
    progress_metrics=("loss", "val_loss", "bits_per_dim"),
    units={"loss": "nats", "nll": "nats", "bits_per_dim": "bits"},
)


# Flow matching


def _matching_defaults(dataset, requested):
    return timed_settings(dataset, requested, {"path": "linear", "ema_decay": 0.999})


def _matching_networks(dataset, network, model):
    return {"network": timed_network(dataset, network, time_scale=1000.0)}


MATCHING = Recipe(
    model=FlowMatching,
    trainer=FlowTrainer,
    defaults=_matching_defaults,
    networks=_matching_networks,
    network_keys=KEYS,
    draw=_draw_density,
    progress_metrics=("loss", "val_loss"),
)

RECIPES = {"flow": RECIPE, "flow-matching": MATCHING}
