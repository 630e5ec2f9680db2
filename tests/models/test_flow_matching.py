"""Flow matching against closed forms: Gaussians, whose optimal velocity is linear."""

import keras
import numpy as np
import pytest
from distances import mode_shares, ring_centres, sliced_wasserstein
from keras import ops

from artifex_keras.datasets import toys
from artifex_keras.models import FlowMatching
from artifex_keras.networks import timed_mlp
from artifex_keras.objectives import flow as terms


@keras.saving.register_keras_serializable(package="test")
class Linear(keras.layers.Layer):
    """v(x, t) = a x + b, whatever the time: its flow is known."""

    def __init__(self, slope, shift, **kwargs):
        super().__init__(**kwargs)
        self.slope, self.shift = slope, shift

    def build(self, shape):
        self.a = self.add_weight(
            name="a", shape=(), initializer=keras.initializers.Constant(self.slope)
        )
        self.built = True

    def call(self, inputs):
        return self.a * inputs[0] + self.shift

    def get_config(self):
        return {**super().get_config(), "slope": self.slope, "shift": self.shift}


class Optimal(keras.layers.Layer):
    """E[x_1 - x_0 | x_t] for data N(m, s²) in each dimension and the linear path."""

    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def call(self, inputs):
        x, t = inputs
        t = ops.reshape(t, (-1, 1))
        variance = ops.square(t * self.std) + ops.square(1 - t)
        covariance = t * self.std**2 - (1 - t)
        return self.mean + covariance / variance * (x - t * self.mean)


def array(tensor):
    return ops.convert_to_numpy(tensor)


