"""Metrics of samples: numbers of peers on equal features, closed forms, and bad input."""

import math

import numpy as np
import pytest

from artifex_keras import metrics

FLOATS = (metrics.frechet_distance, metrics.mmd, metrics.sliced_wasserstein)
PAIRS = (metrics.precision_recall, metrics.density_coverage, metrics.kernel_distance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 6))
    return real, 1.3 * rng.normal(size=(200, 6)) + 0.5 * rng.normal(size=6)


# torch-fidelity 0.4.0, prdc 0.2, POT 0.9.7 on `sets`


def test_the_frechet_distance_is_that_of_torch_fidelity(sets):
    assert metrics.frechet_distance(*sets) == pytest.approx(2.1292531665676773, rel=1e-12)


def test_the_kernel_distance_is_that_of_torch_fidelity(sets):
    mean, error = metrics.kernel_distance(sets[0][:200], sets[1], 200, 1)
    assert mean == pytest.approx(2.2005136164779366, rel=1e-12)
    assert math.isnan(error)  # one subset has no spread


@pytest.mark.parametrize(
    ("k", "precision", "recall", "density", "coverage"),
    [(3, 0.67, 287 / 300, 0.52, 164 / 300), (5, 0.745, 0.99, 0.486, 0.71)],
)
def test_neighbours_are_those_of_prdc(sets, k, precision, recall, density, coverage):
    assert metrics.precision_recall(*sets, k) == pytest.approx((precision, recall), abs=1e-9)
    assert metrics.density_coverage(*sets, k) == pytest.approx((density, coverage), abs=1e-9)


def test_the_sliced_wasserstein_distance_is_that_of_pot_along_its_directions(sets, monkeypatch):
    directions = normal(3, 16, seed=7)

    class Fixed:
        def normal(self, size):
            assert size == directions.shape
            return directions.copy()

    monkeypatch.setattr(np.random, "default_rng", lambda seed=None: Fixed())
    found = metrics.sliced_wasserstein(sets[0][:, :3], sets[1][:, :3], 16)
    assert found == pytest.approx(0.4783972888066443, rel=1e-12)


# Closed forms


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_frechet_distance_of_a_shift_and_a_scale(scale):
    x = normal(50, 3) * scale
    assert metrics.frechet_distance(x, x) == pytest.approx(0.0, abs=1e-12 * scale**2)
    shifted = metrics.frechet_distance(x, x + [3 * scale, 0, 4 * scale])
    assert shifted == pytest.approx(25 * scale**2, rel=1e-9)
    # tr(Σ + 4Σ - 2·2Σ) = tr Σ, and the mean moves by its own length.
    expected = np.trace(np.cov(x, rowvar=False)) + (x.mean(axis=0) ** 2).sum()
    assert metrics.frechet_distance(x, 2 * x) == pytest.approx(expected, rel=1e-9)


def test_the_frechet_distance_of_fewer_rows_than_features_is_a_number():
    x, y = normal(5, 40), normal(5, 40, seed=1)
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert (
        means
        < metrics.frechet_distance(x, y)
        < means + x.var(0, ddof=1).sum() + y.var(0, ddof=1).sum() + 1e-9
    )


@pytest.mark.parametrize(("rows", "said"), [(500, 0.102), (2000, 0.024)])
def test_the_bias_of_equal_gaussians_is_stated(rows, said):
    assert metrics.frechet_bias(normal(rows, 8), normal(rows, 8, seed=1)) == pytest.approx(
        said, rel=0.1
    )
    distances = [
        metrics.frechet_distance(normal(rows, 8, seed=s), normal(rows, 8, seed=99 + s))
        for s in range(20)
    ]
    assert np.mean(distances) == pytest.approx(52 / rows, rel=0.1)


def test_the_kernel_distance_has_no_bias():
    found = [
        metrics.kernel_distance(normal(60, 4, seed=s), normal(40, 4, seed=99 + s), 20, 20, seed=s)
        for s in range(40)
    ]
    means, errors = np.array(found).T
    assert abs(means.mean()) < 3 * means.std() / math.sqrt(40)
    assert (errors > 0).all()


def test_the_discrepancy_of_two_gaussians_is_its_closed_form():
    h, shift = 1.5, np.array([1.0, 0.5])
    within = h**2 / (h**2 + 2)
    expected = 2 * within * (1 - math.exp(-(shift @ shift) / (2 * (h**2 + 2))))
    x, y = normal(3000, 2), normal(3000, 2, seed=1) + shift
    assert metrics.mmd(x, y, h) == pytest.approx(expected, abs=0.01)
    assert abs(metrics.mmd(x, normal(3000, 2, seed=2), h)) < 0.002


