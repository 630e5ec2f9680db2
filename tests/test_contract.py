"""The names, arguments and results that users and other packages rely on, to the letter."""

import inspect

import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras import rl
from artifex_keras.callbacks import (
    BaseCallback,
    CheckpointCallback,
    EarlyStoppingCallback,
    LoggingCallback,
    ProfilingCallback,
    VisualizationCallback,
)
from artifex_keras.objectives import advantages, adversarial, elbo, policy, preference, tokens
from artifex_keras.samplers.noise_schedules import NoiseSchedule

REQUIRED = inspect.Parameter.empty
# name: (function or class, the positional arguments, {keyword argument: default})
SIGNATURES = {
    "VAE": (
        ak.VAE,
        "encoder decoder",
        {"reconstruction": "mse", "beta": 1.0, "kl_annealing": "none", "kl_warmup_steps": 0,
         "cyclical_period": None, "free_bits": 0.0, "seed": None},
    ),
    "GAN": (
        ak.GAN,
        "generator discriminator latent_dim",
        {"loss_type": "vanilla", "d_steps": 1, "gp_weight": 0.0, "r1_weight": 0.0, "r1_every": 1,
         "label_smoothing": 0.0, "ema_decay": None, "seed": None},
    ),
    "Diffusion": (
        ak.Diffusion,
        "network",
        {"noise_schedule": "cosine", "num_timesteps": 1000, "prediction_type": "epsilon",
         "timestep_sampling": "uniform", "loss_weighting": "uniform", "snr_gamma": 5.0,
         "ema_decay": 0.9999, "condition_dropout": 0.1, "input_shape": None, "seed": None},
    ),
    "NormalizingFlow": (
        ak.NormalizingFlow, "bijection", {"base": "normal", "dequantize": None, "seed": None}
    ),
    "FlowMatching": (
        ak.FlowMatching,
        "network",
        {"path": "linear", "time_sampling": "uniform", "ema_decay": None, "input_shape": None,
         "seed": None},
    ),
    "EnergyModel": (
        ak.EnergyModel,
        "energy",
        {"mcmc_steps": 20, "step_size": 0.01, "noise_scale": None, "gradient_clipping": None,
         "replay_buffer_size": 10000, "replay_buffer_init_prob": 0.95, "sigmas": 0.1,
         "energy_regularization": 0.0, "gradient_penalty_weight": 0.0, "input_shape": None,
         "seed": None},
    ),
    "Autoregressive": (
        ak.Autoregressive,
        "network",
        {"pad_token_id": None, "ignore_index": -100, "label_smoothing": 0.0, "z_loss": 0.0,
         "scheduled_sampling": "none", "seed": None},
    ),
    "DPO": (
        rl.DPO,
        "policy reference",
        {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0, "reference_free": False,
         "simpo_gamma": 0.5},
    ),
    "RewardModel": (
        rl.RewardModel, "backbone", {"centering": 0.0, "tokenizer": None, "seed": None},
    ),
    "Distillation": (
        rl.Distillation,
        "student teacher",
        {"beta": 0.5, "on_policy": 1.0, "temperature": 1.0, "top_k": None, "max_new_tokens": None,
         "tokenizer": None, "seed": None},
    ),
    "REINFORCE": (
        rl.REINFORCE,
        "policy reward_fn",
        {"max_new_tokens": None, "baseline": "batch", "entropy_coeff": 0.0, "kl_coeff": 0.0,
         "gamma": 1.0, "num_generations": 1},
    ),
    "PPO": (
        rl.PPO,
        "policy reward_fn",
        {"value": None, "max_new_tokens": None, "clip_param": 0.2, "value_clip": 0.2,
         "vf_coeff": 0.5, "gamma": 1.0, "gae_lambda": 0.95, "entropy_coeff": 0.0,
         "kl_coeff": 0.05, "target_kl": None, "num_epochs": 4, "num_minibatches": 1},
    ),
    "GRPO": (
        rl.GRPO,
        "policy reward_fn",
        {"num_generations": 8, "max_new_tokens": None, "temperature": 1.0, "clip_param": 0.2,
         "clip_high": None, "beta": 0.0, "kl_in": "loss", "loss_type": "grpo",
         "scale_rewards": True, "num_iterations": 1},
    ),
    "Trainer": (
        ak.Trainer,
        "model config train_dataset val_dataset",
        {"callbacks": None, "gradient_accumulation_steps": 1, "mixed_precision": False,
         "tracking": None, "distribution": None},
    ),
    "CheckpointCallback": (
        CheckpointCallback,
        "save_dir",
        {"save_every_n_epochs": 1, "save_every_n_steps": None, "save_best": False,
         "metric": "val_loss", "mode": "auto", "max_to_keep": 5, "resume": "never"},
    ),
    "create_optimizer": (
        ak.create_optimizer,
        "optimizer_type learning_rate",
        {"gradient_clip_norm": None, "ema_decay": None, "gradient_accumulation_steps": None},
    ),
    "create_scheduler": (ak.create_scheduler, "scheduler_type learning_rate warmup_steps", {}),
    "frechet_distance": (ak.metrics.frechet_distance, "real generated", {}),
    "kernel_distance": (
        ak.metrics.kernel_distance,
        "real generated",
        {"subset_size": 1000, "num_subsets": 100, "seed": None},
    ),
    "precision_recall": (ak.metrics.precision_recall, "real generated", {"k": 3}),
    "density_coverage": (ak.metrics.density_coverage, "real generated", {"k": 5}),
    "sliced_wasserstein": (
        ak.metrics.sliced_wasserstein, "a b", {"num_projections": 128, "seed": None}
    ),
    "mmd": (ak.metrics.mmd, "a b", {"bandwidth": None}),
    "classifier_two_sample": (ak.metrics.classifier_two_sample, "a b", {"seed": None}),
    "nearest_training": (ak.metrics.nearest_training, "generated train held_out", {}),
    "mode_coverage": (ak.metrics.mode_coverage, "samples centres radius", {}),
    "SampleMetricsCallback": (
        ak.callbacks.SampleMetricsCallback,
        "metrics data",
        {"features": None, "every_n_epochs": 1},
    ),
    "token_log_probs": (tokens.token_log_probs, "logits tokens temperature", {"temperature": 1.0}),
    "discounted_returns": (advantages.discounted_returns, "rewards mask gamma", {}),
    "gae": (advantages.gae, "rewards values mask gamma lam", {}),
    "whiten": (advantages.whiten, "x mask", {}),
    "group_relative": (
        advantages.group_relative,
        "rewards group_size scale epsilon",
        {"scale": "group", "epsilon": 1e-4},
    ),
    "leave_one_out": (advantages.leave_one_out, "rewards group_size", {}),
    "clipped_surrogate": (
        policy.clipped_surrogate,
        "log_probs old_log_probs advantages mask",
        {"clip_low": 0.2, "clip_high": None, "dual_clip": None, "level": "token",
         "reduction": "grpo", "max_length": None, "num_tokens": None, "kl": None,
         "kl_coeff": 0.0, "surrogate": "ppo", "weights": None},
    ),
    "kl_estimate": (
        policy.kl_estimate,
        "log_probs reference_log_probs estimator old_log_probs",
        {"old_log_probs": None},
    ),
    "value_loss": (policy.value_loss, "values old_values returns mask clip", {}),
    "preference_loss": (
        preference.preference_loss,
        "chosen rejected reference_chosen reference_rejected",
        {"loss_type": REQUIRED, "beta": REQUIRED, "label_smoothing": 0.0, "chosen_length": None,
         "rejected_length": None, "gamma": 0.0},
    ),
    "gaussian_kl": (elbo.gaussian_kl, "mean log_var", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    function, positional, keywords = SIGNATURES[name]
    parameters = inspect.signature(function).parameters
    assert list(parameters)[: len(positional.split())] == positional.split()
    for keyword, default in keywords.items():
        if keyword in parameters or default is not None:
            assert parameters[keyword].default == default, keyword


def test_a_gan_loss_is_a_pair():
    for name in ("vanilla", "wasserstein", "hinge", "lsgan"):
        critic, generator = adversarial.GAN_LOSSES[name]
        logits = np.zeros((4, 1), "float32")
        assert np.shape(ops.convert_to_numpy(critic(logits, logits))) == ()
        assert np.shape(ops.convert_to_numpy(generator(logits))) == ()


def test_a_noise_schedule():
    schedule = NoiseSchedule("linear", 10)
    x = np.ones((2, 3), "float32")
    assert np.shape(schedule.alphas_cumprod) == (10,)
    assert schedule.snr(np.array([0, 9])).shape == (2,)
    assert schedule.add_noise(x, x, np.array([0, 9])).shape == (2, 3)


def test_names_of_trainers_and_callbacks():
    trainers = "VAE GAN Diffusion Flow Energy Autoregressive DataParallel ModelParallel"
    algorithms = "DPO REINFORCE PPO GRPO RewardModel Distillation"
    for name in (trainers + " " + algorithms).split():
        assert issubclass(getattr(ak, f"{name}Trainer"), ak.Trainer)
    others = (EarlyStoppingCallback, LoggingCallback, ProfilingCallback, VisualizationCallback)
    assert all(issubclass(callback, BaseCallback) for callback in others)