def points(rows=64, width=2, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype("float32")


def linear(slope=0.7, shift=0.4, **options):
    model = FlowMatching(Linear(slope, shift), input_shape=(2,), seed=0, **options)
    return model


def labelled(**options):
    return FlowMatching(timed_mlp((2,), (8,), num_classes=2), seed=0, **options)


# Losses


def test_the_loss_of_the_optimal_velocity_is_the_conditional_variance():
    """E Var(x_1 - x_0 | x_t) = ∫ s²/(t² s² + (1-t)²) dt = s π/2, whatever the mean."""
    std = 0.5
    model = FlowMatching(Optimal(2.0, std), input_shape=(2,), seed=0)
    model.compile("sgd")
    x = 2.0 + std * points(20_000)
    logs = model.evaluate(x, batch_size=5000, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(std * np.pi / 2, rel=0.01)


@pytest.mark.parametrize("path", terms.PATHS)
def test_the_loss_is_the_error_of_the_velocity_on_the_path(path):
    """With v = 0 it is mean (α' x_1 + β' x_0)², by the injected noise and time."""
    model = linear(0.0, 0.0, path=path)
    model.compile("sgd")
    x, noise = points(16), points(16, seed=1)
    u = np.linspace(0.01, 0.97, 16).astype("float32")
    model.normal = lambda shape, rows=0: ops.convert_to_tensor(noise)
    model.uniform = lambda shape, rows=0: ops.convert_to_tensor(u)
    logs = model.train_on_batch(x, return_dict=True)
    factors = [array(f)[:, None] for f in terms.path_factors(u, path)]
    expected = np.mean((factors[2] * x + factors[3] * noise) ** 2)
    assert float(logs["loss"]) == pytest.approx(expected, rel=1e-5)


def test_validation_sees_the_same_times_and_noise_each_time():
    model = labelled()
    model.compile("sgd")
    arguments = {"x": points(), "y": np.arange(64) % 2, "verbose": 0, "return_dict": True}
    assert model.evaluate(**arguments) == model.evaluate(**arguments)


def test_optimal_transport_pairs_each_example_with_noise_near_it():
    """Two far clusters: their noise comes from the side they lie on, labels stay with the data."""
    model = labelled(coupling="ot", condition_dropout=0.0)
    x = points(64) * 0.1 + np.where(np.arange(64) % 2, 3.0, -3.0)[:, None].astype("float32")
    free = array(model._paired_noise(ops.convert_to_tensor(x), None))
    assert np.corrcoef(free.sum(1), x.sum(1))[0, 1] > 0.7
    independent = labelled()._paired_noise(ops.convert_to_tensor(x), None)
    assert abs(np.corrcoef(array(independent).sum(1), x.sum(1))[0, 1]) < 0.4
    seen = {}

    def predicted(x_t, t, condition=None, training=False):
        seen.update(x_t=array(x_t), condition=array(condition), t=array(t))
        return x_t

    model.predicted = predicted
    labels = ops.convert_to_tensor(np.arange(64) % 2)
    batch = model.unpack((x, labels))
    model.uniform = lambda shape, rows=0: (
        ops.full(shape, 0.999) if len(shape) == 1 else ops.ones(shape) / 2
    )
    model.objective(batch, training=True)
    np.testing.assert_array_equal(seen["condition"], np.arange(64) % 2)
    assert np.all((seen["x_t"].sum(1) > 0) == (seen["condition"] == 1))


def test_optimal_transport_within_conditions_keeps_the_noise_normal():
    """Unaware of labels, the noise of one cluster is half a normal; aware, it is all of it."""
    model = labelled(coupling="ot")
    side = np.arange(256) % 2
    x = points(256) * 0.1 + np.where(side, 2.0, -2.0)[:, None].astype("float32")
    labels = ops.convert_to_tensor(side)
    unaware = terms.ot_assignment(x, points(256, seed=3), np.full((256, 256), 0.5, "float32"))
    skewed = points(256, seed=3)[array(unaware)]
    assert skewed[side == 1].sum(1).mean() > 0.8
    options = {"condition_cost": 50.0, "conditions": labels}
    aware = terms.ot_assignment(
        x, points(256, seed=3), np.full((256, 256), 0.5, "float32"), **options
    )
    even = points(256, seed=3)[array(aware)]
    assert np.all(side[array(aware)] == side)
    assert abs(even[side == 1].sum(1).mean()) < 0.25
    vectors = np.stack([side, 1 - side], -1).astype("float32")
    options = {"condition_cost": 50.0, "conditions": vectors}
    same = terms.ot_assignment(
        x, points(256, seed=3), np.full((256, 256), 0.5, "float32"), **options
    )
    assert np.all(side[array(same)] == side)
    assert model.conditional


# Sampling and likelihood


def carried(x, slope=0.7, shift=0.4, time=1.0):
    """The flow of dx/dt = a x + b."""
    growth = np.exp(slope * time)
    return growth * x + shift * (growth - 1) / slope


@pytest.mark.parametrize(
    ("solver", "error"),
    [("euler", 2e-2), ("midpoint", 2e-4), ("heun", 2e-4), ("rk4", 1e-5), ("dopri5", 1e-5)],
)
def test_samples_are_noise_carried_along_the_velocity(solver, error):
    model = linear()
    samples = array(model.sample(32, solver=solver, seed=5))
    with model.drawing_from(5):
        noise = array(model.normal((32, 2)))
    expected = carried(noise)
    gap = np.abs(samples - expected).max()
    assert gap < error * np.abs(expected).max()
    assert solver != "euler" or gap > 1e-3
    half = array(model.decode(noise, solver="rk4", end=0.5))
    np.testing.assert_allclose(half, carried(noise, time=0.5), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(array(model.encode(expected)), noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"solver": "dopri5"}, {"num_probes": 1}, {"num_probes": 3, "num_steps": 20}]
)
def test_the_likelihood_of_a_linear_field_is_a_gaussians(options):
    """N(b (e^a - 1)/a, e^{2a}); signs as probes are exact where the Jacobian is diagonal."""
    model, x = linear(), points(16)
    mean, std = carried(0.0), np.exp(0.7)
    expected = -0.5 * (((x - mean) / std) ** 2 + np.log(2 * np.pi * std**2)).sum(1)
    np.testing.assert_allclose(array(model.log_prob(x, **options)), expected, atol=1e-4)
    bits = -expected / (2 * np.log(2))
    np.testing.assert_allclose(array(model.bits_per_dim(x, **options)), bits, atol=1e-4)


class Widths(keras.layers.Layer):
    """The best velocity where row i is of N(0.7, WIDTHS[i]²)."""

    def __init__(self, route):
        super().__init__()
        self.route = route

    def call(self, inputs):
        x, t = inputs
        a, b, a_rate, b_rate = terms.path_factors(t, self.route, like=x)
        gain = (x - a * 0.7) / (ops.square(a * WIDTHS) + ops.square(b))
        return a_rate * (0.7 + a * WIDTHS**2 * gain) + b_rate * b * gain

    def compute_output_shape(self, input_shape):
        return input_shape[0]


WIDTHS, PLACES = (
    part.reshape(-1, 1).astype("float32")
    for part in np.meshgrid([0.1, 0.2, 0.5, 1.0, 2.0, 3.0], [-2.0, -0.5, 0.0, 1.0])
)


@pytest.mark.parametrize(
    ("path", "num_steps"), [(path, 25) for path in terms.PATHS] + [("vp", 50), ("vp", 100)]
)
def test_the_likelihood_of_gaussians_of_any_width(path, num_steps):
    """Within 2e-3 bits; the vp path's velocity is infinite at the data, over time itself."""
    model = FlowMatching(Widths(path), path=path, input_shape=(1,), seed=0)
    x = 0.7 + PLACES * WIDTHS
    exact = -0.5 * (PLACES**2 + np.log(2 * np.pi * WIDTHS**2))[:, 0]
    found = array(model.log_prob(x, num_steps=num_steps))
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.log(2))


