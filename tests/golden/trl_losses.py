"""Writes `trl_losses.json`: what TRL's own loss functions give on small seeded vectors.

    python tests/golden/trl_losses.py

It is run once, by an interpreter that has TRL, and imports nothing of ours. Each loss is the method
of TRL's trainer, called on a stand-in for the trainer that has the settings of the case; models are
stand-ins too, that give the logits of the case. `tests/test_trl_losses.py` holds ours to it.
"""

import collections
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from trl import GRPOTrainer, RewardTrainer, SFTTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.gold import GOLDTrainer
from trl.trainer.utils import add_fused_lm_head

RANDOM = np.random.default_rng(16)


def same(x, **options):
    return x


ONE_PROCESS = SimpleNamespace(
    num_processes=1,
    gather=same,
    gather_for_metrics=same,
    reduce=same,
    sync_gradients=True,
    parallelism_config=None,
)


def trainer(**settings):
    """What a trainer's loss asks of `self`, for one process and no extras."""
    return SimpleNamespace(
        accelerator=ONE_PROCESS,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        _metrics=collections.defaultdict(lambda: collections.defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )


# Reward model


def reward_losses():
    chosen, rejected, margin = RANDOM.normal(size=(3, 5))
    cases = []
    for with_margin in (False, True):
        for centering in (None, 0.1):
            me = trainer(args=SimpleNamespace(center_rewards_coefficient=centering))
            rewards = torch.tensor(np.concatenate([chosen, rejected]))[:, None]
            inputs = {"attention_mask": torch.ones(10, 1)}
            if with_margin:
                inputs["margin"] = torch.tensor(abs(margin))
            loss = RewardTrainer.compute_loss(me, Answering(rewards), inputs)
            case = {"margin": with_margin, "centering": centering, "loss": float(loss)}
            cases.append(case)
    vectors = {"chosen": chosen, "rejected": rejected, "margin": abs(margin)}
    return {**lists(vectors), "cases": cases}


class Answering:
    """A model whose logits are given."""

    training = True

    def __init__(self, logits):
        self.logits = logits

    def __call__(self, **inputs):
        return SimpleNamespace(logits=self.logits)


# Distillation


def distillation_losses():
    student, teacher = RANDOM.normal(size=(2, 2, 4, 6)) * 2
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])
    labels = torch.tensor(np.where(mask, 1, -100))
    cases = []
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        for temperature in (1.0, 2.0):
            case = {"beta": beta, "temperature": temperature}
            pair = torch.tensor(student), torch.tensor(teacher)
            for name, cls in (("gkd", GKDTrainer), ("gold", GOLDTrainer)):
                case[name] = float(cls.generalized_jsd_loss(*pair, labels=labels, **case_of(case)))
            cases.append(case)
    return {**lists({"student": student, "teacher": teacher, "mask": mask}), "cases": cases}


def case_of(case):
    return {name: case[name] for name in ("beta", "temperature")}


# Supervised fine-tuning


def sft_losses():
    """Of a table of logits, whose row of an id scores the next one: loss and gradient of an update
    in one batch, and in two whose tokens differ in number."""
    table = RANDOM.normal(size=(7, 7))
    tokens = RANDOM.integers(0, 7, (4, 6))
    mask = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 1], [1] * 6])
    attention = np.array([[1] * 6, [1, 1, 1, 0, 0, 0], [1] * 6, [1] * 6])
    labels = np.where(mask * attention, tokens, -100)
    results = {}
    for name, halves in (("whole", [slice(0, 4)]), ("halves", [slice(0, 2), slice(2, 4)])):
        weight = torch.tensor(table, dtype=torch.float32, requires_grad=True)
        counted = int((labels[:, 1:] != -100).sum())
        total = 0.0
        for rows in halves:
            inputs = {
                "input_ids": torch.tensor(tokens[rows]),
                "attention_mask": torch.tensor(attention[rows]),
                "labels": torch.tensor(labels[rows]),
            }
            me = trainer(
                args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=False),
                compute_loss_func=None,
                label_smoother=None,
                get_tp_size=lambda: 1,
            )
            loss = SFTTrainer.compute_loss(
                me, table_model(weight), inputs, num_items_in_batch=torch.tensor(counted)
            )
            loss.backward()
            total += float(loss.detach())
        results[name] = {"loss": total, "gradient": weight.grad.numpy()}
    vectors = {"table": table, "tokens": tokens, "mask": mask * attention}
    return {**lists(vectors), "counted": counted, **{n: lists(r) for n, r in results.items()}}


