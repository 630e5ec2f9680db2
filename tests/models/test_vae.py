"""The VAE against closed forms: on probabilistic PCA every number is known."""

import keras
import numpy as np
import pytest
from families import dense
from keras import ops

from artifex_keras.models import VAE

# Exact mean log-likelihood of probabilistic PCA with k components on all 1,797 digits / 16, nats.
PPCA = {2: 0.0057, 8: 14.2098, 16: 23.9294, 32: 35.2470}


def digits():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    return sklearn_datasets.load_digits().data / 16


def ppca(x, k):
    """(W, mean, variance, log p(x) per example) of the maximum-likelihood model, float64."""
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    variance = values[k:].mean()
    loadings = vectors[:, :k] * np.sqrt(values[:k] - variance)
    covariance = loadings @ loadings.T + variance * np.eye(x.shape[1])
    _, log_det = np.linalg.slogdet(covariance)
    mahalanobis = np.sum((x - mean) @ np.linalg.inv(covariance) * (x - mean), axis=1)
    log_p = -0.5 * (x.shape[1] * np.log(2 * np.pi) + log_det + mahalanobis)
    return loadings, mean, variance, log_p


def linear_vae(x, k, optimal=True):
    """A VAE with linear networks; at its optimum it is probabilistic PCA."""
    d = x.shape[1]
    encoder = keras.Sequential([keras.Input((d,)), keras.layers.Dense(2 * k)])
    decoder = keras.Sequential([keras.Input((k,)), keras.layers.Dense(d)])
    vae = VAE(encoder, decoder, reconstruction="gaussian", variance="learned", seed=0)
    if optimal:
        loadings, mean, variance, _ = ppca(x, k)
        precision = np.sum(loadings**2, axis=0) + variance  # WᵀW + σ² is diagonal
        to_mean = loadings / precision
        kernel = np.concatenate([to_mean, np.zeros((d, k))], axis=1)
        bias = np.concatenate([-mean @ to_mean, np.log(variance / precision)])
        encoder.layers[0].set_weights([kernel, bias])
        decoder.layers[0].set_weights([loadings.T, mean])
        vae.log_variance.assign(np.log(variance))
    return vae


def test_codes_have_the_posteriors_deviation():
    """E Σ (x - μ - σ ε)² = 2 σ² where μ = x: 8 for ln σ² = ln 4, with 1% of error."""
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    kernel = np.concatenate([np.eye(2), np.zeros((2, 2))], axis=1)
    encoder.layers[0].set_weights([kernel, np.log([1, 1, 4, 4])])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    decoder.layers[0].set_weights([np.eye(2), np.zeros(2)])
    vae = VAE(encoder, decoder, seed=0)
    vae.compile("sgd")
    x = np.zeros((8192, 2), "float32")
    logs = vae.evaluate(x, batch_size=8192, verbose=0, return_dict=True)
    assert logs["reconstruction_loss"] == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize("k", PPCA)
def test_a_linear_vae_at_its_optimum_is_probabilistic_pca(k):
    """With the exact posterior ln w is the same for every z: one draw gives ln p(x) itself."""
    x = digits()
    exact = ppca(x, k)[3]
    assert exact.mean() == pytest.approx(PPCA[k], abs=6e-5)
    bound = linear_vae(x, k).log_likelihood(x.astype("float32"), num_samples=1, batch_size=2000)
    np.testing.assert_allclose(bound, exact, rtol=2e-5, atol=2e-4)
    assert bound.mean() == pytest.approx(exact.mean(), abs=2e-5)


def test_the_elbo_at_the_optimum_is_the_likelihood():
    """Closed expectation of the ELBO over z, from the model's own moments, in float64."""
    x = digits()
    loadings, mean, variance, exact = ppca(x, 8)
    vae = linear_vae(x, 8)
    mu, log_var = (ops.convert_to_numpy(part).astype("float64") for part in vae.encode(x))
    rebuilt = mu @ loadings.T + mean
    spread = np.exp(log_var) @ np.sum(loadings**2, axis=0)
    expected_nll = 0.5 * (
        64 * np.log(2 * np.pi * variance) + (np.sum((x - rebuilt) ** 2, 1) + spread) / variance
    )
    kl = 0.5 * np.sum(mu**2 + np.exp(log_var) - 1 - log_var, axis=1)
    assert np.mean(-expected_nll - kl) == pytest.approx(exact.mean(), abs=1e-5)


