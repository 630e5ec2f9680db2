"""Likelihoods, divergences and bounds against closed forms, Monte Carlo and identities."""

import numpy as np
import pytest
from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import elbo


def numpy(x):
    return ops.convert_to_numpy(x)


def log_density(z, mean, var):
    """ln N(z; mean, var) of each element, in float64."""
    return -0.5 * ((z - mean) ** 2 / var + np.log(2 * np.pi * var))


# Divergence


def test_kl_is_zero_at_the_prior_and_known_elsewhere():
    np.testing.assert_array_equal(numpy(elbo.gaussian_kl(np.zeros((2, 3)), np.zeros((2, 3)))), 0)
    kl = elbo.gaussian_kl([[1.0, 2.0]], [[0.0, np.log(4.0)]])
    np.testing.assert_allclose(numpy(kl), [0.5 + 0.5 * (4 + 4 - 1 - np.log(4))], rtol=1e-6)


def test_kl_keeps_its_digits_near_the_prior():
    kl = elbo.gaussian_kl_per_dimension([[0.0]], [[1e-3]])
    exact = 0.5 * (np.expm1(1e-3) - 1e-3)
    np.testing.assert_allclose(numpy(kl), [[exact]], rtol=2e-3)


def test_kl_equals_its_monte_carlo_estimate(random):
    mean, log_var = np.array([[0.7, -1.2]]), np.array([[-1.0, 0.5]])
    z = mean + np.exp(0.5 * log_var) * random.standard_normal((200_000, 2))
    samples = (log_density(z, mean, np.exp(log_var)) - log_density(z, 0, 1)).sum(1)
    error = samples.std() / np.sqrt(len(samples))
    assert abs(float(elbo.gaussian_kl(mean, log_var)[0]) - samples.mean()) < 4 * error < 0.02


def test_kl_sums_over_event_axes_only(random):
    mean, log_var = random.standard_normal((2, 4, 3, 2))
    parts = numpy(elbo.gaussian_kl_per_dimension(mean, log_var))
    assert parts.shape == (4, 3, 2)
    np.testing.assert_allclose(numpy(elbo.gaussian_kl(mean, log_var)), parts.sum((1, 2)), rtol=1e-5)


# Reconstruction


