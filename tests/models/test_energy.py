"""Energy-based models against closed forms: precisions, partition functions, gradients by hand."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.models.energy import TRAINING_METHODS, EnergyModel
from artifex_keras.models.energy.replay import ReplayBuffer

COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
PRECISION = np.linalg.inv(COVARIANCE)
FACTOR = np.linalg.cholesky(COVARIANCE)


@keras.saving.register_keras_serializable(package="test")
class Quadratic(keras.layers.Layer):
    """½ xᵀ P x, P the symmetric part of a weight."""

    def __init__(self, precision, **kwargs):
        super().__init__(**kwargs)
        self.precision = precision

    def build(self, shape):
        first = keras.initializers.Constant(np.array(self.precision))
        self.matrix = self.add_weight(name="matrix", shape=(shape[-1],) * 2, initializer=first)

    def call(self, x):
        symmetric = 0.5 * (self.matrix + ops.transpose(self.matrix))
        return 0.5 * ops.sum(x * ops.matmul(x, symmetric), axis=-1)

    def get_config(self):
        return {**super().get_config(), "precision": np.array(self.precision).tolist()}


def quadratic(precision=((1.0,),), **options):
    """The model of N(0, precision⁻¹)."""
    entry = keras.Input((len(precision),))
    options = {"seed": 0, **options}
    return EnergyModel(keras.Model(entry, Quadratic(precision)(entry)), **options)


def precision_of(model):
    return float(ops.convert_to_numpy(model.network.trainable_weights[0])[0, 0])


def numpy(x):
    return ops.convert_to_numpy(x)


def gaussian_rule(dims):
    """Nodes (N, dims) and weights of a quadrature exact for squares under N(0, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    points = np.array(list(itertools.product(nodes, repeat=dims)))
    product = np.prod(list(itertools.product(weights, repeat=dims)), axis=1)
    return points.astype("float32"), (product / product.sum()).astype("float32")


def loss_of(model, x, weights):
    model.compile("sgd")
    return model.test_on_batch(x.astype("float32"), None, weights, return_dict=True)["loss"]


def unit_data(rows=500):
    """Points on the line with mean 0 and variance 1 exactly."""
    x = np.random.default_rng(0).standard_normal((rows, 1))
    return ((x - x.mean()) / x.std()).astype("float32")


# The score


def test_score_matching_at_the_truth_has_the_known_value():
    z, weights = gaussian_rule(2)
    model = quadratic(PRECISION, training_method="score_matching")
    assert loss_of(model, z @ FACTOR.T, weights) == pytest.approx(-0.91463, abs=1e-5)


def test_slices_over_all_signs_average_to_the_exact_value():
    z, weights = gaussian_rule(2)
    model = quadratic(PRECISION, training_method="sliced_score_matching")
    signs = list(itertools.product([0.2, 0.8], repeat=2))  # uniforms below and above ½
    losses = []
    for sign in signs:
        model.uniform = lambda shape, rows=0, sign=sign: ops.broadcast_to(
            np.array(sign, "float32"), shape
        )
        losses.append(loss_of(model, z @ FACTOR.T, weights))
    assert np.mean(losses) == pytest.approx(-0.91463, abs=1e-5) and np.std(losses) > 0.01


def test_denoising_at_its_optimum_has_the_known_value():
    nodes, weights = gaussian_rule(4)
    best = np.linalg.inv(COVARIANCE + 0.09 * np.eye(2))
    model = quadratic(best, training_method="denoising_score_matching", sigmas=0.3)
    model.normal = lambda shape, rows=0: ops.convert_to_tensor(nodes[:, 2:])
    # The loss is a mean over the two dimensions, the known value a sum.
    assert 2 * loss_of(model, nodes[:, :2] @ FACTOR.T, weights) == pytest.approx(0.92540, abs=1e-5)


def test_denoising_at_several_levels_divides_the_energy_by_each():
    # With data N(0, 1) and E = a x²/2 the loss at σ is ½ (1 - 2aσ + a²(1 + σ²)).
    sigmas, a = [0.5, 2.0], 0.7
    nodes, weights = gaussian_rule(2)
    model = quadratic([[a]], training_method="denoising_score_matching", sigmas=sigmas)
    for level, sigma in enumerate([2.0, 0.5]):  # largest first
        model.normal = lambda shape, rows=0: ops.convert_to_tensor(nodes[:, 1:])
        model.uniform = lambda shape, rows=0, level=level: ops.full(shape, 0.5 * level + 0.2)
        exact = 0.5 * (1 - 2 * a * sigma + a**2 * (1 + sigma**2))
        assert loss_of(model, nodes[:, :1], weights) == pytest.approx(exact, rel=1e-5)


def test_the_score_is_minus_the_slope_of_the_energy():
    x = np.random.default_rng(0).standard_normal((5, 2)).astype("float32")
    model = quadratic(PRECISION)
    np.testing.assert_allclose(numpy(model.score(x)), -x @ PRECISION, rtol=1e-4, atol=1e-5)
    exact = 0.5 * np.einsum("ni,ij,nj->n", x, PRECISION, x)
    np.testing.assert_allclose(numpy(model.energy(x)), exact, rtol=1e-4)
    np.testing.assert_allclose(model.predict(x, verbose=0), exact, rtol=1e-4)
    several = quadratic(
        PRECISION, training_method="denoising_score_matching", sigmas=[0.1, 1.0, 0.5]
    )
    np.testing.assert_allclose(numpy(several.energy(x)), exact / 0.1, rtol=1e-4)
    np.testing.assert_allclose(numpy(several.energy(x, sigma=0.5)), exact / 0.5, rtol=1e-4)
    np.testing.assert_allclose(
        numpy(several.score(x, sigma=0.5)), -x @ PRECISION / 0.5, rtol=1e-4, atol=1e-4
    )


# Contrastive divergence


def persistent(size=500, **options):
    options = {"replay_buffer_init_prob": 1.0, "mcmc_steps": 2, "step_size": 0.2} | options
    return quadratic(training_method="pcd", replay_buffer_size=size, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, (1 - math.sqrt(1 - 0.2)) / 0.1, id="langevin"),
        pytest.param({"sampler": "mala"}, 1.0, id="mala", marks=pytest.mark.slow),
    ],
)
def test_a_persistent_chain_learns_the_precision_with_its_samplers_bias(options, expected):
    """η = .1, half of the step: 1.0557 by Langevin, whose variance is 1/(a (1 - aη/2))."""
    x, model = unit_data(1000), persistent(1000, **options)
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([150], [0.1, 0.02])
    model.compile(keras.optimizers.SGD(rates))
    model.fit(x, batch_size=1000, epochs=300, verbose=0)
    found = []
    for _ in range(20):
        model.fit(x, batch_size=1000, epochs=30, verbose=0)
        found.append(precision_of(model))
    assert np.mean(found) == pytest.approx(expected, abs=0.013)


