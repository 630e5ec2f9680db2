"""What `GenerativeModel` adds to Keras, by its effects on a model of one number."""

import warnings

import keras
import numpy as np
import pytest
from families import dense, points
from keras import ops

from artifex_keras.models import VAE, GenerativeModel


@keras.saving.register_keras_serializable(package="tests")
class Mean(GenerativeModel):
    """Fits one number to the data: L = (x - m)² per example; its metric is the number itself."""

    metric_names = ("now",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.m = self.add_weight(name="m", shape=(), initializer="zeros")

    def build(self, input_shape, condition=None):
        self.finish_build(input_shape, condition)

    def objective(self, batch, training):
        return {"loss": ops.square(batch.x - self.m)[:, 0], "now": self.m + 0.0}


def column(*values):
    return np.array(values, "float32")[:, None]


def test_a_step_descends_the_weighted_mean():
    """m ← m - η dL/dm with L = Σ w (x - m)² / Σ w: at m = 0, m = 2 η Σ w x / Σ w."""
    model = Mean()
    model.compile(keras.optimizers.SGD(0.25))
    model.train_on_batch(column(1, 2, 6), sample_weight=np.array([1.0, 3.0, 0.0]))
    assert float(model.m) == pytest.approx(0.5 * 7 / 4, rel=1e-6)


def test_batches_that_fill_no_execution_are_trained_on_one_by_one():
    """Seven batches in executions of four: three are left over."""
    runs = []
    for steps in (1, 4):
        model = Mean()
        model.compile(keras.optimizers.SGD(0.1), steps_per_execution=steps)
        model.fit(column(*range(7)), batch_size=1, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations) == 7
        runs.append(float(model.m))
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


def test_metrics_are_means_over_examples_not_over_batches():
    """Batches of three and one: the four losses 1, 4, 9, 16 average to 7.5."""
    model = Mean()
    model.compile(keras.optimizers.SGD(0.0))
    history = model.fit(column(1, 2, 3, 4), batch_size=3, shuffle=False, verbose=0).history
    assert history["loss"] == [pytest.approx(7.5)]
    assert model.evaluate(column(1, 2, 3, 4), batch_size=3, verbose=0, return_dict=True)[
        "loss"
    ] == pytest.approx(7.5)


def test_sample_weights_weigh_the_metrics_too():
    model = Mean()
    model.compile(keras.optimizers.SGD(0.0))
    weight = np.array([1.0, 0.0, 0.0, 2.0])
    logs = model.evaluate(
        column(1, 2, 3, 4), sample_weight=weight, batch_size=2, verbose=0, return_dict=True
    )
    assert logs["loss"] == pytest.approx((1 + 2 * 16) / 3)


def test_losses_of_layers_are_descended():
    """With β = 0 and nothing to reconstruct, only the regulariser moves the kernel: k(1 - 2ηλ)."""
    x = np.zeros((8, 6), "float32")
    encoder = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))]
    )
    vae = VAE(encoder, dense(2, 4, outputs=6, name="decoder"), beta=0.0)
    before = ops.convert_to_numpy(encoder.layers[0].kernel).copy()
    vae.compile(keras.optimizers.SGD(0.5))
    logs = vae.train_on_batch(x, return_dict=True)
    after = ops.convert_to_numpy(encoder.layers[0].kernel)
    np.testing.assert_allclose(after, before * (1 - 2 * 0.5 * 0.1), rtol=1e-5)
    expected = logs["reconstruction_loss"] + 0.1 * np.sum(before**2)
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)


def test_loaded_weights_are_where_the_average_begins():
    model = VAE(
        dense(6, 4, outputs=4, name="encoder"),
        dense(2, 4, outputs=6, name="decoder"),
        ema_decay=0.9,
        seed=0,
    )
    for weight in model.encoder.weights + model.decoder.weights:
        weight.assign(np.full(weight.shape, 0.25))
    rebuilt = ops.convert_to_numpy(model.reconstruct(points(4)))
    model.compile(keras.optimizers.SGD(0.0))
    model.train_on_batch(points(4))
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.reconstruct(points(4))), rebuilt, atol=1e-6
    )
    assert int(model.average_updates) == 1


