"""The GAN against closed forms: linear critics, known optima, two optimizers kept apart."""

import keras
import numpy as np
import pytest
from distances import mode_shares, ring_centres, sliced_wasserstein
from families import dense, labelled, points
from keras import ops

from artifex_keras.datasets.toys import ring
from artifex_keras.models import GAN
from artifex_keras.networks import mlp_critic, mlp_generator
from artifex_keras.optimizers.lazy import lazily_regularised

NORM = 3.0


def linear_critic(slope=NORM):
    """D(x) = a·x with |a| = `slope`, whose gradient is a at every x."""
    critic = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="critic")])
    critic.layers[0].set_weights([np.full((6, 1), slope / np.sqrt(6)), np.zeros(1)])
    return critic


def gan(critic=None, generator=None, **options):
    keras.utils.set_random_seed(0)
    generator = dense(3, 8, outputs=6, name="generator") if generator is None else generator
    critic = dense(6, 8, name="discriminator") if critic is None else critic
    return GAN(generator, critic, 3, **{"seed": 0, **options})


def step(model, rate=1e-3, x=None, **options):
    model.compile(keras.optimizers.SGD(rate), **options)
    return model.train_on_batch(points(20) if x is None else x, return_dict=True)


def test_the_gradient_penalty_of_a_linear_critic():
    logs = step(gan(linear_critic(), loss_type="wasserstein", gp_weight=10.0))
    assert logs["gp_loss"] == pytest.approx((NORM - 1) ** 2, rel=1e-5)
    expected = logs["d_fake"] - logs["d_real"] + 10 * (NORM - 1) ** 2
    assert logs["d_loss"] == pytest.approx(expected, rel=1e-5)


def test_r1_and_r2_of_a_linear_critic_are_half_the_squared_norm():
    logs = step(gan(linear_critic(), r1_weight=0.3, r2_weight=0.2))
    assert logs["r1_loss"] == logs["r2_loss"] == pytest.approx(NORM**2 / 2, rel=1e-5)
    plain = step(gan(linear_critic()))
    assert logs["d_loss"] == pytest.approx(plain["d_loss"] + 0.5 * NORM**2 / 2, rel=1e-5)


@pytest.mark.parametrize("options", [{"gp_weight": 10.0}, {"r1_weight": 1.0}])
def test_penalties_are_finite_where_the_critic_is_flat(options):
    model = gan(linear_critic(0.0), loss_type="wasserstein", **options)
    logs = step(model)
    assert np.all(np.isfinite(list(logs.values())))
    for weight in model.discriminator.weights:
        assert np.all(np.isfinite(ops.convert_to_numpy(weight)))


def test_a_smoothed_critic_has_a_finite_optimum():
    """One-sided smoothing s = .1 puts the optimum for real data at ln 9; only real data here."""
    critic = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="critic")])
    critic.layers[0].set_weights([np.zeros((6, 1)), np.full(1, np.log(9.0))])
    model = gan(critic, label_smoothing=0.1)
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(1.0))
    model.train_on_batch(points(20))
    bias = float(ops.convert_to_numpy(critic.layers[0].bias)[0])
    # The real term is at rest, so the whole step is the generated term's: -sigmoid(ln 9) = -.9.
    assert bias == pytest.approx(np.log(9.0) - 0.9, abs=1e-5)


def test_each_critic_step_sees_real_examples_of_its_own():
    """A linear Wasserstein critic moves by the mean of what it sees: the sum shows all of it."""
    x = points(20)
    critic = linear_critic(0.0)
    zero = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6, kernel_initializer="zeros")])
    model = gan(critic, zero, loss_type="wasserstein", d_steps=5)
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(1.0))
    model.train_on_batch(x)
    expected = x.reshape(5, 4, 6).mean(1).sum(0)
    np.testing.assert_allclose(
        ops.convert_to_numpy(critic.layers[0].kernel)[:, 0], expected, rtol=1e-5
    )
    assert int(model.discriminator_optimizer.iterations) == 5
    assert int(model.generator_optimizer.iterations) == 1