@pytest.mark.parametrize("method", ["cd", "pcd"])
def test_a_step_has_the_gradient_of_energies_at_fixed_negatives(method):
    x = unit_data(8)
    model = persistent(8, energy_regularization=0.3)
    if method == "cd":
        model = quadratic(energy_regularization=0.3, step_size=0.2, mcmc_steps=2)
        kept = []
        draw = model._negatives
        model._negatives = lambda *a, **k: kept.append(draw(*a, **k)) or kept[-1]
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.objective(model.unpack(x), True)
        model._negatives = lambda *a, **k: kept[0]
    else:
        model.compile(keras.optimizers.SGD(0.1))
    model.train_on_batch(x)
    negatives = numpy(kept[0].x if method == "cd" else model.buffer.chains)
    plus, minus = x**2 / 2, negatives**2 / 2
    slope = (plus - minus + 0.3 * 2 * (plus**2 + minus**2)).mean()  # at a = 1
    assert precision_of(model) == pytest.approx(1 - 0.1 * slope, rel=1e-5)


def test_contrastive_divergence_starts_at_the_data():
    x = 7 + unit_data(32)
    model = quadratic(mcmc_steps=3, step_size=1e-8)
    model.compile("sgd")
    logs = model.train_on_batch(x, return_dict=True)
    assert logs["energy_gap"] == pytest.approx(0, abs=0.05) and logs["energy_data"] > 20


