"""What a person waits for: the first `fit` of a model, beside the same model in plain Keras.

Each is measured in a process of its own, from before `compile` until an epoch of a few batches is
over, with the networks built and nothing traced: so almost all of it is tracing, lowering and
compiling. *Cold* has no compiled program on disk, *warm* finds in JAX's compilation cache what a
process before it has left there. The models are rows of `tests/families.py`, their twins those of
`by_keras.py`, of the same networks; GRPO is fine-tuned by a reward in Python.

What a process imports, and what the first operation of JAX costs, is counted for neither.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ratio, spread

__all__ = ["CASES", "GOAL", "measured"]

TESTS = Path(__file__).parent.parent / "tests"
SEED, BATCH = 1, 16
OURS, PLAIN = "artifex_keras", "keras"
GOAL = 1.3  # times plain Keras


def vae(row, plain):
    model = row.make(SEED)
    return plain.VAE(model.encoder, model.decoder, SEED)


def gan(row, plain):
    model = row.make(SEED)
    return plain.GAN(model.generator, model.discriminator, model.latent_dim, SEED)


def flow(row, plain):
    return plain.Flow(row.make(SEED).bijection, SEED)


def flow_matching(row, plain):
    return plain.FlowMatching(row.make(SEED).network, SEED)


def diffusion(row, plain):
    model = row.make(SEED)
    return plain.Diffusion(model.network, SEED, model.num_timesteps)


def energy(row, plain):
    model = row.make(SEED)
    return plain.Energy(model.network, SEED, model.noise_levels)


def autoregressive(row, plain):
    return plain.LanguageModel(row.make(SEED).network, SEED)


CASES = {
    "vae": vae,
    "gan": gan,
    "flow": flow,
    "flow-matching": flow_matching,
    "diffusion": diffusion,
    "energy-dsm": energy,
    "autoregressive": autoregressive,
    "grpo": None,
}


def rows():
    """The families' rows; of those with more than their twins have, a plainer one."""
    sys.path.insert(0, str(TESTS))
    import families

    plainer = {
        "flow": families.flow(families.realnvp, 2, (8,), chain={"actnorm": False}),
        "flow-matching": families.flow_matching(),
        "diffusion": families.diffusion(ema_decay=None),
        "autoregressive": families.autoregressive(),
    }
    found = {row.name: row for row in families.FAMILIES}
    return found | {
        name: dataclasses.replace(found[name], make=make) for name, make in plainer.items()
    }


def first_fit(case, who):
    """A function that compiles the model and fits it for the first time."""
    import keras

    from benchmarks import by_keras

    if case == "grpo":
        return first_update(who, by_keras)
    row = rows()[case]
    model = row.make(SEED) if who == OURS else CASES[case](row, by_keras)
    data = row.arrays()

    def run():
        optimizers = [keras.optimizers.Adam(1e-3) for _ in range(2 if case == "gan" else 1)]
        model.compile(*optimizers)
        if who == PLAIN and case == "gan":
            return model.learn(*data, BATCH)
        return model.fit(*data, batch_size=BATCH, epochs=1, shuffle=False, verbose=0).history

    return run


def first_update(who, by_keras):
    """GRPO: two updates, with a reward in Python."""
    import keras
    import numpy as np

    from artifex_keras import networks, rl

    keras.utils.set_random_seed(SEED)
    policy = networks.CausalTransformer(13, 12, num_layers=2, num_heads=2, width=16)
    prompts = np.random.default_rng(SEED).integers(3, 13, (8, 4)).astype("int32")

    def reward(prompts, completions, **columns):
        return [float(np.mean(np.asarray(ids) == 7)) for ids in completions]

    def ours():
        model = rl.GRPO(policy, reward, num_generations=4, max_new_tokens=8, seed=SEED)
        model.compile(keras.optimizers.Adam(1e-3))
        model.fit(prompts, batch_size=4, epochs=1, shuffle=False, verbose=0)

    def plain():
        model = by_keras.GRPO(policy, SEED, group=4, max_new_tokens=8)
        model.compile(keras.optimizers.Adam(1e-3))
        model.learn(prompts, reward, batch_size=4, epochs=1)

    return ours if who == OURS else plain


def main(case, who):
    """Prints the seconds of a first fit as JSON: what a process of its own does."""
    import time

    import keras

    run = first_fit(case, who)
    keras.ops.convert_to_numpy(keras.ops.ones((2,)) + 1)  # the device is there
    began = time.perf_counter(), time.process_time()
    run()
    print(
        json.dumps({"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]})
    )


def seconds(case, who, cache):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "benchmarks.first_fit", case, who]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(case, rounds):
    """Seconds of both with a cold and a warm cache, and our ratio to plain Keras."""
    times = {
        cache: {who: {"wall": [], "cpu": []} for who in (OURS, PLAIN)} for cache in ("cold", "warm")
    }
    for turn in range(rounds):
        for who in (OURS, PLAIN) if turn % 2 else (PLAIN, OURS):
            with tempfile.TemporaryDirectory() as folder:
                for found in times.values():
                    for clock, value in seconds(case, who, folder).items():
                        found[who][clock].append(value)
    return {
        cache: {
            "seconds": {
                who: {clock: spread(values) for clock, values in clocks.items()}
                for who, clocks in found.items()
            },
            "ratios": {
                clock: {**ratio(found[OURS][clock], found[PLAIN][clock]), "goal": GOAL}
                for clock in ("wall", "cpu")
            },
        }
        for cache, found in times.items()
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
