"""Metrics of samples in `fit`: logged like others, and the run doesn't notice."""

import keras
import numpy as np
import pytest
from families import FAMILIES, NAMES
from fresh import fresh
from keras import ops

from artifex_keras import metrics
from artifex_keras.callbacks import EarlyStoppingCallback, SampleMetricsCallback

FLOW = FAMILIES[NAMES.index("flow-spline-conditional")]
PLAIN = FAMILIES[NAMES.index("vae")]


def fitted(row, *watching, epochs=2, **options):
    model = fresh(row)
    x, *y = row.arrays(24)
    return model, model.fit(
        x, *y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(watching), **options
    ).history


def numbers(model):
    return [ops.convert_to_numpy(v.value) for v in [*model.variables, *model.optimizer.variables]]


def test_the_numbers_stand_in_the_history_and_the_run_is_the_same():
    model, plain = fitted(PLAIN)
    kept = numbers(model)
    x = PLAIN.arrays(24)[0]
    watch = SampleMetricsCallback(["frechet", "sliced_wasserstein"], x, num_samples=30)
    model, history = fitted(PLAIN, watch)
    for one, other in zip(kept, numbers(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {name: history[name] for name in plain} == plain
    samples = ops.convert_to_numpy(model.sample(30, seed=0))
    assert history["frechet_distance"][-1] == metrics.frechet_distance(x, samples)
    assert [row["epoch"] for row in watch.rows] == [1, 2]
    assert watch.rows[1]["sliced_wasserstein"] == history["sliced_wasserstein"][1]


def test_a_conditional_model_samples_with_the_conditions_of_the_data():
    x, y = FLOW.arrays(12)
    seen = []

    def gap(real, generated):
        seen.append(generated)
        return abs(real.mean() - generated.mean())

    watch = SampleMetricsCallback(
        gap, (x, y), lambda batch: 2 * np.asarray(batch), num_samples=18, every_n_epochs=2
    )
    model, history = fitted(FLOW, watch, epochs=4)
    assert len(seen) == 2 and [row["epoch"] for row in watch.rows] == [2, 4]
    condition = y[np.arange(18) % 12]
    expected = ops.convert_to_numpy(model.sample(18, condition=condition, seed=0))
    np.testing.assert_allclose(seen[1], 2 * expected.reshape(18, -1), rtol=1e-6)
    with pytest.raises(ValueError, match=r"pass `data=\(x, condition\)`"):
        fitted(FLOW, SampleMetricsCallback("mmd", x))


def test_early_stopping_knows_which_way_is_better():
    x = PLAIN.arrays(24)[0]
    worse = SampleMetricsCallback(lambda real, generated: {"recall": 1 / (1 + len(seen))}, x)
    seen = []
    worse.on_epoch_begin = lambda epoch, logs=None: seen.append(epoch)
    stop = EarlyStoppingCallback(1, metric="recall")
    _, history = fitted(PLAIN, worse, stop, epochs=6)
    assert len(history["recall"]) == 2


def test_a_model_must_be_able_to_sample():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    x = np.zeros((8, 2), "float32")
    with pytest.raises(ValueError, match=r"needs a model with a method `sample\(n\)`.*Sequential"):
        model.fit(x, x[:, :1], verbose=0, callbacks=[SampleMetricsCallback("mmd", x)])


def test_rows_continue_after_a_resume():
    watch = SampleMetricsCallback("mmd", PLAIN.arrays(8)[0])
    watch.set_state({"rows": [{"epoch": 1, "mmd": 0.5}]})
    assert watch.get_state() == {"rows": [{"epoch": 1, "mmd": 0.5}]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metrics": "fretchet"}, "frechet"),
        ({"metrics": []}, "`metrics` must be"),
        ({"metrics": 3}, "`metrics` must be"),
        ({"data": np.zeros((2, 3))}, "at least 4 examples"),
        ({"num_samples": 1}, "`num_samples` must be"),
        ({"features": "inception"}, "`features` must be"),
        ({"data": np.full((8, 2), np.nan)}, "must hold finite"),
    ],
)
def test_bad_arguments_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        SampleMetricsCallback(**{"metrics": "mmd", "data": np.zeros((8, 2)), **given})