def test_evaluation_moves_no_chain_and_repeats_itself():
    model = persistent(64)
    model.compile("sgd")
    before = numpy(model.buffer.chains).copy()
    first, second = (model.evaluate(unit_data(32), verbose=0) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(numpy(model.buffer.chains), before)


@pytest.mark.parametrize("sampler", ["mala", "hmc"])
def test_the_share_of_accepted_proposals_is_logged(sampler):
    logs = {}
    for step in (0.01, 1.9):
        model = quadratic(sampler=sampler, step_size=step, leapfrog_steps=1, mcmc_steps=10)
        model.compile("sgd")
        logs[step] = model.train_on_batch(unit_data(200), return_dict=True)["acceptance"]
    assert logs[0.01] > 0.99 and 0.1 < logs[1.9] < 0.9


@pytest.mark.parametrize("sampler", ["langevin", "mala", "hmc"])
def test_negatives_and_samples_stay_in_the_range(sampler):
    x = np.random.default_rng(0).uniform(0, 1, (64, 1)).astype("float32")
    model = persistent(64, sampler=sampler, value_range=(0.0, 1.0), step_size=0.5)
    model.compile("sgd")
    model.fit(x, batch_size=64, epochs=3, verbose=0)
    for values in (numpy(model.buffer.chains), numpy(model.sample(50, 20, seed=1))):
        assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.1


# The buffer


def test_places_are_different_and_cover_all_alike():
    random, counts = np.random.default_rng(0), np.zeros(10)
    buffer = ReplayBuffer(10)
    for _ in range(600):
        shift, draws = random.uniform(size=1), random.uniform(size=3)
        places = numpy(buffer.places(*(ops.cast(u, "float32") for u in (shift, draws))))
        assert len(set(places)) == 3
        counts[places] += 1
    assert counts.sum() == 1800 and abs(counts - 180).max() < 60


def test_a_share_of_the_chains_starts_anew_and_the_rest_goes_on():
    model = persistent(4000, step_size=1e-10, replay_buffer_init_prob=0.7)
    model.compile("sgd")
    before = numpy(model.buffer.chains).copy()
    model.train_on_batch(unit_data(2000))
    moved = abs(numpy(model.buffer.chains) - before)[:, 0] > 1e-3
    assert moved.sum() == pytest.approx(600, abs=4 * math.sqrt(2000 * 0.7 * 0.3))
    assert numpy(model.buffer.chains)[moved].std() == pytest.approx(1, abs=0.15)


def test_the_buffer_is_saved_and_no_optimizer_moves_it(tmp_path):
    model = persistent(64)
    model.compile("adam")
    model.fit(unit_data(64), batch_size=32, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(model.buffer.chains), numpy(loaded.buffer.chains))
    assert len(model.trainable_variables) == 1
    fresh = numpy(persistent(64).buffer.chains)
    assert abs(numpy(loaded.buffer.chains) - fresh).max() > 0.1


def test_a_seed_sets_the_chains_of_a_model_that_is_not_trained():
    one, other = persistent(16, seed=None), persistent(16, seed=None)
    for model in (one, other):
        model.reseed(5)
    np.testing.assert_array_equal(numpy(one.buffer.chains), numpy(other.buffer.chains))
    one.compile("sgd")
    one.train_on_batch(unit_data(16))
    kept = numpy(one.buffer.chains).copy()
    one.reseed(6)
    np.testing.assert_array_equal(numpy(one.buffer.chains), kept)


def labelled_network(classes=3):
    """½ (x - μ_y)², μ the rows of an embedding."""
    x, y = keras.Input((1,)), keras.Input((), dtype="int32")
    centre = keras.layers.Embedding(classes, 1, name="centres")(y)
    energy = keras.layers.Lambda(lambda pair: 0.5 * ops.square(pair[0] - pair[1]))([x, centre])
    return keras.Model([x, y], energy)


def test_chains_keep_the_labels_they_began_with():
    model = EnergyModel(
        labelled_network(), training_method="pcd", replay_buffer_size=60, mcmc_steps=50,
        step_size=0.2, replay_buffer_init_prob=1.0, seed=0,
    )  # fmt: skip
    model.network.get_layer("centres").set_weights([np.array([[-9.0], [0.0], [9.0]])])
    model.compile(keras.optimizers.SGD(1e-6))
    labels = np.arange(30) % 3
    for _ in range(20):
        model.train_on_batch(9.0 * (labels[:, None] - 1.0), labels)
    chains, kept = numpy(model.buffer.chains)[:, 0], numpy(model.buffer.conditions)
    assert numpy(model.buffer.started).all() and set(kept) == {0, 1, 2}
    assert abs(chains - 9 * (kept - 1)).max() < 6
    samples = numpy(model.sample(20, 1, condition=2, seed=3))
    assert abs(samples - 9).max() < 6
    energies = numpy(model.energy(np.zeros((3, 1)), [0, 1, 2]))
    np.testing.assert_allclose(energies, [40.5, 0, 40.5], atol=1e-3)
    assert model.log_partition(condition=1, seed=0) == pytest.approx(
        0.5 * math.log(2 * math.pi), abs=0.1
    )


# A classifier's energy


def test_a_joint_model_has_the_gradient_worked_out_by_hand():
    random = np.random.default_rng(0)
    x, y = random.standard_normal((8, 2)).astype("float32"), np.arange(8) % 3
    matrix = random.standard_normal((2, 3)).astype("float32")
    entry = keras.Input((2,))
    network = keras.Model(entry, keras.layers.Dense(3, use_bias=False)(entry))
    network.set_weights([matrix])
    model = EnergyModel(
        network, training_method="pcd", replay_buffer_size=8, mcmc_steps=1, num_classes=3,
        generative_weight=0.5, seed=0,
    )  # fmt: skip
    model.compile(keras.optimizers.SGD(0.1))
    logs = model.train_on_batch(x, y, return_dict=True)
    negatives = numpy(model.buffer.chains)

    def share(x):
        return np.exp(x @ matrix) / np.exp(x @ matrix).sum(1, keepdims=True)

    entropy_slope = x.T @ (share(x) - np.eye(3)[y])
    energy_slope = -x.T @ share(x) + negatives.T @ share(negatives)
    exact = matrix - 0.1 * (entropy_slope + 0.5 * energy_slope) / 8
    np.testing.assert_allclose(numpy(network.weights[0]), exact, rtol=1e-4, atol=1e-5)
    assert logs["accuracy"] == np.mean(share(x).argmax(1) == y)
    entropy = -np.log(share(x)[np.arange(8), y]).mean()
    assert logs["classification_loss"] == pytest.approx(entropy, rel=1e-4)


def test_a_classifiers_energy_with_a_label_is_that_of_both():
    entry = keras.Input((2,))
    network = keras.Model(entry, keras.layers.Dense(3)(entry))
    model, x = EnergyModel(network, num_classes=3), np.ones((2, 2), "float32")
    logits = numpy(network(x))
    np.testing.assert_allclose(numpy(model.energy(x, [0, 2])), -logits[[0, 1], [0, 2]], rtol=1e-5)
    np.testing.assert_allclose(
        numpy(model.energy(x)), -np.log(np.exp(logits).sum(1)), rtol=1e-4, atol=1e-6
    )


# Samples


def test_annealed_sampling_takes_the_printed_steps():
    # Without noise a step at σ multiplies by 1 - ½ step σ²/σ_min² · a/σ; then comes 1 - aσ_min.
    sigmas, a, step = [0.2, 1.0, 0.5], 0.3, 0.05
    model = quadratic(
        [[a]], training_method="denoising_score_matching", sigmas=sigmas, step_size=step
    )
    model.normal = lambda shape, rows=0: ops.zeros(shape)
    found = numpy(model.sample(2, 3, initial=np.array([[1.0], [-2.0]])))
    factor = 1 - a * 0.2
    for sigma in sigmas:
        factor *= (1 - 0.5 * step * (sigma / 0.2) ** 2 * a / sigma) ** 3
    np.testing.assert_allclose(found[:, 0], [factor, -2 * factor], rtol=1e-5)


@pytest.mark.parametrize("sampler", ["langevin", "mala", "hmc"])
def test_long_chains_draw_from_the_model(sampler):
    model = quadratic([[4.0]], step_size=0.2 if sampler != "hmc" else 0.3)
    samples = numpy(model.sample(2000, 120, sampler=sampler, seed=1))
    variance = 1 / (4 * (1 - 0.2)) if sampler == "langevin" else 0.25
    assert samples.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / 2000))


