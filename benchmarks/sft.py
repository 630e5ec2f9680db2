"""What it costs to learn from examples and from a teacher.

SFT learns the completions of rows whose lengths differ, in counted tokens per second:

- `artifex_keras`: `fit`, a row of padding up to the longest;
- `artifex_keras, packed`: several rows in one, `packing="best_fit"`;
- `by torch`: a plain eager loop, each batch padded to its own longest row;
- `trl`, `trl, passive`: TRL's `SFTTrainer` on a GPT-2 of the same sizes, see `benchmarks.rl`.

A step of on-policy distillation is held against one of GRPO with a reward of tensors: as many
completions of as many tokens, the same student, a teacher of its size.
"""

import dataclasses
import json
import tempfile
from pathlib import Path

import keras
import numpy as np

from artifex_keras import create_optimizer, networks, rl
from benchmarks.measure import interleaved, ratio, spread
from benchmarks.rl import TRL, beside_trl, python_with_trl, token_toys

__all__ = ["CASES", "measured"]

OURS, PACKED, TORCH = "artifex_keras", "artifex_keras, packed", "by torch"
DISTILLATION, GRPO = "distillation", "grpo"
SEED = 1


@dataclasses.dataclass(frozen=True)
class Rows:
    """Prompts and completions of `shortest` to `longest` ids each, at random."""

    count: int
    batch_size: int
    shortest: int
    longest: int
    sizes: dict

    @property
    def context(self):
        return 2 * self.longest

    def drawn(self):
        """A list of pairs of ids."""
        random = np.random.default_rng(SEED)
        sizes = random.integers(self.shortest, self.longest + 1, size=(self.count, 2))
        top = self.sizes["vocabulary_size"]
        return [tuple(random.integers(3, top, size=n).tolist() for n in pair) for pair in sizes]

    def policy(self):
        keras.utils.set_random_seed(SEED)
        sizes = dict(self.sizes)
        return networks.CausalTransformer(
            sizes.pop("vocabulary_size"), self.context, positions="learned", norm="layer", **sizes
        )


CASES = {
    "SFT": Rows(256, 16, 8, 64, {
        "vocabulary_size": 512, "num_layers": 2, "num_heads": 4, "width": 128
    }),
}  # fmt: skip


def ours(case, pairs, packing):
    """A turn of `fit`: an epoch."""
    model = rl.SFT(case.policy(), packing=packing, max_length=case.context, seed=SEED)
    model.compile("adamw")
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
    data = model.prepared_data(rows)
    return lambda turn: model.fit(data, batch_size=case.batch_size, verbose=0)


def by_torch(case, pairs):
    """An epoch of the loop that a person would write."""
    import torch
    from torch.nn import functional as F

    from benchmarks.by_torch import GPT

    torch.manual_seed(SEED)
    sizes = case.sizes
    network = GPT(
        sizes["vocabulary_size"], case.context, sizes["num_layers"], sizes["num_heads"],
        sizes["width"],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def batch(chosen):
        width = max(len(prompt) + len(completion) for prompt, completion in chosen)
        ids, mask = np.zeros((2, len(chosen), width), "int64")
        for row, (prompt, completion) in enumerate(chosen):
            ids[row, : len(prompt) + len(completion)] = prompt + completion
            mask[row, len(prompt) : len(prompt) + len(completion)] = 1
        return torch.from_numpy(ids), torch.from_numpy(mask)

    def epoch(turn):
        order = np.random.default_rng(turn).permutation(len(pairs))
        for start in range(0, len(pairs), case.batch_size):
            ids, mask = batch([pairs[i] for i in order[start : start + case.batch_size]])
            optimizer.zero_grad(set_to_none=True)
            logits = network(ids[:, :-1])
            losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            counted = mask[:, 1:].flatten()
            loss = (losses * counted).sum() / counted.sum()
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def told(case, pairs, folder):
    """What TRL's process is given."""
    path = Path(folder) / "rows.json"
    ids = [prompt + completion for prompt, completion in pairs]
    masks = [[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs]
    path.write_text(json.dumps({"input_ids": ids, "completion_mask": masks}))
    return {
        "task": "SFT",
        "rows": str(path),
        "batch_size": case.batch_size,
        "updates": -(-case.count // case.batch_size),
        "context": case.context,
        **case.sizes,
    }


def examples(case, rounds):
    """Counted tokens per second of each contestant, and our times over the others'."""
    pairs, python = case.drawn(), python_with_trl()
    tokens = sum(len(completion) for _, completion in pairs)
    contestants = {
        OURS: ours(case, pairs, None),
        PACKED: ours(case, pairs, "best_fit"),
        TORCH: by_torch(case, pairs),
    }
    with tempfile.TemporaryDirectory() as folder:
        asked = dict.fromkeys(TRL, told(case, pairs, folder)) if python else {}
        seconds, versions = beside_trl(contestants, asked, python, rounds)
    others = [TORCH, *asked]
    pairs_of = [(who, other) for other in others for who in (OURS, PACKED)] + [(PACKED, OURS)]
    return {
        "sizes": {**dataclasses.asdict(case), "counted_tokens": tokens},
        "peers": versions,
        "left_out": None if python else "trl: not installed",
        "per_second": {
            who: spread(tokens / np.asarray(values)) for who, values in seconds["wall"].items()
        },
        "ratios": ratios(seconds, pairs_of),
    }


def teacher(rounds, updates=20):
    """Milliseconds of a step of distillation and of GRPO, and the ratio between them."""
    task = token_toys.TOYS["COUNT, GRPO"]
    together = {"steps_per_execution": token_toys.WINDOW}
    grpo = token_toys.algorithm(task, SEED, task.reward, **together)
    student, master = token_toys.policy(), token_toys.policy()
    distillation = rl.Distillation(student, master, max_new_tokens=task.max_new_tokens, seed=SEED)
    distillation.compile(create_optimizer("adamw", 1e-3, gradient_clip_norm=1.0), **together)
    grpo_rows = task.completions // token_toys.GROUP
    x = task.prompts(np.random.default_rng(SEED), updates * task.completions)

    def fit(model, rows):
        return lambda turn: model.fit(x[: updates * rows], batch_size=rows, verbose=0)

    contestants = {DISTILLATION: fit(distillation, task.completions), GRPO: fit(grpo, grpo_rows)}
    interleaved(contestants, 2)
    seconds = interleaved(contestants, rounds)
    return {
        "sizes": {"completions": task.completions, "max_new_tokens": task.max_new_tokens},
        "milliseconds_per_step": {
            who: spread(np.multiply(values, 1e3 / updates))
            for who, values in seconds["wall"].items()
        },
        "ratios": ratios(seconds, [(DISTILLATION, GRPO)]),
    }


def ratios(seconds, pairs):
    return {
        f"{who} / {other}": {
            **ratio(seconds["wall"][who], seconds["wall"][other]),
            "cpu": ratio(seconds["cpu"][who], seconds["cpu"][other])["median"],
            "goal": None,
        }
        for who, other in pairs
    }


def measured(rounds, tell):
    """Each case's result, `tell(name, result)` as soon as it is there."""
    results = {}
    for name, case in CASES.items():
        results[name] = examples(case, rounds)
        tell(name, results[name])
    results["distillation, COUNT"] = teacher(rounds)
    tell("distillation, COUNT", results["distillation, COUNT"])
    return results
