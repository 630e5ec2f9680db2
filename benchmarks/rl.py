"""What it costs to fine-tune by rewards and by preferences.

GRPO and PPO learn ECHO and COUNT of `tests/token_toys.py`, in completions per second:

- `artifex_keras`: `fit` with a reward that is a Python function, called between two programs;
- `artifex_keras, traceable`: with a reward of tensors, five whole steps in one program;
- `trl`: its trainer on a GPT-2 of the same sizes with the same Python reward (`by_trl.py`), in a
  process of its own. `TRL_PYTHON` names the interpreter that has it, by default this one; where it
  hasn't got it, it is left out. TRL 1.16 has GRPO, but no PPO any more;
- `trl, passive`: the same with `OMP_WAIT_POLICY=passive`. The threads of torch otherwise spin while
  they wait for each other, and where other processes want the cores too that makes TRL ten times
  slower: it says nothing about TRL. What counts is the ratio to this one.

Of our own step the two programs are timed apart: `collect` samples, `update` learns from it.

DPO is held against the same loss written by hand around the same network: `jit` of a `lax.scan`
over K steps (`statelessly.py`); both must arrive at the same loss.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import keras
import numpy as np
from jax import numpy as jnp

from artifex_keras import networks, rl
from benchmarks import by_hand, statelessly
from benchmarks.measure import interleaved, ratio, spread

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import token_toys  # noqa: E402

__all__ = ["CASES", "measured"]

OURS, TRACEABLE, HAND = "artifex_keras", "artifex_keras, traceable", "by hand"
SEED = 1
# TRL as it comes, and with threads that sleep while they wait.
TRL = {"trl": {}, "trl, passive": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}}
UPDATES = {OURS: 50, TRACEABLE: 50} | dict.fromkeys(TRL, 5)  # of a turn
ENOUGH = 1 / 5  # of TRL's time


# On-policy


@dataclasses.dataclass(frozen=True)
class Case:
    """A toy with end tokens, as TRL has them always."""

    toy: str
    reward: object  # the Python function

    @property
    def task(self):
        toy = token_toys.TOYS[self.toy]
        ends = {"end_token_id": token_toys.END, "pad_token_id": token_toys.PAD}
        return dataclasses.replace(toy, options={**toy.options, **ends})

    @property
    def sizes(self):
        task = self.task
        return {
            "task": self.toy.partition(",")[0],
            "completions": task.completions,
            "group": token_toys.GROUP,
            "max_new_tokens": task.max_new_tokens,
            "vocabulary_size": token_toys.VOCABULARY,
            "context": 32,
            "num_layers": 2,
            "num_heads": 4,
            "width": 64,
        }


def seven_share(prompts, completions):
    return [sum(token == token_toys.ZERO + 7 for token in row) / 8 for row in completions]


def echoed(prompts, completions):
    return [float(row[0] == prompt[1]) for prompt, row in zip(prompts, completions, strict=True)]


CASES = {
    "ECHO, GRPO": Case("ECHO, GRPO", echoed),
    "COUNT, GRPO": Case("COUNT, GRPO", seven_share),
    "COUNT, PPO": Case("COUNT, PPO", seven_share),
}


def prompts(task, updates):
    count = updates * task.completions // token_toys.GROUP
    return task.prompts(np.random.default_rng(SEED), count)


def ours(task, reward, steps, updates):
    """A turn of `fit`."""
    model = token_toys.algorithm(task, SEED, reward, steps_per_execution=steps)
    x, rows = prompts(task, updates), task.completions // token_toys.GROUP
    return lambda turn: model.fit(x, batch_size=rows, verbose=0)


class Peer:
    """TRL in a process of its own, which takes its turns when it is told to."""

    def __init__(self, python, sizes, environment):
        program = [python, str(Path(__file__).parent / "by_trl.py"), json.dumps(sizes)]
        self.process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        self.cpu = []
        self.versions = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"benchmarks/by_trl.py ended with code {self.process.wait()}.")
        return json.loads(line)

    def __call__(self, turn):
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()
        self.cpu.append(self.answer()["cpu"])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def python_with_trl():
    """The interpreter that has TRL, or None."""
    python = os.environ.get("TRL_PYTHON", sys.executable)
    found = "from importlib.util import find_spec as f; raise SystemExit(f('trl') is None)"
    done = subprocess.run([python, "-c", found], capture_output=True)
    return None if done.returncode else python


def beside_trl(contestants, told, python, rounds):
    """Seconds of `interleaved` contestants and of TRL, which gets what `told` has by its names, and
    the versions of TRL's packages; None where `told` is empty."""
    peers = {}
    try:
        for name, case in told.items():
            peers[name] = Peer(python, case, TRL[name])
        contestants = contestants | peers
        interleaved(contestants, 2)  # compiles
        seconds = interleaved(contestants, rounds)
    finally:
        for peer in peers.values():
            peer.close()
    for name, peer in peers.items():
        seconds["cpu"][name] = peer.cpu[-rounds:]
    return seconds, next((peer.versions for peer in peers.values()), None)


