"""Formats that hold one function: what they write, what they refuse, what is missing."""

import importlib.util

import numpy as np
import pytest

from artifex_keras import GAN, VAE, backend, networks
from artifex_keras.models.one_function import PACKAGES, converting


@pytest.fixture(scope="module")
def vae():
    model = VAE(networks.mlp_encoder(4, 2, (8,)), networks.mlp_decoder(2, 4, (8,)), seed=0)
    model.build((8, 4))
    return model


def installed(*names):
    return all(importlib.util.find_spec(name) for name in names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx", "signatures": ["sample"]}, "no random numbers that a seed decides"),
        ({"format": "torch", "signatures": {"sample": {"n": 3}}}, "such as `decode`, and give it"),
        ({"format": "onnx", "signatures": ["encode", "decode"]}, "one file for each.*encode, dec"),
        ({"format": "openvino", "signatures": []}, "holds one function.*Received: none"),
        ({"format": "onnx", "signatures": ["decoed"]}, "Unknown signature 'decoed'.*'decode'"),
        ({"format": "torch"}, "must end in .pt2. Received: .*/x'"),
        ({"format": "litert", "signatures": ["decode"]}, "must end in .tflite"),
        ({"format": "onxx"}, "Unknown format 'onxx'. Did you mean 'onnx'"),
    ],
)
def test_what_a_format_refuses(vae, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        vae.export(tmp_path / "x", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_missing_package_is_named(vae, tmp_path, format):
    names = PACKAGES.get((format, backend.name())) or PACKAGES[format, None]
    if installed(*names):
        pytest.skip("installed here")
    with pytest.raises(ImportError, match=f"{format!r} needs.*pip install.*{names[-1]}"):
        vae.export(tmp_path / "x", format=format, signatures=["decode"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Exception encountered when calling A.call().\n\n\x1b[1mno Cumsum\x1b[0m\n", "no Cumsum"),
        ('in user code:\n\n    File "a.py", line 3\n    no such op.\n', "no such op"),
        ("Exporting the operator 'aten::x' is not supported", "Exporting the operator 'aten::x'"),
        ("", "RuntimeError"),
    ],
)
def test_what_cannot_be_converted_is_one_error(text, reason, tmp_path):
    def write(path):
        raise RuntimeError(text)

    with pytest.raises(ValueError, match="can't hold this on .*tf_saved_model") as raised:
        converting(write, tmp_path / "x", "a format")
    assert f": {reason}" in str(raised.value)


def test_a_package_that_a_converter_wants_is_named(tmp_path):
    def write(path):
        raise ModuleNotFoundError("No module named 'flax.nnx'", name="flax.nnx")

    with pytest.raises(ImportError, match="pip install flax"):
        converting(write, tmp_path / "x", "a format")


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("name", [None, "encode", "decode"])
def test_onnx_gives_what_the_method_gives(vae, tmp_path, name):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    path = tmp_path / "x.onnx"
    vae.export(path, format="onnx", verbose=False, signatures=name and [name])
    session = runtime.InferenceSession(path)
    given = session.get_inputs()[0]
    x = np.random.default_rng(0).random((3, given.shape[1]), "float32")
    expected = vae(x) if name is None else getattr(vae, name)(x)
    found = session.run(None, {given.name: x})
    expected = expected if isinstance(expected, (list, tuple)) else [expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, np.asarray(other), atol=1e-5)


@pytest.mark.backends("tensorflow")
def test_a_generator_as_onnx(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    gan = GAN(networks.mlp_generator(3, 4, (8,)), networks.mlp_critic(4, (8,)), latent_dim=3)
    gan.compile("sgd")
    gan.fit(np.zeros((8, 4), "float32"), verbose=0)
    gan.export(tmp_path / "g.onnx", format="onnx", verbose=False)
    codes = np.ones((5, 3), "float32")
    (found,) = runtime.InferenceSession(tmp_path / "g.onnx").run(None, {"codes": codes})
    np.testing.assert_allclose(found, np.asarray(gan(codes)), atol=1e-5)
