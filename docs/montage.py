"""Makes `docs/montage.png`: pictures that `VisualizationCallback` drew of short runs.

    python docs/montage.py

Two minutes on two CPU cores; the data are scikit-learn's digits and two moons.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from PIL import Image

import artifex_keras as ak
from artifex_keras import datasets, networks
from artifex_keras.datasets import toys

WIDTH, GAP = 1240, 16
ROWS = (
    ("vae/latent", "flow/density", "energy/energy"),
    ("matching/velocity",),
    ("vae/reconstructions", "diffusion/denoising", "diffusion/samples"),
)


def moons():
    return toys.standardise(toys.moons(4000, seed=0))


def vae():
    digits = datasets.digits(seed=0)
    model = ak.VAE(
        networks.mlp_encoder((8, 8, 1), 2, [256, 256, 256]),
        networks.mlp_decoder(2, (8, 8, 1), [256, 256, 256], output_activation="sigmoid"),
        reconstruction="gaussian",
        variance=0.03,
        ema_decay=0.99,
        seed=0,
    )
    shown = digits.train, digits.train_labels
    return model, {"x": digits.train, "epochs": 200, "batch_size": 64}, {"data": shown}


def diffusion():
    digits = datasets.digits(seed=0)
    x, y = 2 * digits.train - 1, digits.train_labels
    network = networks.timed_mlp((8, 8, 1), [512, 512, 512], num_classes=10)
    model = ak.Diffusion(network, prediction_type="v_prediction", ema_decay=0.995, seed=0)
    fit = {"x": x, "y": y, "epochs": 300, "batch_size": 64}
    return model, fit, {"data": (x, y), "num_samples": 60}


def flow():
    model = ak.NormalizingFlow(networks.spline_flow((2,), 4, [64, 64]), ema_decay=0.99, seed=0)
    return model, {"x": moons(), "epochs": 80, "batch_size": 256}, {"data": moons()}


def matching():
    network = networks.timed_mlp((2,), [128, 128, 128], time_scale=1000)
    model = ak.FlowMatching(network, ema_decay=0.995, seed=0)
    return model, {"x": moons(), "epochs": 300, "batch_size": 256}, {"data": moons()}


def energy():
    model = ak.EnergyModel(
        networks.mlp_critic((2,), [128, 128, 128], activation="swish"),
        training_method="pcd",
        sampler="mala",
        step_size=0.01,
        value_range=(-3.0, 3.0),
        energy_regularization=0.02,
        ema_decay=0.99,
        seed=0,
    )
    return model, {"x": moons(), "epochs": 100, "batch_size": 128}, {"data": moons()}


def train(make, folder):
    """Trains what `make` gives with pictures of the last epoch in `folder`."""
    keras.utils.set_random_seed(0)
    model, fit, shown = make()
    steps = fit["epochs"] * -(-len(fit["x"]) // fit["batch_size"])
    schedule = ak.create_scheduler("cosine", learning_rate=2e-3, total_steps=steps)
    model.compile(ak.create_optimizer("adam", learning_rate=schedule, gradient_clip_norm=5.0))
    watching = ak.callbacks.VisualizationCallback(folder, fit["epochs"], **shown)
    model.fit(**fit, verbose=0, callbacks=[watching])


def row(files):
    """The pictures side by side, as high as fills the width."""
    images = [Image.open(file).convert("RGB") for file in files]
    room = WIDTH - GAP * (len(images) + 1)
    height = room / sum(image.width / image.height for image in images)
    sheet = Image.new("RGB", (WIDTH, round(height) + GAP), "white")
    left = GAP
    for image in images:
        size = (round(height * image.width / image.height), round(height))
        sheet.paste(image.resize(size, Image.Resampling.LANCZOS), (left, 0))
        left += size[0] + GAP
    return sheet


def main():
    with tempfile.TemporaryDirectory() as folder:
        for make in (vae, flow, energy, matching, diffusion):
            train(make, Path(folder) / make.__name__)
            print(make.__name__, flush=True)
        rows = [row([found(folder, name) for name in names]) for names in ROWS]
    montage = Image.new("RGB", (WIDTH, sum(part.height for part in rows) + GAP), "white")
    for number, part in enumerate(rows):
        montage.paste(part, (0, GAP + sum(above.height for above in rows[:number])))
    path = Path(__file__).with_name("montage.png")
    montage.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3).save(path, optimize=True)
    print(path, np.round(path.stat().st_size / 1e3), "kB")


def found(folder, name):
    run, kind = name.split("/")
    return next((Path(folder) / run).glob(f"*-{kind}.png"))


if __name__ == "__main__":
    main()
