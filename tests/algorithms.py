"""A row for each algorithm of `rl`, made like those of `families`: by it the algorithm inherits the
tests of what knows nothing of algorithms.

Policies have 13 ids: 0 pads, 1 and 2 end a completion, 3 to 12 are digits. Most look at the last id
alone, as what is compiled for a transformer takes long.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from artifex_keras.networks import CausalTransformer
from artifex_keras.rl import (
    DPO,
    GRPO,
    KTO,
    PPO,
    REINFORCE,
    SFT,
    Distillation,
    ProcessRewardModel,
    RewardModel,
    traceable,
)

PAD, ENDS, SEVEN = 0, (1, 2), 10
register = keras.saving.register_keras_serializable(package="tests")


def network(seed=0, **options):
    """A policy, its weights larger than they come, so that it prefers some tokens."""
    keras.utils.set_random_seed(seed)
    sizes = {"num_layers": 1, "num_heads": 2, "width": 16}
    made = CausalTransformer(13, 24, **{**sizes, **options})
    for weight in made.trainable_weights:
        if len(weight.shape) == 2:
            weight.assign(3 * weight)
    return made


def bigrams(seed=0, width=8):
    """A policy that looks at the last id alone."""
    keras.utils.set_random_seed(seed)
    entry = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(13, width, "random_normal", name="bigrams_in")(entry)
    return keras.Model(entry, keras.layers.Dense(13, name="bigrams_out")(hidden), name="bigrams")


@register
def sevens(prompts, completions, **columns):
    """The share of sevens, on the host."""
    return [np.float32(sum(t == SEVEN for t in row)) / np.float32(len(row)) for row in completions]


@traceable
@register
def traced_sevens(prompts, completions, completion_mask):
    """The share of sevens, on the device."""
    found = ops.cast(completions == SEVEN, "float32") * completion_mask
    return ops.sum(found, axis=1) / ops.sum(completion_mask, axis=1)


def prompts(rows, lengths=(1, 2, 3)):
    """Prompts of several lengths as a dict of arrays."""
    ids = np.random.default_rng(5).integers(3, 13, (rows, max(lengths))).astype("int32")
    length = np.resize(lengths, rows).astype("int32")
    ids[np.arange(ids.shape[1]) >= length[:, None]] = PAD
    return {"prompt": ids, "prompt_length": length}


def answers(rows, width=6, seed=6):
    """`(ids, mask)`, (rows, width): prompts of 1 to 2 ids with completions of 1 to 3."""
    random = np.random.default_rng(seed)
    ids = random.integers(3, 13, (rows, width)).astype("int32")
    begin = np.arange(rows) % 2 + 1
    end = begin + random.integers(1, 4, rows)
    places = np.arange(width)
    mask = (places >= begin[:, None]) & (places < end[:, None])
    ids[places >= end[:, None]] = PAD
    return ids, mask.astype("float32")


def pairs(rows):
    """Pairs for `DPO`, whose prompts are the same."""
    chosen, chosen_mask = answers(rows)
    rejected, rejected_mask = answers(rows, seed=7)
    before = np.arange(chosen.shape[1]) < (np.arange(rows) % 2 + 1)[:, None]
    rejected = np.where(before, chosen, rejected)
    return {
        "chosen": chosen,
        "chosen_mask": chosen_mask,
        "rejected": rejected,
        "rejected_mask": rejected_mask,
    }


def judged(rows):
    """Answers for `KTO`, every other one good."""
    tokens, mask = answers(rows)
    return {"tokens": tokens, "tokens_mask": mask, "label": np.arange(rows) % 2 == 0}


def steps(rows):
    """Answers for `ProcessRewardModel`: a step ends at the first token that counts, and is wrong in
    every fourth row. If half of them were, a bigram model would have nothing to learn."""
    tokens, mask = answers(rows)
    mask = mask * (np.cumsum(mask, axis=1) == 1)
    label = mask * (np.arange(rows) % 4 > 0)[:, None]
    return {"tokens": np.where(mask > 0, SEVEN, tokens), "tokens_mask": mask, "label": label}


def process_reward_model(policy, end_token_id=None, **options):
    """A model whose steps end at `SEVEN`, whatever ends a text."""
    return ProcessRewardModel(policy, **{"separator_token_id": SEVEN, **options})


def taught(rows):
    """Prompts for `Distillation`, with completions of the data's."""
    ids, mask = answers(rows)
    return prompts(rows) | {"completion": ids, "completion_mask": np.maximum(mask, ids == SEVEN)}


def distillation(policy, **options):
    """A student with a teacher of other weights."""
    return Distillation(policy, network(1), **options)


def examples(rows):
    """Answers for `SFT`."""
    tokens, mask = answers(rows)
    return {"tokens": tokens, "mask": mask}


@dataclass(frozen=True, eq=False)
class Algorithm:
    """One way to set an algorithm up: what `families.Family` is for families."""

    name: str
    type: Callable
    data: Callable
    options: dict
    samples: bool = True  # whether it learns from completions of its own
    policy: Callable = bigrams

    def make(self, seed=0, policy=None, **options):
        policy = self.policy(seed) if policy is None else policy
        common = {"max_new_tokens": 4, "num_generations": 4} if self.samples else {}
        ends = {"end_token_id": list(ENDS), "pad_token_id": PAD}
        return self.type(policy, **{"seed": seed, **ends, **common, **self.options, **options})

    def arrays(self, rows=48):
        """What `fit` takes, as a tuple."""
        return (self.data(rows),)


ALGORITHMS = [
    Algorithm("grpo", GRPO, prompts, {"reward_fn": sevens, "beta": 0.1}),
    Algorithm(
        "grpo-everything",
        GRPO,
        prompts,
        {
            "reward_fn": traced_sevens,
            "beta": 0.1,
            "kl_in": "reward",
            "loss_type": "dapo",
            "num_iterations": 2,
            "num_minibatches": 2,
            "target_kl": 0.01,
            "dual_clip": 3.0,
            "mask_truncated": True,
            "temperature": 0.8,
            "reference_sync_steps": 2,
            "reference_mixup": 0.5,
            "ema_decay": 0.9,
        },
        policy=network,
    ),
    Algorithm(
        "ppo",
        PPO,
        prompts,
        {"reward_fn": traced_sevens, "num_minibatches": 2, "kl_target": 0.05, "kl_horizon": 100.0},
    ),
    Algorithm(
        "reinforce",
        REINFORCE,
        prompts,
        {"reward_fn": sevens, "kl_coeff": 0.1, "baseline": "moving", "entropy_coeff": 0.01},
    ),
    Algorithm("dpo", DPO, pairs, {}, samples=False),
    Algorithm("kto", KTO, judged, {"ema_decay": 0.9}, samples=False),
    Algorithm("reward-model", RewardModel, pairs, {"centering": 0.1}, samples=False),
    Algorithm("process-reward-model", process_reward_model, steps, {}, samples=False),
    Algorithm("distillation", distillation, taught, {"max_new_tokens": 4}, samples=False),
    Algorithm("sft", SFT, examples, {"chunk_size": 16}, samples=False),
]
NAMES = [algorithm.name for algorithm in ALGORITHMS]
ON_POLICY = [algorithm for algorithm in ALGORITHMS if algorithm.samples]
