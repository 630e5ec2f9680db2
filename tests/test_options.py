"""One law for all options of all families and algorithms: set one, and a model trains as one that
was made with it."""

import dataclasses

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES, levels
from fresh import variables

from artifex_keras import backend, models, rl

ROWS = {row.name: row for row in (*FAMILIES, *ALGORITHMS)}
ROWS["flow-levels"] = dataclasses.replace(ROWS["flow"], data=lambda n: levels(n, count=2))


class Refused:
    """A value that can't be set, and what the error says."""

    def __init__(self, value, why):
        self.value, self.why = value, why


# By class: a row, and for each option another value, and what else the model is made with.
CASES = {
    models.VAE: (
        "vae",
        {
            "reconstruction": ("mae",),
            "beta": (3.0,),
            "kl_annealing": ("sigmoid", {"kl_annealing": "linear", "kl_warmup_steps": 5}),
            "kl_warmup_steps": (9, {"kl_annealing": "linear", "kl_warmup_steps": 5}),
            "cyclical_period": (3, {"kl_annealing": "cyclical", "cyclical_period": 8}),
            "free_bits": (0.4,),
            "variance": (0.5, {"reconstruction": "gaussian", "variance": 0.2}),
            "num_importance_samples": (3,),
            "capacity": (2.0,),
            "capacity_steps": (9, {"capacity": 2.0, "capacity_steps": 3}),
            "tc_weight": (6.0, {"tc_weight": 2.0, "dataset_size": 48}),
            "dataset_size": (96, {"tc_weight": 2.0, "dataset_size": 48}),
        },
    ),
    models.GAN: (
        "gan",
        {
            "latent_dim": (Refused(5, "code"),),
            "loss_type": ("hinge",),
            "d_steps": (2,),
            "gp_weight": (5.0,),
            "r1_weight": (2.0,),
            "r2_weight": (2.0,),
            "r1_every": (Refused(2, "before `compile`"), {"r1_weight": 1.0}),
            "label_smoothing": (0.2,),
            "lecam_weight": (0.3, {"lecam_weight": 0.1, "lecam_warmup": 1}),
            "lecam_decay": (0.5, {"lecam_weight": 1.0, "lecam_warmup": 1}),
            "lecam_warmup": (3, {"lecam_weight": 1.0, "lecam_warmup": 1}),
        },
    ),
    models.Diffusion: (
        "diffusion-conditional",
        {
            "noise_schedule": ("linear",),
            "num_timesteps": (30,),
            "prediction_type": ("x_start",),
            "timestep_sampling": ("mode",),
            "loss_weighting": ("snr",),
            "snr_gamma": (1.0,),
            "condition_dropout": (0.9,),
            "null_label": (1, {"condition_dropout": 0.0}),
            "zero_terminal_snr": (True,),
            "sigma_data": (0.3, {"loss_weighting": "edm"}),
        },
    ),
    models.FlowMatching: (
        "flow-matching-conditional",
        {
            "path": ("vp",),
            "time_sampling": ("u_shaped",),
            "sigma": (0.4,),
            "bridge": (False,),
            "coupling": ("independent",),
            "condition_dropout": (0.9,),
            "null_label": (1, {"condition_dropout": 0.0}),
        },
    ),
    models.NormalizingFlow: (
        "flow-levels",
        {
            "base": ("logistic",),
            "dequantize": (4, {"dequantize": 2}),
            "unit_interval": (True, {"dequantize": 3}),
        },
    ),
    models.EnergyModel: (
        "energy-jem",
        {
            "training_method": ("sliced_score_matching",),
            "mcmc_steps": (5,),
            "step_size": (0.4,),
            "noise_scale": (0.9, {"noise_scale": 0.1}),
            "gradient_clipping": (0.01, {"gradient_clipping": 0.5}),
            "replay_buffer_size": (
                Refused(32, "make a new model"),
                {"training_method": "pcd", "replay_buffer_size": 64},
            ),
            "replay_buffer_init_prob": (0.1, {"training_method": "pcd"}),
            "sigmas": (0.7, {"training_method": "denoising_score_matching"}),
            "energy_regularization": (0.5,),
            "gradient_penalty_weight": (0.5,),
            "sampler": ("mala",),
            "leapfrog_steps": (3, {"sampler": "hmc"}),
            "data_noise": (0.3,),
            "value_range": ((-0.5, 1.5),),
            "num_classes": (Refused(5, "logit for each class"),),
            "generative_weight": (3.0,),
            "divergence_threshold": (1e3,),
            "input_shape": (Refused((7,), "as for the network"),),
        },
    ),
    models.Autoregressive: (
        "autoregressive",
        {
            "pad_token_id": (5,),
            "ignore_index": (-1,),
            "label_smoothing": (0.4,),
            "z_loss": (0.5,),
            "scheduled_sampling": ("exponential", {"scheduled_sampling_steps": 2}),
            "scheduled_sampling_steps": (2, {"scheduled_sampling_steps": 9}),
            "start_token_id": (1,),
            "chunk_size": (None,),
        },
    ),
    models.PixelAutoregressive: (
        "pixel",
        {"likelihood": (Refused("categorical", "num_levels=9"),), "num_levels": (5,)},
    ),
}
ON_POLICY = {
    "reward_weights": ([2.0],),
    "reward_timeout": (60.0,),
    "reward_retries": (2,),
    "asynchronous_rewards": (True, {"importance_cap": 5.0}),
    "max_turns": (Refused(3, "is for an `environment`"),),
    "num_generations": (2,),
    "max_new_tokens": (2,),
    "max_prompt_length": (2,),
    "temperature": (3.0,),
    "end_token_id": (7,),
    "pad_token_id": (4,),
    "sampling": (Refused({"num_steps": 3}, "num_steps"),),
    "rollout_dtype": ("bfloat16",),
    "reference_sync_steps": (1, {"reference_sync_steps": 2}),
    "reference_mixup": (0.9, {"reference_sync_steps": 1, "reference_mixup": 0.1}),
    "mask_truncated": (True,),
    "chunk_size": (None,),
}
UPDATES = {"num_minibatches": (2,), "target_kl": (1e-4, {"num_minibatches": 2, "target_kl": 1.0})}
CASES |= {
    rl.GRPO: (
        "grpo",
        ON_POLICY
        | UPDATES
        | {
            "clip_param": (1e-3, {"num_iterations": 2}),
            "clip_high": (1e-3, {"num_iterations": 2, "clip_high": 0.3}),
            "beta": (5.0,),
            "kl_estimator": ("k2",),
            "kl_in": ("reward",),
            "loss_type": ("dr_grpo",),
            "scale_rewards": (False,),
            "num_iterations": (2,),
            "level": ("sequence",),
            "dual_clip": (1.01, {"num_iterations": 2, "dual_clip": 3.0}),
            "advantage_clip": (0.1, {"advantage_clip": 5.0}),
            "importance_cap": (0.5, {"importance_cap": 5.0}),
            "oversample": (4.0, {"oversample": 2.0}),
            "replay_buffer_size": (
                Refused(2, "make a new model"),
                {"importance_cap": 5.0, "max_prompt_length": 8},
            ),
        },
    ),
    rl.PPO: (
        "ppo",
        ON_POLICY
        | {
            "reward_timeout": (Refused(60.0, "Python rewards"),),
            "reward_retries": (Refused(2, "Python rewards"),),
            "asynchronous_rewards": (Refused(True, "needs a Python reward"),),
            "num_minibatches": (4,),
            "target_kl": (1e-4, {"target_kl": 1.0}),
            "clip_param": (1e-3,),
            "value_clip": (1e-4,),
            "vf_coeff": (3.0,),
            "kl_coeff": (2.0, {"kl_target": None}),
            "gamma": (0.5,),
            "gae_lambda": (0.2,),
            "entropy_coeff": (2.0,),
            "kl_target": (1e-3,),
            "kl_horizon": (20.0,),
            "num_epochs": (2,),
        },
    ),
    rl.REINFORCE: (
        "reinforce",
        ON_POLICY
        | {
            "kl_coeff": (3.0,),
            "baseline": ("greedy",),
            "entropy_coeff": (2.0,),
            "gamma": (0.3,),
            "baseline_decay": (0.1,),
            "importance_cap": (0.5, {"importance_cap": 5.0}),
        },
    ),
    rl.DPO: (
        "dpo",
        {
            "beta": (2.0,),
            "loss_type": ("hinge",),
            "label_smoothing": (0.3,),
            "reference_free": (Refused(True, "`reference` would not be looked at"),),
            "simpo_gamma": (3.0, {"loss_type": "simpo"}),
            "end_token_id": (7,),
            "pad_token_id": (4,),
            "max_length": (4,),
            "sampling": (Refused({"num_steps": 3}, "num_steps"),),
            "chunk_size": (None,),
        },
    ),
    rl.SFT: (
        "sft",
        {
            "assistant_only": (False,),
            "packing": (Refused("best_fit", "keeps the texts in a row apart"),),
            "max_length": (4,),
            "chunk_size": (None,),
            "end_token_id": (7,),
            "pad_token_id": (4,),
        },
    ),
    rl.KTO: (
        "kto",
        {
            "beta": (2.0,),
            "desirable_weight": (3.0,),
            "undesirable_weight": (3.0,),
            "end_token_id": (7,),
            "pad_token_id": (4,),
            "max_length": (4,),
            "chunk_size": (None,),
        },
    ),
    rl.RewardModel: (
        "reward-model",
        {
            "centering": (0.7,),
            "end_token_id": (7,),
            "pad_token_id": (4,),
            "max_length": (4,),
        },
    ),
    rl.ProcessRewardModel: (
        "process-reward-model",
        {
            "separator_token_id": (Refused(5, "separator"),),
            "reduction": ("product",),
            "pad_token_id": (4,),
        },
    ),
    rl.Distillation: (
        "distillation",
        {
            "beta": (1.0,),
            "on_policy": (0.0,),
            "temperature": (2.0,),
            "top_k": (3,),
            "max_new_tokens": (2,),
            "max_prompt_length": (3,),
            "end_token_id": (7,),
            "pad_token_id": (4,),
            "sampling": (Refused({"num_steps": 3}, "num_steps"),),
            "rollout_dtype": ("bfloat16",),
            "chunk_size": (None,),
        },
    ),
}


