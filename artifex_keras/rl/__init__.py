"""Fine-tuning by examples, rewards and preferences: policies of tokens and of denoising steps."""

from artifex_keras.rl.distillation import Distillation
from artifex_keras.rl.dpo import DPO
from artifex_keras.rl.grpo import GRPO
from artifex_keras.rl.kto import KTO
from artifex_keras.rl.ppo import PPO
from artifex_keras.rl.process_reward_model import ProcessRewardModel
from artifex_keras.rl.ready_rewards import (
    exact_match,
    format_match,
    gsm8k_answer,
    math_answer,
    overlong_penalty,
)
from artifex_keras.rl.reinforce import REINFORCE, RLOO
from artifex_keras.rl.reward_model import RewardModel
from artifex_keras.rl.rewards import traceable
from artifex_keras.rl.sft import SFT
from artifex_keras.rl.tools import ToolEnvironment

__all__ = [
    "DPO",
    "Distillation",
    "GRPO",
    "KTO",
    "PPO",
    "ProcessRewardModel",
    "REINFORCE",
    "RLOO",
    "RewardModel",
    "SFT",
    "ToolEnvironment",
    "exact_match",
    "format_match",
    "gsm8k_answer",
    "math_answer",
    "overlong_penalty",
    "traceable",
]