def test_a_batch_that_does_not_divide_is_filled_from_its_start():
    model = gan(d_steps=3)
    model.compile("sgd")
    model.build_optimizer()
    batch = model.unpack((np.arange(7 * 6).reshape(7, 6).astype("float32"),))
    cut = ops.convert_to_numpy(model._split(batch).x)[:, :, 0] / 6
    np.testing.assert_array_equal(cut, [[0, 1, 2], [3, 4, 5], [6, 0, 1]])


def test_both_networks_move_by_their_own_optimizer():
    model = gan()
    step(model, discriminator_optimizer=keras.optimizers.SGD(0.0))
    frozen = ops.convert_to_numpy(model.discriminator.get_layer("discriminator_out").kernel)
    reference = ops.convert_to_numpy(gan().discriminator.get_layer("discriminator_out").kernel)
    np.testing.assert_array_equal(frozen, reference)
    assert float(model.generator_optimizer.learning_rate) == pytest.approx(1e-3)
    assert float(model.discriminator_optimizer.learning_rate) == 0.0


def test_a_step_changes_the_statistics_of_its_own_network_only():
    model = gan(
        dense(6, 8, name="discriminator", norm=True),
        dense(3, 8, outputs=6, name="generator", norm=True),
    )

    def statistics(network):
        return [ops.convert_to_numpy(w).copy() for w in network.non_trainable_weights]

    model.compile("sgd")
    model.build_optimizer()
    before = statistics(model.discriminator), statistics(model.generator)
    model.train_on_batch(points(20))
    after = statistics(model.discriminator), statistics(model.generator)
    for old, new in zip(before, after, strict=True):
        assert all(np.any(a != b) for a, b in zip(old, new, strict=True))


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Counts its calls in training, as a norm takes statistics of each."""

    def build(self, input_shape):
        self.calls = self.add_weight(name="calls", shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1)
        return x + 0 * self.calls


def test_statistics_are_of_a_networks_own_steps():
    """Three critic steps see real and generated examples, 6 calls; one step is the generator's."""
    critic = keras.Sequential([keras.Input((6,)), Counting(), keras.layers.Dense(1)])
    generator = keras.Sequential([keras.Input((3,)), Counting(), keras.layers.Dense(6)])
    model = gan(critic, generator, d_steps=3)
    step(model, x=points(12))
    assert float(critic.layers[0].calls) == 6
    assert float(generator.layers[0].calls) == 1


@pytest.mark.parametrize("trains", ["generator", "discriminator"])
def test_the_other_networks_statistics_stay(trains):
    model = gan(
        dense(6, 8, name="discriminator", norm=True),
        dense(3, 8, outputs=6, name="generator", norm=True),
    )
    other = model.generator if trains == "discriminator" else model.discriminator
    before = [ops.convert_to_numpy(w).copy() for w in other.non_trainable_weights]
    with model.frozen_batch_stats(other):
        other(np.ones((4, other.input_shape[-1]), "float32"), training=True)
    for old, weight in zip(before, other.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(weight))


def test_lazy_penalties_come_every_kth_step_with_k_times_the_weight():
    """Linear critic, SGD, no other force: the slope shrinks by the penalty alone, ratio by ratio.

    The penalty's gradient is γ a; with k = 4 and rate η the extra step multiplies a by
    1 - η k/(k+1) · k γ, once in four batches.
    """
    critic, rate, gamma = linear_critic(), 0.01, 0.5
    zero = keras.Sequential([keras.Input((3,)), keras.layers.Dense(6, kernel_initializer="zeros")])
    model = gan(critic, zero, loss_type="wasserstein", r1_weight=gamma, r1_every=4)
    model.compile(keras.optimizers.SGD(0.0), keras.optimizers.SGD(rate))
    x = np.zeros((8, 6), "float32")  # real and generated examples coincide: no critic gradient
    norms, logged = [], []
    for _ in range(8):
        logged.append(model.train_on_batch(x, return_dict=True)["r1_loss"])
        norms.append(float(np.linalg.norm(ops.convert_to_numpy(critic.layers[0].kernel))))
    shrink = 1 - rate * 0.8 * 4 * gamma
    np.testing.assert_allclose(
        norms, [NORM] * 3 + [NORM * shrink] * 4 + [NORM * shrink**2], rtol=1e-5
    )
    np.testing.assert_allclose(logged[:4], [0, 0, 0, 4 * NORM**2 / 2], rtol=1e-5)
    assert int(model.discriminator_optimizer.iterations) == 10


