"""variance="optimal": the batch's in training, a weight everywhere else."""

import zipfile

import h5py
import keras
import numpy as np
import pytest

from artifex_keras.models import VAE


def constant(width, value, name):
    """A network that gives `value` for whatever it sees. The encoder's gradient is 0 there."""
    entry = keras.Input((width,))
    layer = keras.layers.Dense(
        len(value), kernel_initializer="zeros", name=f"{name}_out", trainable=name == "encoder"
    )
    network = keras.Model(entry, layer(entry), name=name)
    layer.bias.assign(value)
    return network


def vae(**options):
    """Codes are N(0, 1), means are 0 always: only the variance counts."""
    return VAE(
        constant(3, [0.0, 0.0], "encoder"),
        constant(1, [0.0] * 3, "decoder"),
        **{"reconstruction": "gaussian", "variance": "optimal", "seed": 0, **options},
    )


X = np.random.default_rng(0).normal(0, 2, (32, 3)).astype("float32")


def trained(model, epochs=6, **options):
    model.compile(keras.optimizers.SGD(0.1))
    model.fit(X, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **options)
    return model


def gaussian_nats(x, variance):
    return -0.5 * (x**2 / variance + np.log(2 * np.pi * variance)).sum(1)


def test_training_finds_the_variance_that_likelihood_uses():
    model = trained(vae())
    squares = np.mean(X.reshape(4, 8, 3).astype("float64") ** 2, axis=(1, 2))
    running = 1.0
    for n in range(24):
        kept = min(0.99, n / (n + 10))
        running = kept * running + (1 - kept) * squares[n % 4]
    assert float(model.running_variance.value) == pytest.approx(running, rel=1e-5)
    expected = gaussian_nats(X, running)
    np.testing.assert_allclose(model.log_likelihood(X, 2), expected, rtol=1e-5)
    found = model.evaluate(X, batch_size=8, verbose=0, return_dict=True)["reconstruction_loss"]
    assert found == pytest.approx(-expected.mean(), rel=1e-5)


def test_the_likelihood_of_a_row_is_its_own():
    for model in (vae(), trained(vae(), epochs=1)):
        whole = model.log_likelihood(X[:8], 3)
        alone = np.concatenate([model.log_likelihood(X[i : i + 1], 3) for i in range(8)])
        np.testing.assert_allclose(whole, alone, rtol=1e-5)


def test_training_descends_at_the_batchs_own_variance():
    model = vae()
    model.compile("sgd")
    logs = model.train_on_batch(X[:8], return_dict=True)
    variance = np.mean(X[:8] ** 2)
    expected = -gaussian_nats(X[:8], variance).mean()
    assert float(logs["reconstruction_loss"]) == pytest.approx(expected, rel=1e-5)


def test_rows_that_dont_count_leave_the_variance_alone():
    model = trained(vae(), epochs=1, sample_weight=np.repeat([1.0, 0.0], 16))
    squares = np.mean(X.reshape(4, 8, 3) ** 2, axis=(1, 2))
    running = squares[0] / 11 + squares[1] * 10 / 11
    assert float(model.running_variance.value) == pytest.approx(running, rel=1e-5)


def test_it_is_saved_and_older_files_load_with_a_warning(tmp_path):
    model = trained(vae(), epochs=1)
    model.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras")
    np.testing.assert_allclose(loaded.log_likelihood(X, 1), model.log_likelihood(X, 1), rtol=1e-5)
    older = tmp_path / "old.keras"
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(older, "w") as old:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith(".weights.h5"):
                (tmp_path / "w.h5").write_bytes(data)
                with h5py.File(tmp_path / "w.h5", "a") as file:
                    names = []
                    file.visit(names.append)
                    del file[next(name for name in names if name.endswith("running_variance"))]
                data = (tmp_path / "w.h5").read_bytes()
            old.writestr(name, data)
    with pytest.warns(UserWarning, match="older than the running variance"):
        loaded = keras.models.load_model(older)
    np.testing.assert_allclose(loaded.log_likelihood(X, 1), gaussian_nats(X, 1.0), rtol=1e-5)
    trained(loaded, epochs=1)
    assert float(loaded.running_variance.value) == pytest.approx(
        float(model.running_variance.value), rel=1e-5
    )