def test_settings_changed_after_sampling_are_used():
    model = quadratic()
    model.sample(2, 2, initial=np.ones((2, 1)), seed=0)
    model.step_size, model.noise_scale = 0.5, 0.0
    found = numpy(model.sample(2, 2, initial=np.ones((2, 1)), seed=0))
    np.testing.assert_allclose(found, 0.75**2, rtol=1e-5)


def test_a_noise_of_its_own_is_a_temperature():
    assert quadratic(noise_scale=0.005).temperature == pytest.approx(0.0025)
    assert quadratic().temperature == 1
    denoising = quadratic(training_method="denoising_score_matching", noise_scale=0.5)
    assert denoising.temperature == 1
    sharp = quadratic(step_size=1.0, noise_scale=0.5)  # T = ¼: N(0, ¼)
    expected = 0.5 * math.log(2 * math.pi / 4)
    assert sharp.log_partition(seed=0, step_size=0.05) == pytest.approx(expected, abs=0.1)
    found = numpy(sharp.log_prob(np.array([[1.0]]), log_partition=expected))
    assert float(found[0]) == pytest.approx(-2.0 - expected, rel=1e-5)


# The partition function


def test_a_grid_knows_the_temperature():
    """∫ e^{-‖x‖²/2T} over the plane is 2πT, here with T = ¼."""
    plane = ((1.0, 0.0), (0.0, 1.0))
    sharp = quadratic(plane, step_size=1.0, noise_scale=0.5)
    found = sharp.log_partition("grid", bounds=(-5, 5))
    assert found == pytest.approx(math.log(2 * math.pi / 4), abs=1e-4)


