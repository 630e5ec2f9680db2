"""Rows from outside, by `register`: they compute what ours of the same formula do."""

import keras
import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras.objectives import advantages, adversarial, diffusion, elbo, flow
from artifex_keras.objectives.preference import preference_loss
from artifex_keras.rl.rollout import Rollout
from artifex_keras.samplers import coefficients, ode
from artifex_keras.samplers import diffusion as samplers
from artifex_keras.samplers.noise_levels import cosine_alphas
from artifex_keras.samplers.noise_schedules import NoiseSchedule


def vae(reconstruction):
    encoder, decoder = ak.networks.mlp_encoder(2, 2, (4,)), ak.networks.mlp_decoder(2, 2, (4,))
    return ak.VAE(encoder, decoder, reconstruction=reconstruction, seed=0)


def test_a_reconstruction_trains_and_is_saved_by_its_name(tmp_path):
    ak.register("reconstruction", "triple", lambda x, output: 3 * elbo.absolute_error(x, output))
    model, x = vae("triple"), np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    model.compile("sgd")
    found = model.fit(x, epochs=1, verbose=0).history["reconstruction_loss"][0]
    model.save(tmp_path / "mine.keras")
    loaded = keras.models.load_model(tmp_path / "mine.keras")
    assert loaded.reconstruction == "triple"
    assert found > 3.0  # three times a mean of |x - output| summed over two dimensions


def test_a_game_may_compare_generated_examples_with_real_ones():
    real, fake = np.array([1.0, 2.0]), np.array([0.5, 3.0])
    compare = adversarial.relativistic_generator
    ak.register("gan_loss", "paired", adversarial.relativistic_critic, compare)
    row = adversarial.GAN_LOSSES["paired"]
    assert row.generator.compares
    np.testing.assert_allclose(row.generator.per_example(fake, real), compare(fake, real))

    def generator(fake_logits, slope=2.0):  # whose second argument isn't the real logits
        return -slope * fake_logits

    ak.register("gan_loss", "slope", adversarial.hinge_critic, generator)
    row = adversarial.GAN_LOSSES["slope"]
    assert not row.generator.compares
    np.testing.assert_allclose(row.generator.per_example(fake, real), [-1.0, -6.0])
    networks = ak.networks.mlp_generator(2, 2, (4,)), ak.networks.mlp_critic(2, (4,))
    assert ak.GAN(*networks, 2, loss_type="slope").loss_type == "slope"


def test_a_preference_loss_is_given_the_reference():
    ak.register("preference_loss", "square", lambda a, b, beta: ops.square(beta * (a - b)))
    answers = np.array([[-1.0], [-2.0], [-3.0], [-2.0]])
    found = preference_loss(*answers, loss_type="square", beta=0.5)
    np.testing.assert_allclose(found, [1.0])  # .5 (2 - 0), squared


def test_weights_times_and_levels():
    ak.register("loss_weighting", "plain", lambda snr, gamma, sigma_data: 2 * snr)
    ak.register("timestep_sampling", "late", lambda u: u**0.5)
    ak.register("time_sampling", "late", lambda u: u**0.5)
    ak.register("noise_schedule", "bent", lambda num_timesteps: cosine_alphas(num_timesteps))
    weight = diffusion.loss_weight(np.array([0.1, 7.0]), "epsilon", "plain")
    np.testing.assert_allclose(weight, [2.0, 2.0], rtol=1e-6)  # the error of ε counts twice
    for times in (diffusion.times, flow.times):
        np.testing.assert_allclose(times(np.array([0.25]), "late"), [0.5])
    levels = [NoiseSchedule(name, 20).alphas_cumprod for name in ("bent", "cosine")]
    np.testing.assert_array_equal(*map(np.asarray, levels))
    options = {"loss_weighting": "plain", "timestep_sampling": "late", "noise_schedule": "bent"}
    ak.Diffusion(ak.networks.timed_mlp(2, units=(4,)), num_timesteps=20, **options)
    ak.FlowMatching(ak.networks.timed_mlp(2, units=(4,)), time_sampling="late")