def test_the_logged_elbo_is_the_bound_at_weight_one():
    x = digits().astype("float32")
    vae = linear_vae(x, 8)
    vae.beta = 3.0
    vae.compile("sgd")
    logs = vae.evaluate(x, batch_size=599, verbose=0, return_dict=True)
    exact = ppca(digits(), 8)[3].mean()
    assert logs["elbo"] == pytest.approx(exact, abs=0.3)  # one draw of z for each example
    assert logs["kl_weight"] == 3.0
    assert logs["loss"] == pytest.approx(
        logs["reconstruction_loss"] + 3.0 * logs["kl_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_a_linear_vae_trained_by_monte_carlo_reaches_the_exact_likelihood():
    x = digits().astype("float32")
    vae = linear_vae(x, 8, optimal=False)
    rate = keras.optimizers.schedules.CosineDecay(5e-3, 6000)
    vae.compile(keras.optimizers.Adam(rate), steps_per_execution=20)
    vae.fit(x, batch_size=128, epochs=400, verbose=0)
    assert vae.log_likelihood(x, num_samples=64).mean() >= 14.15


@pytest.mark.slow
def test_a_vae_models_the_digits_levels_better_than_independent_pixels():
    """-ELBO in nats on 447 held-out digits of 17 levels; independent pixels need 106.5."""
    data = digits()
    train, test = (np.round(16 * part).astype("float32") for part in (data[:1000], data[1350:]))
    keras.utils.set_random_seed(0)

    def hidden(x):
        for _ in range(2):
            x = keras.layers.Dense(256, activation="relu")(x)
            x = keras.layers.Dropout(0.2)(x)
        return x

    x, z = keras.Input((64,)), keras.Input((16,))
    encoder = keras.Model(x, keras.layers.Dense(32)(hidden(x)))
    logits = keras.layers.Reshape((64, 17))(keras.layers.Dense(64 * 17)(hidden(z)))
    vae = VAE(
        encoder, keras.Model(z, logits), reconstruction="categorical", ema_decay=0.999, seed=0
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 110 * 20)
    vae.compile(keras.optimizers.AdamW(rate, weight_decay=1e-2), steps_per_execution=10)
    vae.fit(train, batch_size=50, epochs=110, verbose=0)
    elbo = vae.evaluate(test, batch_size=447, verbose=0, return_dict=True)["elbo"]
    assert -elbo <= 97.0
    assert vae.log_likelihood(test, 64).mean() > elbo


def small(**options):
    keras.utils.set_random_seed(0)
    return VAE(
        dense(6, 8, outputs=4, name="encoder"),
        dense(2, 8, outputs=6, name="decoder"),
        **{"seed": 0, **options},
    )


def test_the_bound_tightens_with_the_number_of_samples():
    x = np.random.default_rng(0).uniform(0, 1, (200, 6)).astype("float32")
    vae = small(reconstruction="gaussian", variance=0.02)
    bounds = [vae.log_likelihood(x, k, seed=1).mean() for k in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds) and bounds[-1] - bounds[0] > 1.0


def test_importance_weighted_training_reports_the_bound():
    """The loss with K samples is minus the K-sample bound of the same model."""
    x = np.random.default_rng(0).uniform(0, 1, (4000, 6)).astype("float32")
    vae = small(reconstruction="gaussian", variance=0.1, num_importance_samples=5)
    vae.compile("sgd")
    loss = vae.evaluate(x, batch_size=4000, verbose=0, return_dict=True)["loss"]
    assert -loss == pytest.approx(vae.log_likelihood(x, 5, seed=2).mean(), abs=0.15)


@pytest.mark.parametrize(
    "annealing, steps, period, expected",
    [
        ("none", 0, None, [2.0, 2.0, 2.0, 2.0]),
        (True, 4, None, [0.0, 0.5, 1.0, 1.5]),
        ("cyclical", 0, 4, [0.0, 1.0, 2.0, 2.0]),
    ],
)
def test_the_weight_of_the_divergence_over_the_updates(annealing, steps, period, expected):
    vae = small(beta=2.0, kl_annealing=annealing, kl_warmup_steps=steps, cyclical_period=period)
    vae.compile("sgd")
    x = np.full((8, 6), 0.5, "float32")
    weights = [vae.train_on_batch(x, return_dict=True)["kl_weight"] for _ in range(4)]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert vae.test_on_batch(x, return_dict=True)["kl_weight"] == 2.0


def test_free_bits_under_the_floor_leave_no_gradient_of_the_divergence():
    """With every dimension below the floor the penalty is the constant λ·D."""
    x = np.random.default_rng(0).uniform(0, 1, (32, 6)).astype("float32")
    logs = []
    for vae in (small(free_bits=100.0), small(beta=0.0)):
        vae.compile(keras.optimizers.SGD(1e-3))
        logs.append(vae.train_on_batch(x, return_dict=True))
        logs.append(vae.test_on_batch(x, return_dict=True))
    assert logs[0]["loss"] == pytest.approx(logs[2]["loss"] + 2 * 100.0, rel=1e-5)
    assert logs[1]["reconstruction_loss"] == pytest.approx(logs[3]["reconstruction_loss"], rel=1e-5)


def test_capacity_holds_the_divergence_at_its_target():
    x = np.random.default_rng(0).uniform(0, 1, (64, 6)).astype("float32")
    vae = small(beta=50.0, capacity=1.5, capacity_steps=100)
    vae.compile(keras.optimizers.Adam(1e-2))
    vae.fit(x, batch_size=64, epochs=500, verbose=0)
    kl = vae.evaluate(x, batch_size=64, verbose=0, return_dict=True)["kl_loss"]
    assert kl == pytest.approx(1.5, abs=0.15)


def test_total_correlation_of_weight_one_is_the_plain_objective_in_expectation():
    """MI + TC + dimension-wise KL = ln q(z|x) - ln p(z), whose mean over z is the KL."""
    x = np.random.default_rng(0).uniform(0, 1, (2000, 6)).astype("float32")
    losses = []
    for options in ({"tc_weight": 1.0, "dataset_size": 2000}, {}):
        vae = small(**options)
        vae.compile("sgd")
        losses.append(vae.evaluate(x, batch_size=2000, verbose=0, return_dict=True)["loss"])
    assert losses[0] == pytest.approx(losses[1], abs=0.15)  # one draw of z for each example


def test_categorical_samples_are_means_of_levels():
    decoder = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(6 * 5), keras.layers.Reshape((6, 5))]
    )
    vae = VAE(dense(6, 8, outputs=4, name="encoder"), decoder, reconstruction="categorical")
    means = ops.convert_to_numpy(vae.decode(np.zeros((3, 2))))
    logits = ops.convert_to_numpy(decoder(np.zeros((3, 2), "float32")))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(means, p @ np.arange(5), rtol=1e-5)