def test_partition_function_of_a_gaussian():
    model = quadratic(PRECISION)
    exact = 0.5 * math.log(np.linalg.det(2 * np.pi * COVARIANCE))
    assert model.log_partition("grid", bounds=(-9, 9)) == pytest.approx(exact, abs=1e-4)
    assert model.log_partition("ais", seed=0) == pytest.approx(exact, abs=0.05)
    x = np.array([[0.3, -1.0]], "float32")
    density = exact + 0.5 * x[0] @ PRECISION @ x[0]
    found = numpy(model.log_prob(x, method="grid", bounds=(-9, 9)))
    np.testing.assert_allclose(found, -density, rtol=1e-4)


def test_partition_function_in_a_box():
    model = quadratic(PRECISION, value_range=(-1.0, 2.0))
    exact = model.log_partition("grid")
    assert exact < model.log_partition("grid", bounds=(-9, 9)) - 0.5
    found = model.log_partition("ais", seed=0, num_steps=200)
    assert found == pytest.approx(exact, abs=0.05)


# What is refused


@pytest.mark.parametrize(
    "options",
    [{"training_method": "pcd", "replay_buffer_size": 64}, {"training_method": "score_matching"}],
)
def test_a_run_that_diverges_is_stopped_with_the_remedy(options):
    model = quadratic(step_size=0.1, mcmc_steps=3, **options)
    model.compile(keras.optimizers.SGD(1e6))
    with pytest.raises(FloatingPointError, match="smaller learning rate.*energy_regularization"):
        model.fit(unit_data(64), batch_size=32, epochs=30, verbose=0)
    assert len(model.history.epoch) < 30
    numpy(model.network.weights[0])  # the weights are back


