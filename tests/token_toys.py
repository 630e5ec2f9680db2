"""Small tasks on which policies of tokens learn by rewards, with the rewards they must reach.

A GPT of 2 layers, width 64 and 4 heads over 13 ids (padding, end, start, ten digits) learns from
nothing, with AdamW at 1e-3, gradients clipped to norm 1, 8 completions of each prompt at
temperature 1, held to no reference. Its places are learned vectors, as in GPT-2: with rotary ones,
which tell little of a place before they are trained, COPY needs several times as many updates.
"""

import dataclasses

import keras
import numpy as np
from keras import ops

from artifex_keras import create_optimizer, networks, rl

__all__ = ["GROUP", "TOYS", "VOCABULARY", "Toy", "algorithm", "learned", "policy"]

PAD, END, START, ZERO = 0, 1, 2, 3  # ids; digit d is ZERO + d
VOCABULARY, GROUP = 13, 8
WINDOW = 5  # updates of which a reward is the mean, since a batch's own is noisy


@dataclasses.dataclass(frozen=True)
class Toy:
    """A task, how it is learned, and the least reward around the last of `told_at`."""

    algorithm: str
    reward: object
    prompts: object  # (random, count) -> ids (count, W)
    max_new_tokens: int
    completions: int  # per update
    told_at: tuple  # updates
    gate: float
    peer: str  # what TRL reaches
    options: dict = dataclasses.field(default_factory=dict)


# Prompts


def start_alone(random, count):
    return np.full((count, 1), START, "int32")


def digits(number):
    """Prompts of a start token and so many digits."""

    def prompts(random, count):
        drawn = random.integers(ZERO, VOCABULARY, size=(count, number))
        return np.concatenate([start_alone(random, count), drawn], axis=1).astype("int32")

    return prompts


# Rewards


@rl.traceable
def sevens(prompts, completions):
    """COUNT: the share of the digit 7."""
    return ops.mean(ops.cast(completions == ZERO + 7, "float32"), axis=1)


@rl.traceable
def four_tokens(prompts, completions):
    """LEN: 1 for an end after four tokens, less for another one, 0 for none within twelve."""
    going = ops.cumsum(ops.cast(completions == END, "int32"), axis=1) == 0
    length = ops.sum(ops.cast(going, "float32"), axis=1)
    return 1 - ops.abs(length - 4) / 8


@rl.traceable
def echoed(prompts, completions):
    """ECHO: 1 for the prompt's digit."""
    return ops.cast(completions[:, 0] == prompts[:, 1], "float32")


@rl.traceable
def copied(prompts, completions):
    """COPY: the share of four places that are right, the prompt's digits and the end."""
    wanted = ops.concatenate([prompts[:, 1:], ops.full_like(prompts[:, :1], END)], axis=1)
    return ops.mean(ops.cast(completions == wanted, "float32"), axis=1)


ENDS = {"end_token_id": END, "pad_token_id": PAD}
PPO = {"num_generations": GROUP, "kl_coeff": 0.0, "num_epochs": 4}
TOYS = {
    "COUNT, GRPO": Toy(
        "GRPO", sevens, start_alone, 8, 64, (50, 100), 0.95, ".96-.98 @50, .996 @100"
    ),
    "COUNT, PPO": Toy("PPO", sevens, start_alone, 8, 64, (20, 50), 0.95, ".95 @20, .99 @50", PPO),
    "LEN, GRPO": Toy("GRPO", four_tokens, start_alone, 12, 64, (50, 150), 0.97, ".999 @150", ENDS),
    "ECHO, GRPO": Toy("GRPO", echoed, digits(1), 1, 128, (100, 200), 0.95, ".985 @200"),
    "COPY, GRPO": Toy("GRPO", copied, digits(3), 4, 128, (150, 300), 0.95, ".99 @300", ENDS),
}


def policy():
    """The network of all toys."""
    return networks.CausalTransformer(
        VOCABULARY, 32, num_layers=2, num_heads=4, width=64, positions="learned", norm="layer"
    )


def algorithm(toy, seed, reward=None, steps_per_execution=WINDOW):
    """The compiled algorithm of a toy, with a fresh policy."""
    keras.utils.set_random_seed(seed)
    reward = toy.reward if reward is None else reward
    options = {"max_new_tokens": toy.max_new_tokens, **toy.options}
    model = getattr(rl, toy.algorithm)(policy(), reward, seed=seed, **options)
    optimizer = create_optimizer("adamw", 1e-3, gradient_clip_norm=1.0)
    model.compile(optimizer, steps_per_execution=steps_per_execution)
    return model


def learned(toy, seed):
    """The reward at each of `toy.told_at`, the mean over the five updates up to it: a dict."""
    model, random = algorithm(toy, seed), np.random.default_rng(seed)

    def batches():
        while True:
            yield (toy.prompts(random, toy.completions // GROUP),)

    epochs = toy.told_at[-1] // WINDOW
    history = model.fit(
        batches(), steps_per_epoch=WINDOW, epochs=epochs, shuffle=False, verbose=0
    ).history
    return {update: history["reward"][update // WINDOW - 1] for update in toy.told_at}