def case(cls, option):
    """The row, the other value and the further options of a case."""
    name, cases = CASES[cls]
    value, *context = cases[option]
    return ROWS[name], value, context[0] if context else {}


def refused(cls, option):
    return isinstance(case(cls, option)[1], Refused)


QUICK = {(models.GAN, "d_steps"), (models.Diffusion, "loss_weighting"), (rl.DPO, "loss_type")}
ALL = [
    pytest.param(
        cls,
        option,
        id=f"{cls.__name__}-{option}",
        marks=() if (cls, option) in QUICK or refused(cls, option) else pytest.mark.slow,
    )
    for cls, (_, cases) in CASES.items()
    for option in cases
]


def trained(model, row):
    """The numbers of an epoch: the history, and the weights after it."""
    keras.utils.set_random_seed(0)
    history = model.fit(*row.arrays(16), batch_size=8, epochs=1, shuffle=False, verbose=0).history
    weights = [np.array(w) for w in model.trainable_weights]
    return history, weights


def made(row, **options):
    model = row.make(**options)
    model.compile(keras.optimizers.Adam(0.05))
    data = row.arrays(8)
    model.build_from_batch(lambda: data)
    model.build_optimizer()
    return model, [(v, np.array(v)) for v in variables(model)]


def check_equal(one, other):
    assert one[0].keys() == other[0].keys()
    for name in one[0]:
        np.testing.assert_allclose(one[0][name], other[0][name], rtol=2e-5, atol=1e-6, err_msg=name)
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def back(model, start):
    """Gives variables the values that the model began with; those that came later stay."""
    for variable, value in start:
        variable.assign(value.copy())


