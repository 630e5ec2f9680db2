"""Energy-based models from the shell."""

import numpy as np
from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.arguments import lookup
from artifex_keras.models import EnergyModel
from artifex_keras.shell.recipes.recipe import (
    KINDS,
    Recipe,
    network_settings,
    reject_unused,
    training_settings,
)
from artifex_keras.trainers import EnergyTrainer

__all__ = ["RECIPES"]

CONTRASTIVE = ("cd", "pcd")
LEVELS = 10  # noise levels of denoising, from where images are noise down to a twentieth


def _defaults(dataset, requested):
    images = dataset.kind == "images"
    method = requested["model"].get("training_method", "pcd")
    widths = {"mlp": [256, 256] if images else [128, 128, 128], "conv": [32, 64, 64]}
    network = network_settings(dataset, requested["network"], dict.fromkeys(widths), widths)
    return {
        "network": {name: value for name, value in network.items() if name != "latent_dim"},
        "model": {"training_method": method, "ema_decay": 0.99, **_model(dataset, method)},
        "trainer": {},
        "training": training_settings(
            dataset,
            requested,
            steps=(3000 if images else 4000) if method in CONTRASTIVE else 8000,
            batch_size=64 if images else 128,
            optimizer={
                "type": "adam",
                "learning_rate": 5e-4 if images else 1e-3,
                "beta1": 0.5,
            },
        )
        | {"gradient_clip_norm": 1.0},
    }


def _model(dataset, method):
    """Settings of the chain, in units of the data."""
    images = dataset.kind == "images"
    limits = [-1.0, 1.0] if images else _limits(dataset.train)
    if method == "denoising_score_matching":
        largest = 2.0 if images else float(dataset.train.std())
        sigmas = np.geomspace(largest, largest / 20, LEVELS).round(4).tolist()
        return {"sigmas": sigmas, "step_size": round(0.2 * sigmas[-1] ** 2, 8)} | (
            {"value_range": limits} if images else {}
        )
    common = {"value_range": limits, "mcmc_steps": 20}
    if method not in CONTRASTIVE:
        return {**common, "step_size": 0.005}
    if images:
        # Sharpened: noise of a hundredth of the temperature.
        chain = {"step_size": 0.02, "noise_scale": 0.014, "data_noise": 0.03}
        return {**common, **chain, "energy_regularization": 0.01, "replay_buffer_size": 2000}
    return {
        **common,
        "sampler": "mala",
        "step_size": float(f"{0.01 * dataset.train.var():.1g}"),
        "energy_regularization": 0.02,
        "replay_buffer_init_prob": 0.9,
    }


def _limits(x):
    """A range a little wider than the data's, to two digits."""
    low, high = float(x.min()), float(x.max())
    margin = 0.1 * (high - low)
    return [round(low - margin, 2), round(high + margin, 2)]


def _networks(dataset, network, model):
    width = lookup(KINDS, network["kind"], "kind of network")
    reject_unused(network, (width,))
    make = {"mlp": networks.mlp_critic, "conv": networks.conv_critic}[network["kind"]]
    # A score is a slope, which that of straight pieces is no good for.
    bent = dataset.kind == "images" or model["training_method"] not in CONTRASTIVE
    activation = "swish" if bent else "leaky_relu"
    return {"energy": make(dataset.shape, network[width], activation=activation, name="energy")}


def _draw_density(model, dataset, folder):
    if dataset.shape != (2,):
        return []
    return [
        pictures.density(
            lambda x: -ops.convert_to_numpy(model.energy(x)) / model.temperature,
            folder / "density.png",
            bounds=_limits(dataset.train),
            reference=dataset.train[:500],
            title=f"The density e^(-E) learned from {dataset.name}",
        )
    ]


RECIPES = {
    "energy": Recipe(
        model=EnergyModel,
        trainer=EnergyTrainer,
        defaults=_defaults,
        networks=_networks,
        network_keys=("kind", *KINDS.values()),
        draw=_draw_density,
        progress_metrics=("loss", "energy_data", "energy_gap"),
        units=dict.fromkeys(("energy_data", "energy_neg", "energy_gap"), "nats"),
    )
}