def test_the_discrepancy_of_two_points_by_hand():
    kernel = math.exp(-0.5)
    assert metrics.mmd([[0.0], [1.0]], [[0.0], [1.0]], 1.0) == pytest.approx(
        2 * kernel - (1 + kernel)
    )
    assert metrics.mmd(np.ones((3, 2)), np.ones((4, 2))) == 0.0


@pytest.mark.parametrize("rows", [(40, 40), (40, 30), (7, 64), (1, 5)])
def test_the_sliced_wasserstein_distance_in_one_dimension_is_that_of_quantiles(rows):
    a, b = normal(rows[0], 1), normal(rows[1], 1, seed=1)
    level = (np.arange(rows[0] * rows[1]) + 0.5) / (rows[0] * rows[1])
    first, second = (np.sort(x[:, 0])[np.floor(level * len(x)).astype(int)] for x in (a, b))
    expected = math.sqrt(((first - second) ** 2).mean())
    assert metrics.sliced_wasserstein(a, b, 3, seed=0) == pytest.approx(expected, rel=1e-9)


def test_the_sliced_wasserstein_distance_of_a_shift():
    a = normal(100, 5)
    found = metrics.sliced_wasserstein(a, a + 2.0, 20_000, seed=0)
    assert found == pytest.approx(2.0, rel=0.02)  # ‖m‖ / √D


def test_neighbours_of_a_set_and_of_one_far_away():
    x = normal(80, 3)
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    assert metrics.precision_recall(x, x + 100) == (0.0, 0.0)
    assert metrics.density_coverage(x, x)[1] == 1.0
    assert metrics.density_coverage(x, x + 100) == (0.0, 0.0)
    far = 1e6 + x  # far from the origin nothing changes
    assert metrics.precision_recall(far, far + 0.01) == metrics.precision_recall(x, x + 0.01)


def test_coverage_of_equal_distributions_tends_to_its_limit():
    coverage = [
        metrics.density_coverage(normal(800, 2, seed=s), normal(800, 2, seed=50 + s), k=2)[1]
        for s in range(5)
    ]
    assert np.mean(coverage) == pytest.approx(1 - 2**-2, abs=0.03)


def test_copies_of_training_examples_are_found():
    train, held_out, new = normal(3, 400, 2)
    assert metrics.nearest_training(train[::3], train, held_out) == 0.0
    assert metrics.nearest_training(train + 1e-4, train, held_out) < 0.01
    assert metrics.nearest_training(new, train, held_out) == pytest.approx(1.0, abs=0.25)
    assert metrics.nearest_training(new + 10, train, held_out) > 10


def test_the_share_of_modes_by_hand():
    centres = [[0, 0], [10, 0], [0, 10], [10, 10]]
    samples = [[0.5, 0], [0, 9.6], [0, 10.4], [5, 5]]
    assert metrics.mode_coverage(samples, centres, 1.0) == 0.5
    assert metrics.mode_coverage(samples, centres, 0.45) == 0.25


def test_a_classifier_tells_what_differs():
    a = normal(300, 4)
    scores = [
        metrics.classifier_two_sample(a, b, seed=0)
        for b in (a, normal(150, 4, seed=1), normal(300, 4, seed=1) + 5.0)
    ]
    assert scores[0] == 0.5 and abs(scores[1] - 0.5) < 0.1 and scores[2] > 0.99
    assert metrics.classifier_two_sample(a, a + 5.0, seed=0) == pytest.approx(scores[2], abs=0.01)


# Batches, errors, names


def test_batches_give_what_the_whole_gives(sets):
    frechet, kernel = metrics.FrechetDistance(), metrics.KernelDistance(50, 5, seed=3)
    for distance in (frechet, kernel):
        for side, rows in ((True, sets[0]), (False, sets[1])):
            for part in np.split(rows, [1, 30, 150]):  # one row alone too
                distance.update_state(part, real=side)
    assert frechet.result() == pytest.approx(metrics.frechet_distance(*sets), rel=1e-10)
    assert frechet.bias() == pytest.approx(metrics.frechet_bias(*sets), rel=1e-10)
    assert kernel.result() == metrics.kernel_distance(*sets, 50, 5, seed=3)
    for distance in (frechet, kernel):
        distance.reset_state()
        with pytest.raises(ValueError, match="`result` needs"):
            distance.result()


def test_the_standard_error_is_the_spread_over_samples():
    def distance(seed):
        return metrics.frechet_distance(
            normal(300, 3, seed=seed), 1.3 * normal(300, 3, seed=-~seed)
        )

    spread = np.std([distance(2 * seed) for seed in range(100)])
    said = [
        metrics.standard_error(
            metrics.frechet_distance,
            normal(300, 3, seed=s),
            1.3 * normal(300, 3, seed=9 + s),
            seed=s,
        )
        for s in range(9)
    ]
    assert np.mean(said) == pytest.approx(spread, rel=0.35)