def test_no_option_lacks_a_case():
    for cls, (_, cases) in CASES.items():
        assert {*cls.options} - {"ema_decay", "seed"} == {*cases}, cls
    public = {getattr(part, name) for part in (models, rl) for name in part.__all__}
    public = {c for c in public if isinstance(c, type) and issubclass(c, models.GenerativeModel)}
    named = {models.GenerativeModel, rl.RLOO}  # which is a REINFORCE, with its options
    assert public - named == {*CASES}


@pytest.mark.parametrize("cls, option", ALL)
def test_a_model_whose_option_is_set_trains_as_one_made_so(cls, option):
    row, value, context = case(cls, option)
    if isinstance(value, Refused):
        model, _ = made(row, **context)
        before = getattr(model, option)
        with pytest.raises(ValueError, match=value.why):
            setattr(model, option, value.value)
        assert getattr(model, option) == before
        return
    model, start = made(row, **context)
    trained(model, row)
    setattr(model, option, value)
    back(model, start)
    check_equal(trained(model, row), trained(made(row, **context | {option: value})[0], row))


def test_ema_decay_and_seed_are_options_like_the_others():
    row = ROWS["vae"]
    model, start = made(row)
    trained(model, row)
    back(model, start)
    model.ema_decay = 0.5
    expected, _ = made(row, ema_decay=0.5)
    check_equal(trained(model, row), trained(expected, row))
    np.testing.assert_allclose(model.sample(3, seed=1), expected.sample(3, seed=1), rtol=1e-4)
    model.ema_decay = 0.9
    with pytest.raises(ValueError, match="make a new model"):
        model.ema_decay = None
    draws = []
    for seed in (7, 8, 7):
        model.seed = seed
        draws.append(np.array(model.sample(3)))
    np.testing.assert_array_equal(draws[0], draws[2])
    assert not np.allclose(draws[0], draws[1])