def left_out(task, python):
    if task.algorithm == "PPO":
        return "trl: version 1.16 has no PPO"
    return None if python else "trl: not installed"


def on_policy(case, rounds):
    """Completions per second of each contestant, the ratios, and our two phases."""
    task, sizes = case.task, case.sizes
    contestants = {
        OURS: ours(task, case.reward, 1, UPDATES[OURS]),
        TRACEABLE: ours(task, task.reward, token_toys.WINDOW, UPDATES[TRACEABLE]),
    }
    python = python_with_trl()
    told = {name: {**sizes, "updates": UPDATES[name]} for name in TRL}
    asked = told if python and task.algorithm == "GRPO" else {}
    seconds, versions = beside_trl(contestants, asked, python, rounds)
    return {
        "sizes": sizes,
        "peers": versions,
        "left_out": left_out(task, python),
        **per_second(seconds, task.completions),
        "milliseconds_of_a_step": phases(case, rounds),
    }


def per_second(seconds, completions):
    """Speeds, and our times over TRL's, for a completion."""
    each = {
        clock: {
            who: np.asarray(values) / (UPDATES[who] * completions) for who, values in told.items()
        }
        for clock, told in seconds.items()
    }
    wall, cpu = each["wall"], each["cpu"]
    return {
        "per_second": {who: spread(1 / values) for who, values in wall.items()},
        "ratios": {
            f"{who} / {peer}": {
                **ratio(wall[who], wall[peer]),
                "cpu": ratio(cpu[who], cpu[peer])["median"],
                "goal": ENOUGH,
            }
            for peer in TRL
            for who in (OURS, TRACEABLE)
            if peer in wall
        },
    }


def phases(case, rounds, updates=10):
    """Milliseconds of the parts of our step, each waited for before the next begins."""
    task = case.task
    model = token_toys.algorithm(task, SEED, case.reward, steps_per_execution=1)
    x = prompts(task, 1)
    model.fit(x, batch_size=len(x), verbose=0)
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    begin, finish = map(jax.jit, model._parts(training=True))
    rollout, changes = begin(state, (x,))
    host_values = model.on_host((x,), rollout, training=True)

    def repeated(part):
        return lambda turn: [jax.block_until_ready(part()) for _ in range(updates)]

    parts = {
        "collect": repeated(lambda: begin(state, (x,))),
        "reward": repeated(lambda: model.on_host((x,), rollout, training=True)),
        "update": repeated(lambda: finish(state, (x,), rollout, host_values, changes)),
    }
    interleaved(parts, 1)
    seconds = interleaved(parts, rounds)["wall"]
    return {name: spread(np.multiply(values, 1e3 / updates)) for name, values in seconds.items()}


# Preferences