def test_measured_gives_all_numbers_by_name(sets):
    names = [
        "frechet",
        "kernel",
        "precision_recall",
        "density_coverage",
        "sliced_wasserstein",
        "mmd",
    ]
    found = metrics.measured(names, *sets, seed=0)
    assert list(found) == [name for each in names for name in metrics.METRICS[each].names]
    assert found == metrics.measured(names, *sets, seed=0)
    names = ["frechet", "kernel", "classifier_two_sample"]
    more = metrics.measured(names, *sets, seed=0, errors=True)
    assert list(more) == [
        "frechet_distance", "frechet_distance_error", "frechet_distance_bias", "kernel_distance",
        "kernel_distance_error", "classifier_two_sample",
    ]  # fmt: skip
    assert metrics.measured(lambda real, generated: {"gap": 2}, *sets) == {"gap": 2.0}


def test_a_mistyped_name_is_told_the_nearest(sets):
    with pytest.raises(ValueError, match="frechet"):
        metrics.measured("frechett", *sets)


# Features


def test_features_come_from_a_classifier_of_the_labels():
    x = np.random.default_rng(0).uniform(size=(96, 8, 8)).astype("float32")
    x[48:, :4] *= 0.2
    labels = np.repeat([0, 1], 48)
    features = metrics.classifier_features(x, labels, width=8, epochs=8, batch_size=16, seed=0)
    assert features.accuracy > 0.9
    rows = metrics.extracted(features, x)
    assert rows.shape == (96, 8) and rows.dtype == "float64"
    between = metrics.frechet_distance(rows[:48], rows[48:])
    assert between > 5 * metrics.frechet_distance(rows[:48:2], rows[1:48:2])
    halves = metrics.extracted(lambda batch: batch.reshape(len(batch), -1)[:, :3], x, batch_size=40)
    np.testing.assert_allclose(halves, x.reshape(96, -1)[:, :3])


def test_few_examples_are_seen_often_enough():
    x = normal(48, 2).astype("float32")
    labels = x[:, 0] > x[:, 1]
    assert metrics.classifier_features(x, labels, width=8, seed=0).accuracy > 0.95
    assert metrics.classifier_features(x, labels, width=8, epochs=3, seed=0).accuracy < 0.95


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], "one class for each example"),
        (np.eye(2)[[0, 1] * 4], "argmax"),
        ([7] * 8, "1 different labels for 8 examples"),
        (np.arange(8) + 10**9, "8 different labels for 8 examples"),
        (np.linspace(0, 1, 8), "8 different labels"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, said):
    with pytest.raises(ValueError, match=said):
        metrics.classifier_features(np.zeros((8, 4)), labels)


def test_labels_may_be_counted_from_anywhere():
    x = normal(40, 2).astype("float32")
    counted = np.arange(40) % 3
    texts = np.array(["cat", "dog", "eel"])[counted]
    options = {"width": 4, "epochs": 1, "seed": 0}
    first, *others = (
        metrics.classifier_features(x, labels, **options).predict(x, verbose=0)
        for labels in (counted, counted + 1, texts.tolist())
    )
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_a_classifier_refuses_examples_that_are_no_numbers():
    with pytest.raises(ValueError, match="`x` must hold finite numbers"):
        metrics.classifier_features(np.full((8, 4), np.nan), [0, 1] * 4)


# Bad input


@pytest.mark.parametrize("metric", [*FLOATS, *PAIRS], ids=lambda metric: metric.__name__)
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (np.full((20, 2), np.nan), "must hold finite numbers"),
        (np.full((20, 2), 1e200), "whose squares are finite too"),
        (np.ones((20, 2)) * 1j, "an array of real numbers"),
        (np.zeros((20, 3)), "rows of one shape"),
        (np.zeros((0, 2)), "at least"),
        (3.0, "at least"),
        ([["a", "b"]] * 20, "an array of real numbers"),
    ],
)
def test_bad_input_is_refused(metric, wrong, said):
    with pytest.raises(ValueError, match=said):
        metric(normal(20, 2), wrong)


@pytest.mark.parametrize("metric", [*FLOATS, *PAIRS], ids=lambda metric: metric.__name__)
def test_any_array_and_any_shape_will_do(metric):
    from keras import ops

    real, generated = normal(24, 2, 2), normal(20, 2, 2, seed=1)
    given = {"seed": 0} if metric in (metrics.sliced_wasserstein, metrics.kernel_distance) else {}
    whole = metric(real.astype("float32"), generated.astype("float32"), **given)
    tensors = (ops.convert_to_tensor(x, "float32") for x in (real, generated))
    assert metric(*tensors, **given) == whole
    flat = (x.reshape(len(x), -1).astype("float32") for x in (real, generated))
    assert metric(*flat, **given) == whole


def test_held_out_examples_must_be_others():
    x = normal(20, 2)
    with pytest.raises(ValueError, match="must be other examples than `train`"):
        metrics.nearest_training(x, x, x)
