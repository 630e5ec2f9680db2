"""Our losses and TRL's on equal vectors: `golden/trl_losses.py` has written what TRL's gave."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from tables import policy, table_of

from artifex_keras.backend import value_and_grad
from artifex_keras.objectives import policy as losses
from artifex_keras.objectives.distillation import generalized_jsd
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.objectives.preference import bradley_terry
from artifex_keras.rl import SFT

GOLDEN = json.loads(Path(__file__).parent.joinpath("golden", "trl_losses.json").read_text("utf-8"))


def close(found, expected, rtol=1e-6, atol=1e-6):
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, rtol=rtol, atol=atol)


def shown(case):
    return "-".join(f"{k}={v}" for k, v in case.items() if k not in ("loss", "gradient"))


def cases(group):
    return pytest.mark.parametrize("case", GOLDEN[group]["cases"], ids=shown)


@cases("reward")
def test_reward_models(case):
    given = GOLDEN["reward"]
    margin = np.float32(given["margin"]) if case["margin"] else 0.0
    pair = np.float32(given["chosen"]), np.float32(given["rejected"])
    loss = ops.mean(bradley_terry(*pair, margin, case["centering"] or 0.0))
    close(loss, case["loss"])


@cases("distillation")
def test_distillation(case):
    """GKD's and GOLD's, which are alike: β = 0 is KL(teacher‖student) there too."""
    given = GOLDEN["distillation"]
    student, teacher = (
        ops.log_softmax(np.float32(given[name]) / np.float32(case["temperature"]))
        for name in ("student", "teacher")
    )
    each = generalized_jsd(teacher, student, case["beta"])
    found = weighted_mean(each, np.float32(given["mask"]))
    close(found, case["gkd"])
    close(found, case["gold"])


@pytest.mark.parametrize("halves", ["whole", "halves"])
def test_supervised_fine_tuning(halves):
    """Halves of 6 and 8 tokens, accumulated, are the whole; the table moves by TRL's gradient."""
    given, expected = GOLDEN["sft"], GOLDEN["sft"][halves]
    table, tokens = np.float32(given["table"]), np.int32(given["tokens"])
    x = {"tokens": tokens, "mask": np.float32(given["mask"])}
    parts = {"whole": 1, "halves": 2}[halves]
    model = SFT(policy(table))
    accumulated = {"gradient_accumulation_steps": parts} if parts > 1 else {}
    model.compile(keras.optimizers.SGD(1.0, **accumulated))
    history = model.fit(x, batch_size=4 // parts, shuffle=False, verbose=0).history
    close(history["loss"][0], expected["loss"])
    close(table - table_of(model.policy), expected["gradient"])


@cases("grpo")
def test_grpo(case):
    """At each of TRL's loss types, with the gradient at each log-probability."""
    given = GOLDEN["grpo"]
    names = ("new", "old", "reference", "sampled", "advantages", "mask")
    new, old, reference, sampled, advantages, mask = (np.float32(given[n]) for n in names)
    new = keras.Variable(new)
    options = {"level": case["level"], "clip_low": given["epsilon"]}
    options |= {"clip_high": given["epsilon_high"], "dual_clip": case.get("delta")}
    options["reduction"] = case["loss_type"]
    if case["loss_type"] == "cispo":
        options |= {"surrogate": "cispo", "reduction": "dapo", "clip_low": 1.0}
        options["clip_high"] = given["cispo_epsilon_high"] - 1
    if "cap" in case:
        options["weights"] = losses.importance_weights(old, sampled, case["cap"])

    def loss():
        l, kl = ops.convert_to_tensor(new), {}  # noqa: E741
        if "beta" in case:
            estimator = "k3_is" if case.get("corrected") else "k3"
            estimate = losses.kl_estimate(l, reference, estimator, old)
            kl = {"kl": estimate, "kl_coeff": case["beta"]}
        found = losses.clipped_surrogate(
            l, old, advantages, mask, max_length=given["longest"], **options, **kl
        )
        return found, None

    found, _, (gradient,) = value_and_grad(loss, [new])
    close(found, case["loss"])
    close(gradient, case["gradient"])
