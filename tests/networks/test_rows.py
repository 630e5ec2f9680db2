"""Products over rows are those of Keras's layers."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers, ops

from artifex_keras.distributed import data_parallel
from artifex_keras.networks.rows import RowDense, over_rows


@pytest.mark.parametrize("shape", [(5, 3), (4, 5, 3), (2, 4, 5, 3)])
def test_a_layer_gives_what_a_dense_one_gives(shape):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    options = {"activation": "gelu", "bias_initializer": "random_normal"}
    plain, rows = layers.Dense(7, **options), RowDense(7, **options)
    for layer in (plain, rows):
        layer.build((None, *shape[1:]))
    rows.set_weights(plain.get_weights())
    made, expected = (ops.convert_to_numpy(layer(x)) for layer in (rows, plain))
    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert rows.compute_output_shape(shape) == (*shape[:-1], 7)


def test_lengths_may_be_unknown(tmp_path):
    entry = keras.Input((None, 3))
    model = keras.Model(entry, RowDense(2, name="rows")(entry))
    assert model.output_shape == (None, None, 2)
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    expected = x @ model.get_weights()[0]
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    made = ops.convert_to_numpy(loaded(x[:, :3]))
    np.testing.assert_allclose(made, expected[:, :3], atol=1e-6)


def test_rows_are_seen_where_one_cpu_works_alone(backend):
    seen = []

    def function(rows):
        seen.append(tuple(rows.shape))
        return rows[..., :1]

    x = ops.convert_to_tensor(np.arange(24.0).reshape(2, 3, 4))
    with data_parallel(1).scope() if backend == "jax" else contextlib.nullcontext():
        shared = over_rows(function, x)
    alone = over_rows(function, x)
    for made in (shared, alone):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(made), np.arange(0.0, 24, 4).reshape(2, 3, 1)
        )
    assert seen == [(2, 3, 4), (6, 4) if backend == "jax" else (2, 3, 4)]
