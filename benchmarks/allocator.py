"""What a step on a CPU costs with the memory that `backend.jax.memory` keeps, and without.

Each run is a process of its own: page faults, CPU time and CPU time in the kernel of a step, once
all is compiled, and the most memory that the process ever held. Without is
`ARTIFEX_KERAS_KEEP_MEMORY=0`.
"""

import json
import os
import subprocess
import sys

from benchmarks.measure import ratio, spread

__all__ = ["CASES", "measured"]

SEED = 1
WITH, WITHOUT = "kept", "given back"


def transformer():
    from artifex_keras import models, networks

    network = networks.CausalTransformer(65, 64, num_layers=2, num_heads=4, width=128)
    ids = random().integers(65, size=(32 * 8, 64)).astype("int32")
    return models.Autoregressive(network, seed=SEED), ids, 32


def vae():
    from artifex_keras import models, networks

    encoder = networks.mlp_encoder(784, 20, (400,))
    model = models.VAE(encoder, networks.mlp_decoder(20, 784, (400,)), seed=SEED)
    return model, random().normal(size=(128 * 32, 784)).astype("float32"), 128


def diffusion():
    from artifex_keras import models, networks

    model = models.Diffusion(networks.unet((16, 16, 1), (32, 64)), seed=SEED)
    return model, random().normal(size=(32 * 4, 16, 16, 1)).astype("float32"), 32


def grpo():
    import numpy as np

    from artifex_keras import networks, rl

    def reward(prompts, completions, **columns):
        return [float(np.mean(np.asarray(ids) == 7)) for ids in completions]

    policy = networks.CausalTransformer(65, 64, num_layers=2, num_heads=4, width=128)
    model = rl.GRPO(policy, reward, num_generations=8, max_new_tokens=56, seed=SEED)
    return model, random().integers(65, size=(4 * 4, 8)).astype("int32"), 4


CASES = {"transformer": transformer, "vae": vae, "diffusion": diffusion, "grpo": grpo}


def random():
    import numpy as np

    return np.random.default_rng(SEED)


def main(case):
    """Prints what a step costs as JSON: what a process of its own does."""
    import resource

    import keras

    keras.utils.set_random_seed(SEED)
    model, x, batch_size = CASES[case]()
    model.compile("adam")
    model.fit(x, batch_size=batch_size, epochs=1, verbose=0)
    before, epochs = resource.getrusage(resource.RUSAGE_SELF), 2
    model.fit(x, batch_size=batch_size, epochs=epochs, verbose=0)
    after = resource.getrusage(resource.RUSAGE_SELF)
    steps = epochs * len(x) // batch_size
    kernel = after.ru_stime - before.ru_stime
    cost = {
        "faults_per_step": (after.ru_minflt - before.ru_minflt) / steps,
        "cpu_milliseconds_per_step": 1e3 * (after.ru_utime - before.ru_utime + kernel) / steps,
        "kernel_milliseconds_per_step": 1e3 * kernel / steps,
        "peak_megabytes": after.ru_maxrss / 1024,
    }
    print(json.dumps(cost))


def cost(case, kept):
    own = {"KERAS_BACKEND": "jax", "ARTIFEX_KERAS_KEEP_MEMORY": "1" if kept else "0"}
    command = [sys.executable, "-m", "benchmarks.allocator", case]
    done = subprocess.run(
        command, env={**os.environ, **own}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measured(case, rounds):
    """What a step costs with and without, and the ratio of the CPU times."""
    costs = {WITH: [], WITHOUT: []}
    for turn in range(rounds):
        for who in list(costs)[:: 1 if turn % 2 else -1]:
            costs[who].append(cost(case, who == WITH))
    columns = {
        who: {name: [run[name] for run in runs] for name in runs[0]} for who, runs in costs.items()
    }
    times = [columns[who]["cpu_milliseconds_per_step"] for who in (WITH, WITHOUT)]
    return {
        who: {name: spread(values) for name, values in found.items()}
        for who, found in columns.items()
    } | {"cpu_ratio": ratio(*times)}


if __name__ == "__main__":
    main(*sys.argv[1:])