def test_reconstruction_terms_are_sums_over_the_event(random):
    x, y = random.uniform(size=(2, 3, 4, 5))
    np.testing.assert_allclose(
        numpy(elbo.squared_error(x, y)), ((x - y) ** 2).sum((1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(numpy(elbo.absolute_error(x, y)), abs(x - y).sum((1, 2)), rtol=1e-5)
    p = 1 / (1 + np.exp(-y))
    cross = -(x * np.log(p) + (1 - x) * np.log(1 - p)).sum((1, 2))
    np.testing.assert_allclose(numpy(elbo.bernoulli_nll(x, y)), cross, rtol=1e-5)


def test_bernoulli_stays_exact_for_large_logits():
    nll = elbo.bernoulli_nll([[1.0], [0.0], [1.0]], [[200.0], [200.0], [-200.0]])
    np.testing.assert_allclose(numpy(nll), [0, 200, 200], atol=1e-6)


def test_squared_error_is_the_gaussian_of_variance_one_half(random):
    x, y = random.uniform(size=(2, 3, 7))
    gaussian = numpy(elbo.gaussian_nll(x, y, np.log(0.5)))
    np.testing.assert_allclose(
        numpy(elbo.squared_error(x, y)), gaussian - 3.5 * np.log(np.pi), rtol=1e-5
    )
    var = 0.3
    exact = -log_density(x, y, var).sum(1)
    np.testing.assert_allclose(numpy(elbo.gaussian_nll(x, y, np.log(var))), exact, rtol=1e-5)


def test_the_optimal_variance_is_the_least_of_the_likelihood(random):
    x, y = random.uniform(size=(2, 16, 9)).astype("float32")
    best = elbo.optimal_log_var(x, y)
    np.testing.assert_allclose(float(best), np.log(((x - y) ** 2).mean()), rtol=1e-5)
    at = [float(ops.mean(elbo.gaussian_nll(x, y, best + d))) for d in (-0.1, 0.0, 0.1)]
    assert at[1] < min(at[0], at[2])
    slope = input_gradient(lambda v: ops.mean(elbo.gaussian_nll(x, y, v)), best)
    assert abs(float(numpy(slope))) < 1e-5
    np.testing.assert_allclose(float(ops.mean(elbo.optimal_gaussian_nll(x, y))), at[1], rtol=1e-6)


def test_the_optimal_variance_leaves_out_rows_of_weight_zero(random):
    x, y = random.uniform(size=(2, 4, 9)).astype("float32")
    weighted = elbo.optimal_log_var(x, y, weights=[1, 1, 0, 0])
    np.testing.assert_allclose(
        float(weighted), float(elbo.optimal_log_var(x[:2], y[:2])), rtol=1e-6
    )
    assert np.isfinite(float(elbo.optimal_log_var(x, x)))


def test_categorical_probabilities_sum_to_one(random):
    logits = random.standard_normal((1, 2, 5))
    levels = np.stack(np.meshgrid(range(5), range(5), indexing="ij"), -1).reshape(25, 2)
    nll = numpy(elbo.categorical_nll(levels, np.repeat(logits, 25, 0)))
    np.testing.assert_allclose(np.exp(-nll).sum(), 1, rtol=1e-6)


def test_categorical_takes_grey_images_and_forbidden_levels(random):
    logits = random.standard_normal((3, 4, 4, 6)).astype("float32")
    levels = random.integers(5, size=(3, 4, 4, 1)).astype("float32")
    plain = numpy(elbo.categorical_nll(levels[..., 0], logits))
    np.testing.assert_allclose(numpy(elbo.categorical_nll(levels, logits)), plain, rtol=1e-6)
    logits[..., 5] = -np.inf
    assert np.isfinite(numpy(elbo.categorical_nll(levels, logits))).all()


def test_every_reconstruction_gives_one_number_per_example(random):
    x = random.integers(2, size=(3, 4, 5)).astype("float32")
    for name, term in elbo.RECONSTRUCTIONS.items():
        predicted = random.standard_normal((3, 4, 5) + ((2,) if name == "categorical" else ()))
        assert term(x, predicted).shape == (3,), name


# Weights


@pytest.mark.parametrize(
    ("schedule", "steps", "weights"),
    [
        ("none", [0, 5, 10], [1, 1, 1]),
        ("linear", [0, 5, 10, 99], [0, 0.5, 1, 1]),
        ("sigmoid", [0, 5, 10, 99], [0, 0.5, 1, 1]),
        ("sigmoid", [2.5], [0.5 * (1 - np.tanh(1.25) / np.tanh(2.5))]),
        ("cyclical", [0, 5, 10, 19, 20, 25], [0, 0.5, 1, 1, 0, 0.5]),
    ],
)
def test_kl_weights(schedule, steps, weights):
    values = [float(elbo.kl_weight(step, schedule, warmup_steps=10)) for step in steps]
    np.testing.assert_allclose(values, weights, atol=1e-6)
    # Ends are exact, and so are all steps at once.
    assert values[-1] == 1 or weights[-1] != 1
    together = elbo.kl_weight(np.array(steps), schedule, warmup_steps=10)
    np.testing.assert_allclose(numpy(together), weights, atol=1e-6)


def test_annealed_weights_rise_and_start_at_exactly_zero():
    steps = np.arange(1001)
    for schedule in ("linear", "sigmoid"):
        weights = numpy(elbo.kl_weight(steps, schedule, warmup_steps=1000))
        assert weights[0] == 0 and weights[-1] == 1 and (np.diff(weights) >= 0).all()


def test_the_cycle_follows_period_and_ramp():
    def cycle(step, **options):
        return float(elbo.kl_weight(step, "cyclical", **options))

    assert cycle(5, period=20) == cycle(25, period=20) == 0.5
    assert cycle(5, period=20, warmup_steps=20) == 0.25
    with pytest.raises(ValueError, match="period"):
        cycle(5)
    with pytest.raises(ValueError, match="period"):
        cycle(5, period=10, warmup_steps=11)


def test_no_warm_up_is_full_weight_and_an_unknown_schedule_names_the_nearest():
    assert float(elbo.kl_weight(0, "linear")) == float(elbo.kl_weight(0, "sigmoid")) == 1
    with pytest.raises(ValueError, match="linear"):
        elbo.kl_weight(0, "liner")


# Floors, capacity, decomposition


def test_free_bits_floor_the_batch_mean_and_not_each_example():
    floor = 0.5
    kl = np.zeros((8, 3))
    kl[:4] = 4 * floor  # the batch mean is twice the floor while half the examples have none
    assert float(elbo.free_bits(kl, floor)) == kl.mean(0).sum() == 3.0
    assert float(elbo.free_bits(0 * kl, floor)) == 1.5
    assert float(elbo.free_bits(kl, 0.0)) == 3.0


def test_free_bits_gradient_reaches_easy_examples():
    kl = ops.convert_to_tensor([[0.0], [4.0]])
    slope = input_gradient(lambda k: elbo.free_bits(k, 0.5), kl)
    np.testing.assert_allclose(numpy(slope), [[0.5], [0.5]])
    slope = input_gradient(lambda k: elbo.free_bits(k, 5.0), kl)
    np.testing.assert_allclose(numpy(slope), [[0.0], [0.0]])


def test_free_bits_respect_weights():
    kl = np.array([[1.0, 2.0], [np.nan, 9.0], [3.0, 0.0]])
    assert float(elbo.free_bits(kl, 1.5, weights=[1, 0, 1])) == 2.0 + 1.5
    assert float(elbo.free_bits(kl, 0.5, weights=[3, 0, 1])) == 1.5 + 1.5


def test_capacity():
    np.testing.assert_allclose(numpy(elbo.capacity_penalty([1.0, 4.0], 3.0, 10.0)), [20, 10])
    values = [float(elbo.capacity_schedule(step, 25.0, 100)) for step in (0, 50, 100, 500)]
    np.testing.assert_allclose(values, [0, 12.5, 25, 25])


def test_the_three_parts_of_beta_tc_sum_to_the_single_sample_kl(random):
    mean, log_var = random.standard_normal((2, 6, 3))
    z = mean + np.exp(0.5 * log_var) * random.standard_normal((6, 3))
    parts = [numpy(part) for part in elbo.beta_tc(z, mean, log_var, dataset_size=100)]
    kl = (log_density(z, mean, np.exp(log_var)) - log_density(z, 0, 1)).sum(1)
    np.testing.assert_allclose(sum(parts), kl, rtol=1e-4, atol=1e-4)


def tc_by_hand(z, mean, log_var, weights):
    """The three parts with `weights` (M, M) of the mixture, in float64."""
    pairs = log_density(z[:, None], mean[None], np.exp(log_var)[None])  # i, j, dimension
    log_q = np.log((weights * np.exp(pairs.sum(-1))).sum(1))
    log_q_factors = np.log((weights[..., None] * np.exp(pairs)).sum(1)).sum(-1)
    own = log_density(z, mean, np.exp(log_var)).sum(1)
    return own - log_q, log_q - log_q_factors, log_q_factors - log_density(z, 0, 1).sum(1)


def test_beta_tc_is_the_papers_stratified_estimate(random):
    """Its matrix, 1802.04942 appendix C.2, in the mean over which of the others is the last."""
    size, total = 5, 40
    mean, log_var = random.standard_normal((2, size, 2))
    z = random.standard_normal((size, 2))
    others, left = size - 1, (total - (size - 1)) / (total * (size - 1))
    matrices = []
    for last in range(1, size):
        row = np.full(size, 1 / others)
        row[[0, last]] = 1 / total, left
        assert row.sum() == pytest.approx(1)
        matrices.append(np.stack([np.roll(row, i) for i in range(size)]))
    exact = tc_by_hand(z, mean, log_var, np.mean(matrices, axis=0))
    for found, part in zip(elbo.beta_tc(z, mean, log_var, dataset_size=total), exact, strict=True):
        np.testing.assert_allclose(numpy(found), part, rtol=1e-4)


def test_beta_tc_of_all_data_is_exact(random):
    """At M = N the batch is the aggregate posterior: MI is that of the mixture, at most ln N."""
    size = 64
    mean = random.standard_normal((size, 3)) * [2.0, 1.0, 0.1]
    log_var = np.full((size, 3), np.log(0.5))
    z = mean + np.sqrt(0.5) * random.standard_normal((size, 3))
    exact = tc_by_hand(z, mean, log_var, np.full((size, size), 1 / size))
    for found, part in zip(elbo.beta_tc(z, mean, log_var, dataset_size=size), exact, strict=True):
        np.testing.assert_allclose(numpy(found), part, rtol=1e-4, atol=1e-5)
    assert 0 < exact[0].mean() < np.log(size)


def test_beta_tc_of_one_example_is_finite(random):
    mean, log_var, z = random.standard_normal((3, 1, 2))
    information, correlation, kl = elbo.beta_tc(z, mean, log_var, dataset_size=9)
    np.testing.assert_allclose(numpy(information), 0, atol=1e-6)
    assert np.isfinite([numpy(correlation), numpy(kl)]).all()


def test_mmd_is_the_unbiased_estimate(random):
    a, b = random.standard_normal((5, 3)), random.standard_normal((4, 3)) + 1
    scale = 6.0

    def mean_kernel(x, y, drop):
        k = scale / (scale + ((x[:, None] - y[None]) ** 2).sum(-1))
        return k[~np.eye(len(x), len(y), dtype=bool)].mean() if drop else k.mean()

    exact = mean_kernel(a, a, True) + mean_kernel(b, b, True) - 2 * mean_kernel(a, b, False)
    np.testing.assert_allclose(float(elbo.mmd(a, b)), exact, atol=1e-6)
    draws = random.standard_normal((300, 2, 20, 3)).astype("float32")
    values = np.array([float(elbo.mmd(*pair)) for pair in draws])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(300) and values.min() < 0


# Bounds


def test_importance_weighted_bound_is_exact_with_the_exact_posterior(random):
    # p(z) = N(0, 1), p(x|z) = N(w z, s): posterior and evidence are Gaussian.
    w, s, x = 1.5, 0.4, np.array([[0.3], [-2.0]])
    posterior = 1 / (1 + w * w / s)
    mean, log_var = posterior * w * x / s, np.log(posterior) * np.ones_like(x)
    z = mean + np.sqrt(posterior) * random.standard_normal((7, 2, 1))
    flat = z.reshape(14, 1)
    joint = -elbo.gaussian_nll(np.tile(x, (7, 1)), w * flat, np.log(s)) + elbo.log_normal(flat)
    own = elbo.log_normal(flat, np.tile(mean, (7, 1)), np.tile(log_var, (7, 1)))
    log_weights = ops.reshape(joint - own, (7, 2))
    evidence = log_density(x, 0, w * w + s)[:, 0]
    np.testing.assert_allclose(numpy(log_weights), np.tile(evidence, (7, 1)), atol=1e-5)
    bound = elbo.importance_weighted_bound(log_weights)
    np.testing.assert_allclose(numpy(bound), evidence, atol=1e-5)
    assert numpy(log_weights).std(axis=0).max() < 1e-5


def test_importance_weighted_bound_is_the_log_of_the_mean_weight(random):
    log_weights = random.standard_normal((4, 6)) - 500
    exact = np.log(np.exp(log_weights + 500).mean(1)) - 500
    np.testing.assert_allclose(
        numpy(elbo.importance_weighted_bound(log_weights, axis=1)), exact, rtol=1e-6
    )


def test_active_units_counts_dimensions_that_vary(random):
    means = random.standard_normal((500, 4)) * [1, 0.2, 0.05, 0]
    assert float(elbo.active_units(means)) == 2
    assert float(elbo.active_units(means, threshold=0.001)) == 3


def test_a_log_variance_is_bounded_and_the_same_within():
    within = np.array([-30.0, -29.9, -4.0, 0.0, 1e-6, 19.9, 20.0], "float32")
    np.testing.assert_array_equal(numpy(elbo.bounded_log_var(within)), within)
    beyond = numpy(elbo.bounded_log_var(np.array([21.0, 1e3, -31.0, -1e3], "float32")))
    expected = [20 + np.log(2), 20 + np.log(981), -30 - np.log(2), -30 - np.log(971)]
    np.testing.assert_allclose(beyond, expected, rtol=1e-6)
    slope = numpy(input_gradient(elbo.bounded_log_var, np.array([-40.0, 0.0, 29.0], "float32")))
    np.testing.assert_allclose(slope, [1 / 11, 1, 1 / 10], rtol=1e-5)  # and so it leads back