class Rows(torch.nn.Module):
    """A causal model whose features are rows of a table, and whose head is the identity."""

    def __init__(self, table):
        super().__init__()
        self.config = SimpleNamespace(get_text_config=SimpleNamespace)
        self.table = table
        self.head = torch.nn.Linear(len(table), len(table), bias=False)
        self.head.weight = torch.nn.Parameter(torch.eye(len(table)), requires_grad=False)

    def forward(self, input_ids, attention_mask=None, use_cache=False, **others):
        return SimpleNamespace(logits=self.table[input_ids])

    def base_model(self, input_ids, attention_mask=None, use_cache=False, **others):
        return SimpleNamespace(last_hidden_state=self.table[input_ids], past_key_values=None)

    def get_output_embeddings(self):
        return self.head


def table_model(table):
    model = Rows(table)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


# GRPO

EPSILON, EPSILON_HIGH, BETA, LONGEST, CAP = 0.2, 0.28, 0.1, 6, 1.5


def grpo_losses():
    shape = (4, 5)
    old = -RANDOM.uniform(0.2, 3, shape)
    new = old + RANDOM.normal(size=shape) * 0.4
    reference = old + RANDOM.normal(size=shape) * 0.3
    sampled = old + RANDOM.normal(size=shape) * 0.3
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 0, 0]])
    advantages = np.array([-1.0, 1.5, 0.7, -0.2])
    arrays = {"old": old, "new": new, "reference": reference, "sampled": sampled}
    cases = []
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo", "cispo"):
        for options in (
            {"level": "token"},
            {"level": "token", "beta": BETA},
            {"level": "token", "beta": BETA, "corrected": True},
            {"level": "token", "delta": 1.4},
            {"level": "token", "cap": CAP, "beta": BETA},
            {"level": "sequence"},  # with "grpo" the loss of GSPO
        ):
            if loss_type == "cispo" and "delta" in options:
                continue
            case = {"loss_type": loss_type, **options}
            cases.append(case | grpo_loss(case, arrays, mask, advantages))
    vectors = {**arrays, "mask": mask, "advantages": advantages}
    settings = {"epsilon": EPSILON, "epsilon_high": EPSILON_HIGH, "longest": LONGEST}
    settings["cispo_epsilon_high"] = CISPO_HIGH
    return {**lists(vectors), **settings, "cases": cases}


CISPO_HIGH = 1.3  # the largest weight


def grpo_loss(case, arrays, mask, advantages):
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    new = tensors["new"].requires_grad_()
    high = CISPO_HIGH if case["loss_type"] == "cispo" else EPSILON_HIGH
    args = SimpleNamespace(
        use_bias_correction_kl=case.get("corrected", False),
        delta=case.get("delta"),
        steps_per_generation=1,
    )
    me = trainer(
        args=args,
        loss_type=case["loss_type"],
        importance_sampling_level=case["level"],
        beta=case.get("beta", 0.0),
        epsilon_low=EPSILON,
        epsilon_high=high,
        max_completion_length=LONGEST,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm="cap" in case,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *a, **k: (new, torch.ones_like(new), None),
    )
    ids = torch.zeros(mask.shape, dtype=torch.long)
    ratio = torch.exp(tensors["old"] - tensors["sampled"])
    ratio = torch.clamp(ratio, max=case.get("cap", 1.0))
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": torch.tensor(mask),
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": tensors["old"],
        "ref_per_token_logps": tensors["reference"],
        "num_items_in_batch": torch.tensor(mask.sum()),
        "importance_sampling_ratio": ratio,
    }
    loss = GRPOTrainer._compute_loss(me, SimpleNamespace(training=True), inputs)
    loss.backward()
    return {"loss": float(loss.detach()), "gradient": new.grad.tolist()}


def lists(arrays):
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def main():
    versions = {name: metadata.version(name) for name in ("trl", "transformers", "torch")}
    found = {
        "versions": versions,
        "reward": reward_losses(),
        "distillation": distillation_losses(),
        "sft": sft_losses(),
        "grpo": grpo_losses(),
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