def test_a_gap_beyond_the_threshold_stops_a_run():
    model = persistent(64, divergence_threshold=1e-4)
    model.compile(keras.optimizers.SGD(0.01))
    with pytest.raises(FloatingPointError, match="the mean of `energy_gap` was .*1e-04|0.0001"):
        model.fit(unit_data(64), batch_size=32, epochs=5, verbose=0)


def network(outputs, inputs=2):
    entry = keras.Input((inputs,))
    return keras.Model(entry, keras.layers.Dense(outputs)(entry))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EnergyModel(network(2)), "one number per example"),
        (lambda: EnergyModel(network(2), num_classes=3), "a logit for each class"),
        (lambda: EnergyModel(network(1), training_method="pdc"), "Did you mean 'pcd'"),
        (lambda: EnergyModel(network(1), sampler="hmcc"), "Did you mean 'hmc'"),
        (lambda: EnergyModel(network(1), mcmc_steps=0), "`mcmc_steps` must be an integer"),
        (lambda: EnergyModel(network(1), step_size=0), "`step_size` must be greater"),
        (lambda: EnergyModel(network(1), sigmas=[]), "must hold a noise level"),
        (lambda: EnergyModel(network(1), sigmas=[0.1, -1]), "`sigmas` must be greater"),
        (lambda: EnergyModel(network(1), value_range=(1, 0)), r"None or \(low, high\)"),
        (lambda: EnergyModel(network(1), sampler="mala", noise_scale=0.1), "belongs to"),
        (lambda: EnergyModel(network(1), sampler="hmc", gradient_clipping=1), "belongs to"),
        (lambda: EnergyModel(network(1)).energy(np.ones((2, 3))), "must have the shape"),
        (lambda: EnergyModel(network(1)).energy(np.ones((2, 2)), [0, 1]), "takes no labels"),
        (lambda: EnergyModel(network(1)).energy(np.ones((2, 2)), sigma=1.0), "`sigma` is for"),
        (lambda: EnergyModel(network(1)).sample(2, initial=np.ones((2, 3))), "`initial` must"),
        (lambda: EnergyModel(network(1, 3)).log_partition("grid"), "points in the plane"),
        (lambda: EnergyModel(network(1)).log_partition("grd"), "Did you mean 'grid'"),
        (lambda: EnergyModel(keras.layers.Dense(1)).sample(1), "know their shapes"),
        (lambda: EnergyModel(labelled_network()).sample(1), "takes a condition"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        (lambda: persistent(16), (unit_data(32),), "`replay_buffer_size` must be at least"),
        (lambda: quadratic(value_range=(0.0, 1.0)), (unit_data(32),), "lie in `value_range`"),
        (lambda: quadratic(), (unit_data(32), np.arange(32)), "takes no labels"),
        (lambda: EnergyModel(network(3, 1), num_classes=3), (unit_data(32),), "takes a condition"),
        (
            lambda: EnergyModel(network(3, 1), num_classes=3),
            (unit_data(32), np.eye(32, dtype="int32")),
            "integer labels of shape",
        ),
    ],
)
def test_data_that_are_refused(model, arrays, message):
    model = model()
    model.compile("sgd")
    with pytest.raises(ValueError, match=message):
        model.fit(*arrays, batch_size=32, verbose=0)