def test_samples_of_the_vp_path_are_as_wide_as_the_data():
    model = FlowMatching(Widths("vp"), path="vp", input_shape=(1,), seed=0)
    noise = array(model.encode(0.7 + PLACES * WIDTHS, num_steps=25))
    np.testing.assert_allclose(noise, PLACES, atol=0.02)
    for solver, error in (("euler", 0.25), ("heun", 0.02)):
        x = array(model.decode(PLACES, solver=solver))
        np.testing.assert_allclose((x - 0.7) / WIDTHS, PLACES, atol=error)
    half = array(model.decode(PLACES, solver="rk4", end=0.5))
    a, b = (float(f) for f in terms.path_factors(0.5, "vp")[:2])
    np.testing.assert_allclose(half, 0.7 * a + PLACES * np.hypot(a * WIDTHS, b), atol=0.02)


def test_a_trained_density_integrates_to_one():
    model = FlowMatching(timed_mlp((2,), (32, 32), time_scale=100), seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    x = points(512)
    x[:, 1] = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1]
    model.fit(x, batch_size=128, epochs=10, verbose=0)
    edges = np.linspace(-6, 6, 81)
    centres = (edges[1:] + edges[:-1]) / 2
    grid = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2).astype("float32")
    density = np.exp(array(model.log_prob(grid, num_steps=20)).astype("float64"))
    assert density.sum() * (edges[1] - edges[0]) ** 2 == pytest.approx(1, abs=0.01)


@keras.saving.register_keras_serializable(package="test")
class ByLabel(keras.layers.Layer):
    """v = the row of a table for the label: 1, 3, and 10 for the null."""

    def call(self, inputs):
        x, _, labels = inputs
        return ops.take(ops.convert_to_tensor([1.0, 3.0, 10.0]), labels, axis=0)[:, None] + 0 * x


def test_guidance_moves_away_from_the_null():
    """w c + (1 - w) u: a constant velocity, so the sample is the noise and that."""
    model = FlowMatching(ByLabel(), null_label=2, seed=0)
    model.build((None, 2), keras.KerasTensor((None,), "int32"))
    with model.drawing_from(4):
        noise = array(model.normal((3, 2)))
    for scale, velocity in ((1.0, [1, 3, 3]), (0.0, [10, 10, 10]), (2.0, [-8, -4, -4])):
        made = array(model.sample(3, guidance_scale=scale, condition=[0, 1, 1], seed=4))
        np.testing.assert_allclose(made - noise, np.array(velocity)[:, None] + 0 * noise, atol=1e-4)
    one = array(model.sample(3, condition=1, seed=4))
    np.testing.assert_allclose(one - noise, 3.0 + 0 * noise, atol=1e-4)


def test_a_model_of_its_own_network_goes_through_a_file(tmp_path):
    model = linear(sigma=0.1, bridge=True, time_sampling="u_shaped")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.bridge and loaded.sigma == 0.1
    np.testing.assert_array_equal(array(loaded.sample(4, seed=0)), array(model.sample(4, seed=0)))


# Trained


RING = {"std": 0.25}  # of each Gaussian, on a circle of radius 2