def test_the_average_moves_with_updates_and_not_with_micro_batches():
    model = VAE(
        dense(6, 4, outputs=4, name="encoder"),
        dense(2, 4, outputs=6, name="decoder"),
        ema_decay=0.9,
        seed=0,
    )
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
    averages = []
    for _ in range(4):
        model.train_on_batch(points(4))
        averages.append(np.concatenate([np.ravel(w) for w in model._average]))
    moved = [not np.array_equal(a, b) for a, b in zip(averages, averages[1:], strict=False)]
    assert moved == [True, False, True]
    assert int(model.average_updates) == 2


def test_uint8_and_float64_data_train():
    for dtype in ("uint8", "float64", "float16"):
        model = VAE(dense(6, 4, outputs=4, name="encoder"), dense(2, 4, outputs=6, name="decoder"))
        model.compile("adam")
        assert np.isfinite(model.fit((points(8) * 9).astype(dtype), verbose=0).history["loss"][0])


class Batches(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


@pytest.mark.parametrize("kind", ["array", "dataset", "generator", "pairs"])
def test_the_sources_that_fit_takes_give_one_run(kind):
    if kind == "pairs" and keras.config.backend() == "tensorflow":
        pytest.skip("tf.data takes no None between data and weights")
    rows = [points(16)[:8], points(16)[8:]]
    sources = {
        "array": lambda: {"x": points(16), "batch_size": 8},
        "dataset": lambda: {"x": Batches(rows)},
        "generator": lambda: {"x": ((row,) for row in rows), "steps_per_epoch": 2},
        "pairs": lambda: {"x": Batches([(row, None, np.ones(8)) for row in rows])},
    }
    model = VAE(
        dense(6, 4, outputs=4, name="encoder"), dense(2, 4, outputs=6, name="decoder"), seed=0
    )
    model.compile(keras.optimizers.SGD(1e-2))
    loss = model.fit(**sources[kind](), shuffle=False, verbose=0).history["loss"]
    keras.utils.set_random_seed(0)
    reference = VAE(
        dense(6, 4, outputs=4, name="encoder"), dense(2, 4, outputs=6, name="decoder"), seed=0
    )
    reference.compile(keras.optimizers.SGD(1e-2))
    expected = [reference.train_on_batch(row, return_dict=True)["loss"] for row in rows]
    assert loss == [pytest.approx(np.mean(expected), rel=1e-5)]


@pytest.mark.parametrize("empty", [lambda: (row for row in []), lambda: Batches([])])
def test_a_source_without_batches_is_refused(empty):
    model = VAE(keras.Sequential([keras.layers.Dense(4)]), dense(2, 4, outputs=6, name="decoder"))
    model.compile("adam")
    with pytest.raises(ValueError, match="[Ee]mpty|no batch"):
        model.fit(empty(), verbose=0)


def test_fit_before_compile_says_so():
    with pytest.raises(ValueError, match="compile"):
        Mean().fit(column(1, 2))


def test_words_are_no_data():
    model = Mean()
    model.compile("adam")
    with pytest.raises(ValueError, match="[Uu]nrecognized data type|[Rr]eceived"):
        model.fit("digits", verbose=0)


def test_loading_warns_of_nothing_where_nothing_is_wrong(tmp_path):
    """Of a model that was compiled and never fitted, and of weights into a compiled one."""
    fresh, fitted = compiled_vae(), compiled_vae()
    fitted.fit(points(16), epochs=1, verbose=0)
    fresh.save(tmp_path / "fresh.keras")
    fitted.save_weights(tmp_path / "fitted.weights.h5")
    never_compiled = VAE(dense(6, 4, outputs=4), dense(2, 4, outputs=6))
    never_compiled.save_weights(tmp_path / "w.weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert not keras.models.load_model(tmp_path / "fresh.keras").optimizer.built
        fresh.load_weights(tmp_path / "fitted.weights.h5")
        state = fitted.optimizer.variables, fresh.optimizer.variables
        for saved, loaded in zip(*state, strict=True):
            np.testing.assert_array_equal(saved, loaded)
        fitted.load_weights(tmp_path / "w.weights.h5")
        never_compiled.load_weights(tmp_path / "fitted.weights.h5")


def compiled_vae():
    model = VAE(dense(6, 4, outputs=4), dense(2, 4, outputs=6), seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    return model