def test_samplers_with_and_without_noise():
    def walk(denoise, x, schedule, timesteps, *, noise, clip=None):
        table = coefficients.ddpm_coefficients(schedule, timesteps)
        return samplers.run(table, denoise, x, noise=noise, clip=clip)

    def straight(denoise, x, schedule, timesteps, clip=None):
        return samplers.ddim(denoise, x, schedule, timesteps, clip=clip)

    ak.register("sampler", "walk", walk)
    ak.register("sampler", "straight", straight)
    assert samplers.SAMPLERS["walk"].stochastic
    assert not samplers.SAMPLERS["straight"].stochastic
    schedule, x = NoiseSchedule("cosine", 20), np.ones((2, 3), "float32")
    given = (lambda x, t: 0.5 * x, x, schedule, schedule.timesteps(3))
    found, wanted = (samplers.sample(*given, sampler=name) for name in ("straight", "ddim"))
    np.testing.assert_array_equal(ops.convert_to_numpy(found), ops.convert_to_numpy(wanted))


def test_a_solver_has_the_order_of_its_tableau():
    ak.register("solver", "ralston", ode.Tableau(((), (2 / 3,)), (1 / 4, 3 / 4), (0.0, 2 / 3)))
    found = ode.integrate(lambda x, t: x, np.ones((1, 1), "float32"), num_steps=1, solver="ralston")
    assert float(found[0, 0]) == pytest.approx(2.5)  # 1 + h + h²/2


def test_a_baseline_gives_the_advantages():
    def others(model, rewards, rollout):
        return advantages.leave_one_out(rewards, model.num_generations)

    ak.register("baseline", "others", others)
    policy = ak.networks.CausalTransformer(6, 6, num_layers=1, num_heads=1, width=4)
    model = ak.REINFORCE(policy, max_new_tokens=2, num_generations=3, baseline="others")
    experience, _ = model.experience(Rollout(*[None] * 4), ops.array([0.0, 1.0, 2.0]), None)
    np.testing.assert_allclose(ops.convert_to_numpy(experience.advantages), [-1.5, 0.0, 1.5])


def test_the_same_name_again_replaces_the_row():
    ak.register("time_sampling", "mine", lambda u: u)
    ak.register("time_sampling", "mine", lambda u: 1 - u)
    np.testing.assert_allclose(flow.times(np.array([0.25]), "mine"), [0.75])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("loss", "mine", elbo.squared_error), "Unknown kind of row 'loss'.*preference_loss"),
        (("reconstruction", "mse", elbo.squared_error), "`name` must be a name that no reconstr"),
        (("reconstruction", 3, elbo.squared_error), "`name` must be a text"),
        (("reconstruction", " ", elbo.squared_error), "a text in one line, without spaces at"),
        (("reconstruction", "a\nb", elbo.squared_error), "a text in one line, without spaces at"),
        (("reconstruction", None, elbo.squared_error), "`name` must be a text"),
        ((["reconstruction"], "mine", elbo.squared_error), "Unknown kind.*Did you mean 'reconst"),
        (("mine", "reconstruction", elbo.squared_error), "Unknown kind of row 'mine'"),
        (("reconstruction", "mine", dict), "`nll` must be a function of Python"),
        (("reconstruction", "mine", lambda: 0), r"of \(\) \(too many positional arguments\)"),
        (("reconstruction", "mine", None), "`nll` must be a function, called as nll"),
        (("gan_loss", "mine", elbo.squared_error), "made of critic.* and generator.*: 1 argument"),
        (("reconstruction", "mine", "mse"), "`nll` must be a function, called as nll"),
        (("baseline", "mine", lambda rewards: rewards), r"called as advantages\(model, rewards"),
        (("sampler", "mine", lambda denoise, x, schedule, timesteps: x), "unexpected.*'clip'"),
        (("solver", "mine", "rk4"), "`tableau` must be a `samplers.ode.Tableau`"),
        (("solver", "mine", ode.Tableau(((),), (0.5,), (0.0,))), "whose `b` sums to 1"),
        (("solver", "mine", ode.Tableau(((), (0.5,)), (0.0, 1.0), (0.0, 1.0))), "sum to c"),
    ],
)
def test_what_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        ak.register(*row)


def test_a_name_that_was_not_registered_is_answered_with_the_choices():
    with pytest.raises(ValueError, match="Unknown reconstruction 'triple'.*Choices: bce"):
        vae("triple")


@pytest.mark.parametrize(
    ("nll", "received"),
    [
        (lambda x, output: ops.mean(ops.square(x - output)), r"shape \(\)"),
        (lambda x, output: ops.square(x - output), r"shape \(3, 2\)"),
        (lambda x, output: None, "NoneType"),
    ],
)
def test_a_reconstruction_gives_a_number_per_example(nll, received):
    ak.register("reconstruction", "careless", nll)
    model = vae("careless")
    model.compile("sgd")
    with pytest.raises(ValueError, match=rf"one number per example.*Received: {received}"):
        model.train_on_batch(np.zeros((3, 2), "float32"))