def test_the_lazy_optimizer_is_slowed_as_stylegan_does():
    adam = lazily_regularised(keras.optimizers.Adam(1e-2, beta_1=0.5, beta_2=0.99), 16)
    assert float(adam.learning_rate) == pytest.approx(1e-2 * 16 / 17)
    assert adam.beta_1 == pytest.approx(0.5 ** (16 / 17))
    assert adam.beta_2 == pytest.approx(0.99 ** (16 / 17))
    decaying = keras.optimizers.schedules.PolynomialDecay(1.0, 100, 0.0)
    stretched = lazily_regularised(keras.optimizers.SGD(decaying), 4).learning_rate
    assert float(stretched) == pytest.approx(0.8)


def test_lecam_starts_from_the_first_batch_and_waits_for_its_warmup():
    model = gan(lecam_weight=1.0, lecam_warmup=2)
    model.compile(keras.optimizers.SGD(0.0))
    logs = [model.train_on_batch(points(20), return_dict=True) for _ in range(4)]
    assert [log["lecam_loss"] > 0 for log in logs] == [False, False, True, True]
    averages = [float(v) for v in model._mean_logits]
    assert averages[0] == pytest.approx(logs[0]["d_real"], rel=1e-4)
    assert averages[1] == pytest.approx(
        np.average(
            [log["d_fake"] for log in logs], weights=[0.99**3, 0.01 * 0.99**2, 0.01 * 0.99, 0.01]
        ),
        rel=1e-4,
    )


def test_labels_reach_both_networks():
    """The generated class is the label that was asked for, once the critic has seen it."""
    model = GAN(labelled(3, 6, "generator"), labelled(6, 1, "discriminator"), 3, seed=0)
    assert model.conditional
    codes = np.zeros((3, 3), "float32")
    made = ops.convert_to_numpy(model([codes, np.arange(3)]))
    assert np.all(np.any(made != made[:1], axis=1)[1:])
    assert model.sample(2, condition=1).shape == (2, 6)
    same = [
        ops.convert_to_numpy(model.sample(2, condition=[1, 1], seed=3)),
        ops.convert_to_numpy(model.sample(2, condition=1, seed=3)),
    ]
    np.testing.assert_array_equal(*same)


def test_a_reloaded_gan_keeps_the_rates_of_lazy_regularisation(tmp_path):
    model = gan(r1_weight=1.0, r1_every=4)
    step(model, rate=1e-2)
    model.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    assert float(loaded.discriminator_optimizer.learning_rate) == pytest.approx(0.8e-2)
    assert float(loaded.generator_optimizer.learning_rate) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"loss_type": "hing"}, r"Unknown GAN loss 'hing'. Did you mean 'hinge'"),
        ({"d_steps": 0}, r"`d_steps` must be an integer of at least 1"),
        ({"gp_weight": -1.0}, r"`gp_weight` must be at least 0"),
        ({"label_smoothing": 0.7}, r"`label_smoothing` must be in .0.0, 0.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gan(**options)


def test_a_latent_width_the_generator_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"`latent_dim`.*latent_dim=5.*shape \(3,\)"):
        GAN(dense(3, 8, outputs=6, name="generator"), dense(6, 8, name="discriminator"), 5)


def test_a_generator_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"generator's output must have the shape \(6,\).*\(5,\)"):
        GAN(dense(3, 8, outputs=5, name="generator"), dense(6, 8, name="discriminator"), 3)


