"""One of two processes of which the first learns and the second samples: `actor_member.py TASK
FOLDER`; what it found is a line of JSON at the end. Alone it does the same, one update behind.
"""

import json
import os
import sys

import keras
import numpy as np
import token_toys
from algorithms import Algorithm, bigrams, network, prompts, sevens, traced_sevens
from overlaps import SampledYet, Slow

from artifex_keras import create_optimizer
from artifex_keras.backend.jax.two_processes import BetweenProcesses
from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.distributed import actor_learner, initialize, processes
from artifex_keras.rl import GRPO, PPO

SIZE, BATCHES = 8, 5
CAPPED = {"importance_cap": 1.1}
ALONE = int(os.environ.get(processes.COUNT, 1)) == 1
MORE = {"num_iterations": 2, "num_minibatches": 2, "beta": 0.1, "ema_decay": 0.9}
ROWS = {
    "grpo": Algorithm("", GRPO, prompts, CAPPED),
    "updates": Algorithm("", GRPO, prompts, CAPPED | MORE, policy=network),
    "wide": Algorithm("", GRPO, prompts, CAPPED, policy=lambda seed: bigrams(seed, width=128)),
    "slow": Algorithm("", Slow, prompts, CAPPED),
    "ppo": Algorithm("", PPO, prompts, {"num_epochs": 2}),
}


class Fails(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.step.numpy()) == 3:
            raise InterruptedError


def model(name, reward_fn=sevens, policy=bigrams):
    made = ROWS[name].make(reward_fn=reward_fn, asynchronous_rewards=ALONE and reward_fn is sevens)
    made.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    keras.utils.set_random_seed(4)  # the order of the rows
    return made


def fit(made, **options):
    options = {"epochs": 2, "batch_size": SIZE, "verbose": 0, **options}
    return made.fit(prompts(SIZE * BATCHES), **options).history


def arrays(made):
    return [np.asarray(v.value).tolist() for v in made.trainable_variables]


def fitted(name, reward_fn=sevens, **options):
    made = model(name, reward_fn)
    return {"history": fit(made, **options), "weights": arrays(made)}


def error_of(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fails_at(call):
    """A reward that raises at that call, where rewards are asked for."""
    calls = []

    def failing(prompts, completions):
        calls.append(1)
        if len(calls) == call:
            raise OSError("no judge")
        return sevens(prompts, completions)

    return failing


def resumed(folder):
    keep = {"save_every_n_steps": 2, "resume": "auto", "verbose": False, "asynchronous": False}
    found = []
    for name, breaks in (("straight", False), ("broken", True), ("broken", False)):
        made, keeper = model("grpo"), CheckpointCallback(f"{folder}/{name}", **keep)
        try:
            history = fit(made, callbacks=[keeper, *([Fails()] if breaks else [])])
        except InterruptedError:
            continue
        found.append({"history": history, "weights": arrays(made)})
    return found


def sent_with_a_frozen_table():
    """How many large arrays go with each message of state, of a policy of two."""
    counts, send = [], BetweenProcesses._send

    def counting(self, link, state, small, large, logs=None):
        counts.append(len(large))
        return send(self, link, state, small, large, logs)

    made = model("wide")
    made.policy.layers[1].trainable = False
    made.compile("sgd")
    BetweenProcesses._send = counting
    try:
        made.fit(prompts(2 * SIZE), batch_size=SIZE, verbose=0, validation_data=prompts(2 * SIZE))
    finally:
        BetweenProcesses._send = send
    return counts


def basics(folder):
    """What two processes come to."""
    found = {}
    for name in ("grpo", "updates", "ppo"):
        found[name] = fitted(name, validation_data=prompts(SIZE))
    if ALONE:
        return found
    found["tensors"] = fitted("grpo", traced_sevens, validation_data=prompts(SIZE))
    found["sent"] = sent_with_a_frozen_table()
    found["one fails"] = error_of(lambda: fit(model("grpo"), callbacks=[FailsAlone()]))
    if processes.process_index() == 1:
        seen = SampledYet()
        fit(model("slow"), callbacks=[seen])
        found["sampled"] = seen.seen
    else:
        fit(model("slow"))
    made = model("grpo", fails_at(3))
    found["error"] = error_of(lambda: fit(made))
    found["finished"] = int(made.step.numpy())
    fit(made)
    found["again"] = int(made.step.numpy())
    found["evaluated"] = made.evaluate(prompts(SIZE), batch_size=4, verbose=0, return_dict=True)
    stops = keras.callbacks.EarlyStopping("reward", patience=0, min_delta=10.0, mode="max")
    found["stopped"] = len(fit(model("grpo"), epochs=6, callbacks=[stops])["reward"])
    found["resumed"] = resumed(folder)
    found["devices"] = [d.id for d in made.policy.weights[0].value.sharding.device_set]
    return found


class FailsAlone(keras.callbacks.Callback):
    """Fails in one of both."""

    def on_train_batch_end(self, batch, logs=None):
        if processes.process_index() == 1 and batch == 1:
            raise InterruptedError("no disk")


class Tell(keras.callbacks.Callback):
    """Says where it is, so that somebody can send a signal."""

    def on_train_batch_begin(self, batch, logs=None):
        print(f"pid {os.getpid()} step {int(self.model.step.numpy())}", flush=True)


def train(folder):
    """A run that saves each two steps and resumes by itself."""
    keep = {"save_every_n_steps": 2, "resume": "auto", "verbose": False, "asynchronous": False}
    made = model("grpo")
    history = fit(made, callbacks=[CheckpointCallback(f"{folder}/killed", **keep), Tell()])
    return {"history": history, "weights": arrays(made)}


def echoed(prompts, completions):
    """1 for the prompt's digit."""
    return [float(c[0] == p[1]) for p, c in zip(prompts, completions, strict=True)]


def echo(folder):
    """Completions until the mean reward of an epoch of ten updates is .95, and that reward."""
    keras.utils.set_random_seed(0)
    options = {"max_new_tokens": 1, "num_generations": token_toys.GROUP, "importance_cap": 2.0}
    made = GRPO(token_toys.policy(), echoed, seed=0, asynchronous_rewards=ALONE, **options)
    made.compile(create_optimizer("adamw", 1e-3, gradient_clip_norm=1.0))
    x = token_toys.TOYS["ECHO, GRPO"].prompts(np.random.default_rng(0), 160)
    rewards = [0.0]
    while rewards[-1] < 0.95 and len(rewards) <= 40:
        rewards += made.fit(x, batch_size=16, verbose=0).history["reward"]
    return {"completions": len(rewards[1:]) * 160 * token_toys.GROUP, "reward": rewards[-1]}


TASKS = {task.__name__: task for task in (basics, echo, train)}


def main(task, folder):
    if not ALONE:
        initialize(initialization_timeout=120)
        keras.distribution.set_distribution(actor_learner(actors=4))
    print(json.dumps(TASKS[task](folder)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