@dataclasses.dataclass(frozen=True)
class Pairs:
    """DPO with a network of these sizes on pairs of `length` ids, the last half the answer."""

    vocabulary_size: int
    length: int
    pairs: int  # of a batch
    network: dict
    steps: int  # of an execution
    executions: int  # of a turn
    goals: dict = dataclasses.field(default_factory=lambda: {HAND: 1.1})

    def policy(self):
        keras.utils.set_random_seed(SEED)
        return networks.CausalTransformer(
            self.vocabulary_size, self.length, norm="layer", **self.network
        )

    def data(self, executions):
        rows = self.pairs * self.steps * executions
        random = np.random.default_rng(SEED)
        ids = random.integers(self.vocabulary_size, size=(2, rows, self.length)).astype("int32")
        ids[1, :, : self.length // 2] = ids[0, :, : self.length // 2]
        mask = np.zeros((rows, self.length), "float32")
        mask[:, self.length // 2 :] = 1
        return {
            "chosen": ids[0], "chosen_mask": mask, "rejected": ids[1], "rejected_mask": mask.copy()
        }  # fmt: skip


class DPOByHand(statelessly.Stateless):
    """The loss of DPO as a person writes it down, with the reference in the same step."""

    BETA = 0.1
    draws = 0

    def __init__(self, network, seed, batch_size, steps):
        super().__init__(network, seed, batch_size, steps)
        self.reference = statelessly.copies(network.trainable_variables)

    def log_ratios(self, weights, ids, mask):
        """How much likelier the first half of the rows is than the second."""
        logits = self.called(weights, ids[:, :-1], training=False)
        picked = jnp.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0]
        scores = jnp.sum((picked - jax.nn.logsumexp(logits, axis=-1)) * mask[:, 1:], axis=1)
        return scores[: len(ids) // 2] - scores[len(ids) // 2 :]

    def loss(self, weights, x, draw):
        ids = jnp.concatenate([x["chosen"], x["rejected"]])
        mask = jnp.concatenate([x["chosen_mask"], x["rejected_mask"]])
        h = self.log_ratios(weights, ids, mask) - self.log_ratios(self.reference, ids, mask)
        return -jnp.mean(jax.nn.log_sigmoid(self.BETA * h))

    def fit(self, x, shuffle=True):
        """One epoch; its mean loss."""
        size, count = self.steps * self.batch_size, len(x["chosen"])
        order, losses = np.random.permutation(count) if shuffle else np.arange(count), []
        for start in range(0, count, size):
            rows = order[start : start + size]
            batches = {
                name: values[rows].reshape(self.steps, self.batch_size, -1)
                for name, values in x.items()
            }
            self.state, log = self.program(self.state, batches)
            losses.append(log["loss"])
        return float(np.mean(losses))


DPO_CASES = {
    "DPO, tiny": Pairs(13, 8, 16, {"num_layers": 2, "num_heads": 4, "width": 64}, 16, 24),
    "DPO": Pairs(65, 64, 8, {"num_layers": 4, "num_heads": 4, "width": 128}, 8, 2),
}


def preferences(case, rounds):
    """Milliseconds of a step of DPO, and the ratio to the one written by hand."""
    model = rl.DPO(case.policy(), beta=DPOByHand.BETA, seed=SEED)
    model.compile(keras.optimizers.Adam(by_hand.LEARNING_RATE), steps_per_execution=case.steps)
    hand = DPOByHand(case.policy(), SEED, case.pairs, case.steps)

    def fit(x, shuffle=True):
        history = model.fit(x, batch_size=case.pairs, shuffle=shuffle, verbose=0).history
        return history["loss"][-1]

    fits = {OURS: fit, HAND: hand.fit}
    losses = {name: run(case.data(1), shuffle=False) for name, run in fits.items()}
    if not np.isclose(*losses.values(), rtol=1e-4):
        raise AssertionError(f"The contestants do not train the same: losses {losses}.")
    x = case.data(case.executions)

    def turn_of(run):
        return lambda turn: run(x)

    turns = {name: turn_of(run) for name, run in fits.items()}
    interleaved(turns, 2)
    seconds = interleaved(turns, rounds)
    each = 1e3 / (case.steps * case.executions)
    return {
        "sizes": {k: v for k, v in dataclasses.asdict(case).items() if k != "goals"},
        "loss_both_agree_on": losses[HAND],
        "milliseconds_per_step": {
            name: spread(np.multiply(values, each)) for name, values in seconds["wall"].items()
        },
        "ratios": {
            f"{OURS} / {HAND}": {
                **ratio(seconds["wall"][OURS], seconds["wall"][HAND]),
                "cpu": ratio(seconds["cpu"][OURS], seconds["cpu"][HAND])["median"],
                "goal": case.goals[HAND],
            }
        },
    }


def measured(rounds, told):
    """Each case's result, `told(name, result)` as soon as it is there."""
    results = {}
    for cases, run in ((CASES, on_policy), (DPO_CASES, preferences)):
        for name, case in cases.items():
            results[name] = run(case, rounds)
            told(name, results[name])
    return results