def test_interpolation_ends_at_the_reconstructions():
    vae = small()
    a, b = np.random.default_rng(0).uniform(0, 1, (2, 3, 6)).astype("float32")
    path = ops.convert_to_numpy(vae.interpolate(a, b, steps=4))
    assert path.shape == (4, 3, 6)
    np.testing.assert_allclose(path[0], ops.convert_to_numpy(vae.reconstruct(a)), atol=1e-6)
    np.testing.assert_allclose(path[-1], ops.convert_to_numpy(vae.reconstruct(b)), atol=1e-6)


def test_predict_reconstructs():
    vae, x = small(ema_decay=0.5), np.random.default_rng(0).uniform(0, 1, (9, 6)).astype("float32")
    vae.compile("adam")
    vae.fit(x, epochs=2, verbose=0)
    rebuilt = ops.convert_to_numpy(vae.reconstruct(x))
    np.testing.assert_allclose(vae.predict(x, verbose=0), rebuilt, atol=1e-6)


def test_the_latent_report_counts_the_dimensions_in_use():
    x = digits()
    report = linear_vae(x, 8).latent_report(x.astype("float32"))
    assert report["active_units"] == 8
    assert np.all(np.diff(report["kl_per_dimension"]) < 0)  # in the order of the eigenvalues


