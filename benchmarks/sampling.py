"""What it costs to draw: 50 steps of a diffusion sampler, and text by a transformer with its cache.

Contestants of one case draw the same number of examples with networks of the same sizes; compiling
is not counted. `by hand` is one `jit` of a `lax.scan` over the same Keras network (`statelessly`),
`torch` an eager loop (`by_torch`), `keras-hub` its GPT-2 with random weights, its own cache and its
random sampler. Each shows up where it is installed.
"""

import importlib.util

import keras
import numpy as np
from keras import ops

from artifex_keras import models, networks
from benchmarks import statelessly
from benchmarks.fit import OURS, SEED, VOCABULARY
from benchmarks.measure import interleaved, ratio, spread

__all__ = ["CASES", "measured"]

COUNT, WIDTH, UNITS, STEPS = 256, 64, (256, 256, 256), 50
ROWS, PROMPT, NEW = 16, 64, 128
SIZES = {"num_layers": 4, "num_heads": 4, "width": 128}


def diffusion():
    """Samples (256, 64) by 50 steps of DDIM: contestants, and how many samples each draws."""
    keras.utils.set_random_seed(SEED)
    network = networks.timed_mlp((WIDTH,), UNITS)
    ours = models.Diffusion(network, noise_schedule="linear", seed=SEED)
    hand = statelessly.Diffusion(network, SEED, COUNT, 1).sampler(COUNT, WIDTH, STEPS)
    contestants = {
        OURS: lambda turn: ops.convert_to_numpy(ours.sample(COUNT, STEPS, "ddim", seed=turn)),
        "by hand": hand,
    }
    if importlib.util.find_spec("torch"):
        from benchmarks import by_torch

        loop = by_torch.Diffusion(WIDTH, UNITS, COUNT)
        contestants["torch"] = lambda turn: loop.sample(COUNT, WIDTH, STEPS)
    return contestants, COUNT


def text():
    """128 tokens after prompts of 64, 16 rows at once: contestants, and how many tokens."""
    keras.utils.set_random_seed(SEED)
    network = networks.CausalTransformer(VOCABULARY, PROMPT + NEW, norm="layer", **SIZES)
    ours = models.Autoregressive(network, seed=SEED)
    ours.build((None, PROMPT))
    prompt = np.random.default_rng(SEED).integers(VOCABULARY, size=(ROWS, PROMPT)).astype("int32")
    hand = statelessly.LanguageModel(network, SEED, ROWS, 1).generator(prompt, NEW)
    contestants = {
        OURS: lambda turn: ops.convert_to_numpy(ours.generate(prompt, NEW, seed=turn)),
        "by hand": hand,
    }
    if importlib.util.find_spec("keras_hub"):
        contestants["keras-hub"] = hub_generator(prompt)
    return contestants, ROWS * NEW


def hub_generator(prompt):
    import keras_hub

    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=SIZES["num_layers"],
        num_heads=SIZES["num_heads"],
        hidden_dim=SIZES["width"],
        intermediate_dim=4 * SIZES["width"],
        max_sequence_length=PROMPT + NEW,
        dropout=0.0,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="random")
    real = np.broadcast_to(np.arange(PROMPT + NEW) < PROMPT, (ROWS, PROMPT + NEW)).astype("int32")
    inputs = {"token_ids": np.pad(prompt, [(0, 0), (0, NEW)]), "padding_mask": real}
    return lambda turn: model.generate(inputs, stop_token_ids=None)


# Contestants, and what the ratio of our time to each one's must not exceed.
CASES = {
    "diffusion, 50 steps of ddim": (diffusion, {"by hand": 1.05, "torch": 1 / 1.5}),
    "text, with a cache": (text, {"by hand": 1.25, "keras-hub": 1 / 1.5}),
}


def measured(name, rounds):
    """Draws per second of each contestant, and the ratio of our time to each other one's."""
    make, goals = CASES[name]
    contestants, count = make()
    interleaved(contestants, 2)
    seconds = interleaved(contestants, rounds)
    return {
        "drawn": count,
        "per_second": {
            who: spread(count / np.asarray(values)) for who, values in seconds["wall"].items()
        },
        "ratios": {
            who: {
                **ratio(seconds["wall"][OURS], seconds["wall"][who]),
                "cpu": ratio(seconds["cpu"][OURS], seconds["cpu"][who])["median"],
                "goal": goals.get(who),
            }
            for who in contestants
            if who != OURS
        },
    }