def test_networks_that_disagree_on_labels_are_refused():
    with pytest.raises(ValueError, match="must both take labels, or neither"):
        GAN(labelled(3, 6, "generator"), dense(6, 8, name="discriminator"), 3)


@pytest.mark.parametrize(
    "options, arguments, message",
    [
        ({}, {"x": points(8), "y": np.arange(8)}, "takes no labels"),
        ({}, {"x": points(8, width=5)}, r"shape \(5,\)"),
        ({}, {"x": points(8)[:0]}, "dataset is empty"),
        (
            {"loss_type": "hinge", "label_smoothing": 0.1},
            {"x": points(8)},
            "belongs to .*'vanilla'",
        ),
        ({"r1_every": 4}, {"x": points(8)}, "`r1_every` needs `r1_weight`"),
    ],
)
def test_data_or_options_that_cannot_train_are_refused(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        model = gan(**options)
        model.compile("adam")
        model.fit(verbose=0, **arguments)


def test_a_conditional_gan_needs_its_labels():
    model = GAN(labelled(3, 6, "generator"), labelled(6, 1, "discriminator"), 3)
    model.compile("adam")
    with pytest.raises(ValueError, match="takes a condition"):
        model.fit(points(8), verbose=0)
    with pytest.raises(ValueError, match="takes a condition"):
        model.sample(3)
    with pytest.raises(ValueError, match="one of them or as many"):
        model.sample(3, condition=[0, 1])


def test_one_vector_is_the_condition_of_all():
    inputs = keras.Input((3,)), keras.Input((2,))
    joined = keras.layers.Concatenate()(inputs)
    generator = keras.Model(inputs, keras.layers.Dense(6)(joined))
    inputs = keras.Input((6,)), keras.Input((2,))
    critic = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(inputs)))
    model, vector = GAN(generator, critic, 3), [0.5, -1.0]
    one, many = (model.sample(4, condition, seed=0) for condition in (vector, 4 * [vector]))
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, many)))


def test_a_reloaded_gan_goes_on_accumulating(tmp_path):
    model = gan()
    model.compile(keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2))
    model.train_on_batch(points(20))
    model.save(tmp_path / "gan.keras")
    loaded = keras.models.load_model(tmp_path / "gan.keras")
    for now in (model, loaded):
        now.train_on_batch(points(20))
        assert int(now.generator_optimizer.iterations) == 1
        assert int(now.discriminator_optimizer.iterations) == 1
    for a, b in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_lazy_penalties_and_accumulation_exclude_each_other():
    with pytest.raises(ValueError, match="`r1_every` counts updates"):
        gan(r1_weight=1.0, r1_every=4).compile(
            keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2)
        )


def test_a_gan_needs_an_optimizer():
    with pytest.raises(ValueError, match="needs an optimizer"):
        gan().compile()


def trained_on_the_ring(**options):
    """10,000 samples after 6,000 steps of 256 on eight Gaussians on a circle of radius 2."""
    keras.utils.set_random_seed(0)
    relu = {"units": (64, 64, 64), "activation": "relu"}
    networks = mlp_generator(16, (2,), **relu), mlp_critic((2,), **relu)
    model = GAN(*networks, 16, ema_decay=0.999, seed=0, **options)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, 6000)
    model.compile(keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99), steps_per_execution=100)
    model.fit(ring(256 * 400), batch_size=256, epochs=15, verbose=0)
    return ops.convert_to_numpy(model.sample(10_000, seed=1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_gan_with_r1_finds_all_eight_modes():
    reference = ring(10_000, seed=99)
    samples = trained_on_the_ring(r1_weight=0.1)
    shares = mode_shares(samples, ring_centres(), 0.5)
    assert shares.min() >= 0.09
    distance = sliced_wasserstein(samples, reference)
    assert distance <= 0.05
    assert distance <= sliced_wasserstein(trained_on_the_ring(), reference) / 3