X = np.full((8, 6), 0.5, "float32")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"beta": -1.0}, r"`beta` must be at least 0.*Received: beta=-1.0"),
        ({"beta": "strong"}, r"`beta` must be a finite number.*'strong'"),
        ({"reconstruction": "msee"}, r"Unknown reconstruction 'msee'. Did you mean 'mse'"),
        ({"kl_annealing": "linaer"}, r"Unknown KL annealing 'linaer'. Did you mean 'linear'"),
        ({"free_bits": -0.1}, r"`free_bits` must be at least 0"),
        ({"ema_decay": 1.5}, r"`ema_decay` must be in \[0, 1\) or None"),
        ({"seed": 1.5}, r"`seed` must be an integer"),
        ({"variance": 0.0, "reconstruction": "gaussian"}, r"`variance` must be greater than 0"),
        ({"free_bits": 1.0, "capacity": 2.0}, r"Only one treatment.*`free_bits` and `capacity`"),
        ({"tc_weight": 6.0}, r"`tc_weight` and `dataset_size` go together"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_a_decoder_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"decoder's output must have the shape \(6,\).*\(5,\)"):
        VAE(dense(6, 8, outputs=4, name="encoder"), dense(2, 8, outputs=5, name="decoder"))


def test_an_encoder_of_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"twice the latent width"):
        VAE(dense(6, 8, outputs=3, name="encoder"), dense(2, 8, outputs=6, name="decoder"))


def test_a_network_must_be_a_layer():
    with pytest.raises(ValueError, match=r"`encoder` must be a keras.Model"):
        VAE(lambda x: x, dense(2, 8, outputs=6, name="decoder"))


@pytest.mark.parametrize(
    "options, arguments, message",
    [
        ({}, {"x": X[:0]}, "dataset is empty"),
        ({}, {"x": np.where(np.eye(8, 6) > 0, np.nan, X).astype("float32")}, "first in row 0"),
        ({}, {"x": X, "y": np.arange(8)}, "takes no labels"),
        ({}, {"x": np.full((8, 5), 0.5, "float32")}, r"shape \(5,\)"),
        ({"reconstruction": "bce"}, {"x": 2 * X + 1}, r"data in \[0, 1\]"),
        ({"kl_annealing": True}, {"x": X}, "needs `kl_warmup_steps`"),
    ],
)
def test_data_that_cannot_train_is_refused(options, arguments, message):
    vae = small(**options)
    vae.compile("adam")
    with pytest.raises(ValueError, match=message):
        vae.fit(verbose=0, **arguments)


def test_compiling_needs_an_optimizer_and_takes_no_loss():
    with pytest.raises(ValueError, match="needs an optimizer"):
        small().compile()
    with pytest.raises(ValueError, match="takes no `loss`"):
        small().compile("adam", loss="mse")


def test_a_lazy_network_builds_at_the_first_batch():
    encoder = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.layers.Dense(8), keras.layers.Dense(6)])
    vae = VAE(encoder, decoder)
    with pytest.raises(ValueError, match="`sample` needs networks that know their shapes"):
        vae.sample(2)
    vae.compile("adam")
    vae.fit(X, verbose=0)
    assert vae.sample(2).shape == (2, 6)


@pytest.mark.parametrize("options", [{}, {"reconstruction": "gaussian"}], ids=["mse", "gaussian"])
def test_unscaled_data_train_with_finite_numbers(options):
    """The issue's images, bytes of 0 to 255, and vectors of deviation 300 and 1e6."""
    from artifex_keras.networks import mlp_decoder, mlp_encoder

    random = np.random.default_rng(0)
    normal = random.normal(size=(128, 49)).astype("float32")
    images = random.integers(0, 256, (128, 49)).astype("uint8")
    keras.utils.set_random_seed(0)
    model = VAE(mlp_encoder(49, 8, (64,)), mlp_decoder(8, 49, (64,)), seed=0, **options)
    model.compile("adam")
    start = [ops.convert_to_numpy(v.value).copy() for v in model.variables]
    for x in (images, 300 * normal, 1e6 * normal):
        for variable, value in zip(model.variables, start, strict=True):
            variable.assign(value)
        losses = model.fit(x, epochs=8, verbose=0).history["loss"]
        assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_a_decoders_own_log_variance_is_bounded():
    model = small(reconstruction="gaussian")
    nll = ops.convert_to_numpy(
        model._nll(np.ones((2, 3)), [np.zeros((2, 3)), -1e3 * np.ones((2, 3))])
    )
    # ½ Σ (x²/σ² + ln σ² + ln 2π) of ln σ² = -30 - ln 971
    log_var = -30 - np.log(971)
    np.testing.assert_allclose(
        nll, 1.5 * (np.exp(-log_var) + log_var + np.log(2 * np.pi)), rtol=1e-4
    )
