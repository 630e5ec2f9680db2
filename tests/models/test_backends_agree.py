"""Three optimizer steps of every family from the same weights and noise, on each backend.

The numbers of JAX are kept in `three_steps.json`; each backend is held against them. After a change
of the mathematics: `KERAS_BACKEND=jax python tests/models/test_backends_agree.py` writes them anew.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

# Small angles: of large ones a float32 sine differs in the fourth digit from backend to backend.
PHASES = np.random.default_rng(5).uniform(0, 2 * np.pi, 4096).astype("float32")
GOLDEN = Path(__file__).with_name("three_steps.json")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from families import FAMILIES, NAMES  # noqa: E402


def wave(model, shape, offset):
    """The injected noise: a function of the steps made so far and the place in the tensor alone."""
    size = 1
    for length in shape:
        size = size * length
    step = ops.cast(model.step, "float32")
    for optimizer in getattr(model.optimizer, "parts", {}).values():
        step = step + 0.37 * ops.cast(optimizer.iterations, "float32")
    return ops.reshape(ops.sin(ops.convert_to_tensor(PHASES)[:size] + 2.3 * step + offset), shape)


def three_steps(family):
    """The losses of three steps, the final weights' sums and norms, and evaluation after them."""
    model = family.make()
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    model.normal = lambda shape, rows=0: 1.3 * wave(model, shape, 0.0)
    model.uniform = lambda shape, rows=0: 0.5 + 0.5 * wave(model, shape, 0.4)
    # A bias that has no gradient (before a normalisation; a critic's last) has rounding for one,
    # and Adam with its usual epsilon would make full steps of it.
    model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3))
    arrays = family.arrays(20)
    logs = [model.train_on_batch(*arrays, return_dict=True) for _ in range(3)]
    logs.append(model.test_on_batch(*arrays, return_dict=True))
    logs = [{name: float(value) for name, value in sorted(log.items())} for log in logs]
    weights = [ops.convert_to_numpy(w).astype("float64") for w in model.trainable_weights]
    return {
        "logs": logs,
        "sums": [float(w.sum()) for w in weights],
        "norms": [float(np.linalg.norm(w)) for w in weights],
    }


@pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
def test_three_steps_agree_between_backends(family):
    expected = json.loads(GOLDEN.read_text())[family.name]
    received = three_steps(family)
    assert [sorted(log) for log in received["logs"]] == [sorted(log) for log in expected["logs"]]
    for here, there in zip(received["logs"], expected["logs"], strict=True):
        for name, value in there.items():
            assert here[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
    np.testing.assert_allclose(received["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(received["norms"], expected["norms"], rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({f.name: three_steps(f) for f in FAMILIES}, indent=1) + "\n")