@pytest.mark.parametrize("method", TRAINING_METHODS)
def test_a_network_without_shapes_learns_its_own_from_the_data(method):
    model = EnergyModel(
        keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]),
        training_method=method,
        mcmc_steps=2,
        data_noise=0.1,
        seed=0,
    )
    model.compile("sgd")
    history = model.fit(np.ones((8, 2), "float32"), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"][0]) and model.sample(3).shape == (3, 2)
    early = EnergyModel(keras.layers.Dense(1), input_shape=(2,))
    assert early.built and early.get_config()["input_shape"] == (2,)


def test_the_penalty_is_the_squared_slope_at_data_and_negatives():
    x, model = unit_data(8), persistent(8, gradient_penalty_weight=0.5)
    model.compile(keras.optimizers.SGD(0.0))
    logs = model.train_on_batch(x, return_dict=True)
    negatives = numpy(model.buffer.chains)
    penalty = 0.5 * ((x**2).mean() + (negatives**2).mean())  # ∇E = x at a = 1
    assert logs["gradient_penalty"] == pytest.approx(penalty, rel=1e-4)
    gap = logs["energy_data"] - logs["energy_neg"]
    assert logs["loss"] == pytest.approx(gap + 0.5 * penalty, rel=1e-4, abs=1e-5)


def test_statistics_are_those_of_the_data_alone():
    entry = keras.Input((1,))
    norm = keras.layers.BatchNormalization(momentum=0.5, name="norm")
    network = keras.Model(entry, keras.layers.Dense(1)(norm(entry)))
    model = EnergyModel(
        network,
        mcmc_steps=2,
        step_size=0.5,
        gradient_penalty_weight=0.1,
        value_range=(0, 9),
        seed=0,
    )
    model.compile(keras.optimizers.SGD(0.0))
    x = 4 + unit_data(32)
    model.train_on_batch(x)
    assert float(norm.moving_mean[0]) == pytest.approx(0.5 * x.mean(), rel=1e-4)


def test_noise_is_added_to_the_data_in_training_alone():
    model = quadratic(training_method="score_matching", data_noise=0.5)
    model.compile(keras.optimizers.SGD(0.0))
    x = np.zeros((4000, 1), "float32")
    assert model.train_on_batch(x, return_dict=True)["energy_data"] == pytest.approx(0.125, rel=0.1)
    model.reset_metrics()
    assert model.test_on_batch(x, return_dict=True)["energy_data"] == 0


def test_the_regularizer_serves_score_matching_too():
    x = unit_data(64)
    losses = [
        loss_of(
            quadratic(training_method="score_matching", energy_regularization=alpha), x, np.ones(64)
        )
        for alpha in (0.0, 0.3)
    ]
    assert losses[1] - losses[0] == pytest.approx(0.3 * (x**4 / 4).mean(), rel=1e-4)


def test_energies_and_scores_are_of_the_averaged_weights():
    # In two dimensions: TensorFlow's graph optimizer loses a loop over 1 x 1 matrices.
    model, x = quadratic(np.eye(2).tolist(), ema_decay=0.9), np.array([[1, 0]], "float32")
    model.compile("sgd")
    model.train_on_batch(np.ones((16, 2), "float32"))
    model._average[0].assign(3 * np.eye(2))
    model.network.trainable_weights[0].assign(7 * np.eye(2))
    found = [model.energy(x), model.score(x), model.predict(x, verbose=0)]
    assert [float(numpy(value).ravel()[0]) for value in found] == [1.5, -3.0, 1.5]
    assert model.log_partition(seed=0) == pytest.approx(math.log(2 * math.pi / 3), abs=0.1)


@pytest.mark.parametrize("sampler", ["langevin", "mala", "hmc"])
def test_annealing_takes_larger_steps_at_a_larger_level(sampler):
    # Of an energy that is all but flat only the noise moves anything, by σ/σ_min.
    model = quadratic(
        [[1e-4]],
        training_method="denoising_score_matching",
        sigmas=[0.1, 0.4],
        sampler=sampler,
    )
    moved = {}
    for sigma in (0.1, 0.4):
        model.reseed(1)
        level = ops.convert_to_tensor(sigma, dtype="float32")
        start = ops.zeros((20, 1))
        moved[sigma] = numpy(model._advanced(start, None, level, rule=model._rule(), steps=1))
    np.testing.assert_allclose(moved[0.4], 4 * moved[0.1], rtol=1e-2)