def velocity_floor(scale, draws=400_000):
    """The least loss per dimension: that of E[x_1 - x_0|x_t], for the ring over `scale`."""
    random, centres, std = np.random.default_rng(5), ring_centres() / scale, RING["std"] / scale
    t = random.random((draws, 1))
    x1 = centres[random.integers(8, size=draws)] + std * random.standard_normal((draws, 2))
    x0 = random.standard_normal((draws, 2))
    gaps = ((1 - t) * x0 + t * x1)[:, None] - t[:, None] * centres
    variance = (t * std) ** 2 + (1 - t) ** 2
    squares = (gaps**2).sum(-1)
    weight = np.exp(-0.5 * (squares - squares.min(1, keepdims=True)) / variance)
    weight /= weight.sum(1, keepdims=True)
    gap, centre = ((weight[..., None] * each).sum(1) for each in (gaps, centres))
    best = centre + (t * std**2 - (1 - t)) / variance * gap
    return ((x1 - x0 - best) ** 2).mean()


@pytest.mark.slow
def test_flow_matching_learns_a_ring_of_gaussians():
    """Its loss comes within 1 % of the least there is; 50 Euler steps draw all eight modes."""
    data = toys.ring(60_000, seed=0, **RING)
    scale = data.std()
    train, test = data[:50_000] / scale, data[50_000:] / scale
    network = timed_mlp((2,), (128, 128, 128), time_scale=1000)
    model = FlowMatching(network, ema_decay=0.999, seed=0)
    steps, batch = 8000, 512
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=97)
    model.fit(train, batch_size=batch, epochs=steps * batch // len(train) + 1, verbose=0)
    floor = velocity_floor(scale)
    assert floor == pytest.approx(1.385, abs=0.005)
    held_out = toys.ring(100_000, seed=98, **RING) / scale
    loss = model.evaluate(held_out, batch_size=5000, verbose=0, return_dict=True)["loss"]
    assert loss <= 1.01 * floor
    samples = array(model.sample(len(test), num_steps=50, seed=1))
    assert sliced_wasserstein(samples, test) <= 0.02
    assert mode_shares(samples, ring_centres() / scale, 1 / scale).min() >= 0.09


# Errors


def test_errors_say_what_is_wrong():
    plain, classes = linear(), labelled()
    plain.compile("sgd")
    for call, text in [
        (lambda: linear(path="lin"), "Did you mean 'linear'"),
        (lambda: linear(time_sampling="sd3"), "time sampling"),
        (lambda: linear(coupling="sinkhorn"), "coupling"),
        (lambda: linear(bridge=True), "sigma"),
        (lambda: linear(sigma=-1), "at least 0"),
        (lambda: FlowMatching(keras.layers.Dense(3), input_shape=(2,)), "shape|list"),
        (lambda: FlowMatching(Linear(1.0, 0.0)).sample(2), "input_shape"),
        (lambda: plain.sample(2, solver="rk5"), "Did you mean 'rk4'"),
        (lambda: plain.sample(2, num_steps=0), "num_steps"),
        (lambda: plain.sample(2, solver="dopri5", rtol=0.0), "rtol"),
        (lambda: plain.sample(0), "`n`"),
        (lambda: plain.sample(2, guidance_scale=2.0), "Guidance needs a condition"),
        (lambda: plain.log_prob(points(width=3)), r"\(3,\)"),
        (lambda: plain.log_prob(points(), num_probes=0), "num_probes"),
        (lambda: plain.fit(points(width=3), verbose=0), r"\(3,\)"),
        (lambda: plain.fit(points(), np.arange(64), verbose=0), "takes no labels"),
        (lambda: classes.sample(2), "no condition"),
        (lambda: classes.sample(2, condition=5), r"\[0, "),
    ]:
        with pytest.raises((ValueError, TypeError), match=text):
            call()


def test_the_way_from_noise_ends_at_the_samples():
    model = linear()
    states = array(model.denoising(5, frames=4, num_steps=9, seed=3))
    assert states.shape == (4, 5, 2)
    np.testing.assert_allclose(states[-1], array(model.sample(5, 9, seed=3)), atol=1e-6)
    third = array(model.decode(states[0], num_steps=3, end=1 / 3))
    np.testing.assert_allclose(states[1], third, atol=1e-6)
