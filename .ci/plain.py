"""The built package with its core dependencies alone: it imports, trains and draws from a shell."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ABSENT = ("tensorflow", "torch", "optax", "wandb", "mlflow")
present = [name for name in ABSENT if importlib.util.find_spec(name)]
assert not present, f"this environment holds {present}"

os.environ["KERAS_BACKEND"] = "jax"  # Keras's own choice would be TensorFlow

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

import artifex_keras as ak  # noqa: E402

assert "site-packages" in ak.__file__, f"not the installed package: {ak.__file__}"

keras.utils.set_random_seed(0)
digits = (load_digits().data / 16).astype("float32")


def perceptron(inputs, outputs):
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(64, "relu"), layers.Dense(outputs)]
    )


def compiled(model):
    model.compile(optimizer="adam")
    return model


levels = load_digits().data.astype("int32")
models = {
    "VAE": (ak.VAE(perceptron(64, 8), perceptron(4, 64), reconstruction="bce"), digits),
    "GAN": (ak.GAN(perceptron(8, 64), perceptron(64, 1), 8, r1_weight=0.1), digits),
    "Diffusion": (ak.Diffusion(ak.networks.timed_mlp(64, (64,))), digits),
    "NormalizingFlow": (ak.NormalizingFlow(ak.networks.realnvp(64, 2)), digits),
    "FlowMatching": (ak.FlowMatching(ak.networks.timed_mlp(64, (64,), time_scale=1000)), digits),
    "EnergyModel": (ak.EnergyModel(perceptron(64, 1), replay_buffer_size=100), digits),
    "Autoregressive": (
        ak.Autoregressive(ak.networks.CausalTransformer(17, 64, num_layers=1, width=16)),
        levels,
    ),
}
for name, (model, data) in models.items():
    history = compiled(model).fit(data, epochs=1, batch_size=64, verbose=0).history
    drawn = np.asarray(model.sample(4))
    assert drawn.shape == (4, 64) and np.isfinite(drawn).all()
    print(name, {metric: round(float(values[-1]), 3) for metric, values in history.items()})

with tempfile.TemporaryDirectory() as folder:
    shell = [Path(sys.executable).parent / "artifex-keras", "train", "vae", "--data", "digits"]
    unset = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    subprocess.run([*shell, "--epochs", "2", "--output", folder], check=True, env=unset)
    written = sorted(path.name for path in Path(folder).iterdir())
    assert any(name.endswith(".keras") for name in written), written
    assert any(name.endswith(".png") for name in written), written
    print("the shell wrote", *written)
    subprocess.run([*shell[:2], "--resume", folder, "--epochs", "3"], check=True, env=unset)
    epochs = len((Path(folder) / "history.csv").read_text().splitlines()) - 1
    assert epochs == 3, f"{epochs} epochs after going on"
