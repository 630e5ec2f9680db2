"""Each family as a SavedModel: its signatures give what its methods give, without the code."""

import importlib.util

import keras
import numpy as np
import pytest
from families import FAMILIES
from fresh import fresh

from artifex_keras import VAE

ROWS = {family.name: family for family in FAMILIES}
N = 4
NAMES = ["vae-everything", "gan-conditional", "energy-pcd", "flow-spline-conditional"]
NAMES += ["flow-matching-conditional", "diffusion", "autoregressive", "pixel"]

pytestmark = [
    pytest.mark.seam,
    pytest.mark.backends("jax", "tensorflow"),
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="no TensorFlow"),
]


def fitted(row):
    model = fresh(row)
    model.fit(*row.arrays(16), batch_size=16, epochs=1, verbose=0)
    return model


def conditions(row, model, count):
    """The labels of so many rows, as arguments of a method and of a signature."""
    spec = model.given_spec()
    if spec is None:
        return {}, {}
    labels = np.arange(count) % row.classes
    return {"condition": labels}, {"condition": labels.astype(spec.dtype)}


def assert_same(found, expected):
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        other = keras.ops.convert_to_numpy(other)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("name", NAMES)
def test_signatures_give_what_methods_give(name, tmp_path):
    """Of a model that was loaded from its file, with the average of its weights."""
    import tensorflow as tf

    row = ROWS[name]
    fitted(row).save(tmp_path / "model.keras")
    model = keras.models.load_model(tmp_path / "model.keras")
    chosen = {each: {"n": N} if each == "sample" else {} for each in model.served}
    chosen.pop("generate", None)
    model.export(tmp_path / "served", verbose=False, signatures=chosen)
    served = tf.saved_model.load(str(tmp_path / "served"))
    for count in (3, 5):  # any number of rows
        x = row.arrays(count)[0]
        said, given = conditions(row, model, count)
        if "encode" in chosen:
            assert_same(served.encode(x=x, **given), model.encode(x, **said))
        if "log_prob" in chosen and row.name == "autoregressive":
            assert_same(served.log_prob(tokens=x), model.log_prob(x))
        elif "log_prob" in chosen:
            assert_same(served.log_prob(x=x, **given), model.log_prob(x, **said))
        if "energy" in chosen:
            assert_same(served.energy(x=x), model.energy(x))
    said, given = conditions(row, model, N)
    for seed in (7, 8):
        expected = model.sample(N, seed=seed, **said)
        assert_same(served.sample(seed=tf.constant(seed), **given), expected)
    assert hasattr(served, "serve")


def test_generate(tmp_path):
    import tensorflow as tf

    model = fitted(ROWS["autoregressive"])
    options = {"n": 2, "max_new_tokens": 3, "prompt_length": 2, "temperature": 0.7}
    model.export(tmp_path / "served", verbose=False, signatures={"generate": options})
    served = tf.saved_model.load(str(tmp_path / "served"))
    prompts = [[1, 2], [3]]
    expected = model.generate(prompts, 3, temperature=0.7, seed=5)
    found = served.generate(seed=tf.constant(5), prompt=[[1, 2], [3, 0]], prompt_lengths=[2, 1])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["smaple"], "Unknown signature 'smaple'. Did you mean 'sample'"),
        ({"sample": {"m": 3}}, "Unknown argument of `sample` 'm'"),
        ({"sample": {"n": 0}}, "`n`"),
    ],
)
def test_what_cannot_be_exported_is_said(chosen, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fitted(ROWS["gan-conditional"]).export(tmp_path / "served", signatures=chosen)
    assert not (tmp_path / "served").exists()


def test_a_model_that_has_seen_no_data_says_so(tmp_path):
    with pytest.raises(ValueError, match="`export` needs networks that know their shapes"):
        VAE(*(keras.Sequential([keras.layers.Dense(4)]) for _ in range(2))).export(tmp_path)