# In the middle of `fit`

LIVE = [
    pytest.param(
        cls,
        id=cls.__name__,
        marks=() if cls in (models.VAE, rl.DPO) else pytest.mark.slow,
    )
    for cls in CASES
    if set(cls.live_options) - {"ema_decay"}
]
START = {"dual_clip": 3.0, "value_clip": 0.2, "target_kl": 1.0, "simpo_gamma": 0.5}
# What makes the live options of a class all be in use at once, as far as they go together.
IN_USE = {
    models.VAE: {"free_bits": 0.1},
    models.GAN: {"gp_weight": 1.0, "r1_weight": 1.0, "r2_weight": 1.0, "lecam_weight": 0.1,
                 "lecam_warmup": 1, "label_smoothing": 0.1},
    models.Diffusion: {"loss_weighting": "min_snr"},
    models.EnergyModel: {"training_method": "pcd", "gradient_penalty_weight": 0.1,
                         "energy_regularization": 0.1, "data_noise": 0.1, "noise_scale": 0.2,
                         "gradient_clipping": 0.1, "replay_buffer_size": 64},
    models.Autoregressive: {"label_smoothing": 0.1, "z_loss": 0.1},
    rl.GRPO: {"num_iterations": 2, "clip_high": 0.3, "dual_clip": 3.0, "advantage_clip": 5.0,
              "reference_sync_steps": 1, "reference_mixup": 0.1, "target_kl": 1.0},
    rl.PPO: {"target_kl": 1.0, "entropy_coeff": 0.1, "reference_sync_steps": 1},
    rl.REINFORCE: {"entropy_coeff": 0.1, "reference_sync_steps": 1},
    rl.DPO: {"label_smoothing": 0.1},
}  # fmt: skip


class Moving(keras.callbacks.Callback):
    """Sets options at the beginning of an epoch."""

    def __init__(self, epoch, values):
        super().__init__()
        self.epoch, self.values = epoch, values

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            for name, value in self.values.items():
                setattr(self.model, name, value)


