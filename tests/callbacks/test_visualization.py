"""Pictures of a run: what is drawn of which model, the same each time, and the run as without."""

import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from families import FAMILIES, dense
from keras import ops
from PIL import Image

from artifex_keras import pictures, tracking
from artifex_keras.callbacks import VisualizationCallback, visualization
from artifex_keras.callbacks.drawings import KINDS, View, examples
from artifex_keras.datasets import CharacterTokenizer, toys
from artifex_keras.models import VAE, Diffusion, EnergyModel, FlowMatching, NormalizingFlow
from artifex_keras.networks import realnvp, timed_mlp
from artifex_keras.trainers import VAETrainer

IMAGES = np.random.default_rng(0).uniform(size=(32, 4, 4, 1)).astype("float32")
LABELS = np.arange(32) % 3
POINTS = toys.moons(64, seed=1)


@pytest.fixture
def seen(monkeypatch):
    """What is given to the drawing functions, by kind, instead of drawing it, which is slow."""
    found = {}

    def noted(name, kind):
        def drawn(view, content, path, title):
            path.parent.mkdir(parents=True, exist_ok=True)
            found.setdefault(name, []).append((content, path.name, title))
            path.write_text("a picture")

        return kind._replace(drawn=drawn)

    noted_kinds = {name: noted(name, kind) for name, kind in KINDS.items()}
    monkeypatch.setattr(visualization, "KINDS", noted_kinds)
    monkeypatch.setattr(pictures, "animation", lambda files, path: path)
    return found


def image_vae(seed=0):
    keras.utils.set_random_seed(seed)
    entry = keras.Input((4, 4, 1))
    h = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(entry))
    encoder = keras.Model(entry, keras.layers.Dense(4)(h))
    code = keras.Input((2,))
    out = keras.layers.Dense(16, activation="sigmoid")(code)
    decoder = keras.Model(code, keras.layers.Reshape((4, 4, 1))(out))
    return VAE(encoder, decoder, seed=seed)


def plane_model(family, seed=0):
    keras.utils.set_random_seed(seed)
    if family is NormalizingFlow:
        return NormalizingFlow(realnvp((2,), 2, (8,)), seed=seed)
    if family is EnergyModel:
        return EnergyModel(dense(2, 8, name="energy"), mcmc_steps=3, step_size=0.1, seed=seed)
    options = {"num_timesteps": 50} if family is Diffusion else {}
    return family(timed_mlp((2,), (8,)), seed=seed, **options)


def fit(model, callback, x=IMAGES, y=None, epochs=2, **options):
    if not model.compiled:
        model.compile("adam")
    callbacks = [] if callback is None else [callback]
    options = {"batch_size": 16, "verbose": 0, **options}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **options)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def array(tensor):
    return np.array(ops.convert_to_numpy(tensor))


# The run is what it would be without


ONE_OF_EACH = {"vae-everything", "gan-conditional", "energy-pcd", "flow-spline-conditional",
               "flow-matching-conditional", "diffusion-conditional", "autoregressive", "pixel"}  # fmt: skip
ROWS = [
    pytest.param(family, id=family.name)
    if family.name in ONE_OF_EACH
    else pytest.param(family, id=family.name, marks=pytest.mark.slow)
    for family in FAMILIES
]


@pytest.mark.parametrize("family", ROWS)
def test_a_run_is_the_same_to_the_bit(family, tmp_path, seen):
    data, found = family.arrays(), []
    x, y = (*data, None)[:2]
    callback = VisualizationCallback(
        tmp_path, 1, 4, every_n_steps=2, data=data, image_shape=(3, 2) if len(x.shape) == 2 else None
    )
    for watching in (callback, None):
        model = family.make()
        history = fit(model, watching, x, y)
        weights = [array(weight) for weight in model.variables]
        found.append((history.history, weights, family.sample(model, 5, None)))
    watched, alone = found
    for name in alone[0]:
        np.testing.assert_array_equal(watched[0][name], alone[0][name])
    for one, other in zip(watched[1], alone[1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(watched[2], alone[2])
    expected = {
        "vae": {"samples", "reconstructions", "latent", "losses"},
        "diffusion": {"samples", "denoising", "losses"},
        "flow-matching": {"samples", "denoising", "losses"},
        "autoregressive": {"text", "losses"},
        "pixel": {"losses"},  # two channels
    }
    kind = next((kind for kind in expected if family.name.startswith(kind)), None)
    assert set(seen) == expected.get(kind, {"samples", "losses"})
    assert not callback._warned