@pytest.mark.parametrize("cls", LIVE)
def test_a_callback_moves_live_options_without_a_new_trace(cls, monkeypatch):
    name, cases = CASES[cls]
    row = ROWS[name]
    model, start = made(row, **IN_USE.get(cls, {}))
    values = {n: cases[n][0] for n in cls.live_options if n in cases and getattr(model, n)}
    first = {n: getattr(model, n) for n in values}
    assert values, cls
    assert all(type(number) is float for number in first.values())
    traces = count_traces(monkeypatch, model)
    x = row.arrays(16)
    common = {"batch_size": 8, "shuffle": False, "verbose": 0}
    keras.utils.set_random_seed(0)
    moved = model.fit(*x, epochs=2, callbacks=[Moving(1, values)], **common).history
    weights = [np.array(w) for w in model.trainable_weights]
    count = len(traces)
    model.set_options(**first)
    back(model, start)
    keras.utils.set_random_seed(0)
    apart = [model.fit(*x, epochs=1, **common).history]
    model.set_options(**values)
    apart += [model.fit(*x, initial_epoch=1, epochs=2, **common).history]
    assert len(traces) == count or backend.name() == "torch"
    for key, (one, two) in moved.items():
        np.testing.assert_array_equal([one, two], [apart[0][key][0], apart[1][key][0]])
    for one, other in zip(weights, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    model.set_options(**first)
    back(model, start)
    keras.utils.set_random_seed(0)
    unmoved = model.fit(*x, epochs=2, **common).history
    assert unmoved["loss"][1] != moved["loss"][1]


def count_traces(monkeypatch, model):
    """A list that grows each time the training step is traced."""
    traces = []
    for method in ("train_on", "finish_on"):
        if hasattr(type(model), method):
            original = getattr(type(model), method)

            def counting(self, *args, original=original, **kwargs):
                traces.append(1)
                return original(self, *args, **kwargs)

            monkeypatch.setattr(type(model), method, counting)
    return traces


def test_what_is_not_live_is_refused_in_the_middle_of_fit():
    row = ROWS["vae"]
    model, _ = made(row)
    with pytest.raises(RuntimeError, match="between two fits.*beta"):
        model.fit(
            *row.arrays(16), batch_size=8, epochs=2, verbose=0,
            callbacks=[Moving(1, {"reconstruction": "mae"})],
        )  # fmt: skip
    assert model.reconstruction == "mse"
    trained(model, row)


def test_a_term_that_comes_into_use_in_the_middle_of_fit_is_compiled():
    row = ROWS["vae"]
    model, start = made(row)
    common = {"batch_size": 8, "shuffle": False, "verbose": 0}
    keras.utils.set_random_seed(0)
    moved = model.fit(
        *row.arrays(16), epochs=2, callbacks=[Moving(1, {"free_bits": 0.7})], **common
    )
    expected, _ = made(row)
    keras.utils.set_random_seed(0)
    expected.fit(*row.arrays(16), epochs=1, **common)
    expected.free_bits = 0.7
    apart = expected.fit(*row.arrays(16), initial_epoch=1, epochs=2, **common)
    np.testing.assert_allclose(moved.history["loss"][1], apart.history["loss"][0], rtol=1e-6)


def test_fused_steps_are_given_live_options():
    row = ROWS["vae"]
    model = row.make()
    model.compile(keras.optimizers.Adam(0.05), steps_per_execution=2)
    single, _ = made(row)
    for each in (model, single):
        trained(each, row)
        each.beta = 9.0
    check_equal(trained(model, row), trained(single, row))


# Errors, files


def test_an_option_is_checked_when_it_is_set():
    gan, vae = ROWS["gan"].make(), ROWS["vae"].make()
    with pytest.raises(ValueError, match="Unknown GAN loss 'nonsense'"):
        gan.loss_type = "nonsense"
    with pytest.raises(ValueError, match="Did you mean 'wasserstein'"):
        gan.loss_type = "waserstein"
    with pytest.raises(ValueError, match="`d_steps` must be an integer of at least 1"):
        gan.d_steps = 1.5
    with pytest.raises(ValueError, match="`beta` must be at least 0"):
        vae.beta = -1
    with pytest.raises(ValueError, match="go together"):
        vae.tc_weight = 2.0
    vae.set_options(tc_weight=2.0, dataset_size=48)
    assert (vae.tc_weight, vae.dataset_size) == (2.0, 48)
    assert (gan.loss_type, gan.d_steps, vae.beta) == ("vanilla", 1, 1.0)


def test_files_keep_the_present_values_and_no_other_weights(tmp_path):
    model, _ = made(ROWS["vae"])
    count = len(model.weights)
    trained(model, ROWS["vae"])
    model.beta, model.reconstruction = 0.1, "mae"
    assert len(model.weights) == count
    model.save(tmp_path / "vae.keras")
    loaded = keras.saving.load_model(tmp_path / "vae.keras")
    assert (loaded.beta, loaded.reconstruction) == (0.1, "mae")
    check_equal(trained(loaded, ROWS["vae"]), trained(model, ROWS["vae"]))


def test_a_subclass_of_somebody_elses_keeps_the_law():
    @keras.saving.register_keras_serializable(package="tests")
    class Heavier(models.VAE):
        options = (*models.VAE.options, "factor")

        def __init__(self, encoder, decoder, factor=1.0, **kwargs):
            super().__init__(encoder, decoder, **kwargs)
            self.factor = factor

        def objective(self, batch, training):
            terms = super().objective(batch, training)
            return terms | {"loss": self.factor * terms["loss"]}

    plain = ROWS["vae"].make()
    model = Heavier(plain.encoder, plain.decoder, seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    before = trained(model, ROWS["vae"])[0]["loss"]
    model.factor, model.reconstruction = 2.0, "mse"
    model.reseed(0)
    np.testing.assert_allclose(trained(model, ROWS["vae"])[0]["loss"], 2 * before[0], rtol=1e-5)
    with pytest.raises(ValueError, match="Unknown reconstruction"):
        model.reconstruction = "mze"
