"""Policies whose logits are rows of a table, and what training makes of them, in float64.

The logits of the next token are row `table[id]` of the last id: so a loss is a function of the
table that can be written down, and its gradient taken by differences.
"""

import keras
import numpy as np
from keras import ops

from artifex_keras.rl import traceable
from artifex_keras.rl.rollout import Rollout

SIZE, END, PAD = 5, 1, 0
TABLE = np.random.default_rng(1).normal(size=(SIZE, SIZE))
OTHER = TABLE + np.random.default_rng(2).normal(size=(SIZE, SIZE)) * 0.3

# Two prompts, three completions of each: one runs out of tokens, one ends at once.
PROMPTS = np.array([[3, 2, 0], [4, 0, 0]], "int32")
LENGTHS = np.array([2, 1], "int32")
COMPLETIONS = np.array([[4, 1, 0], [2, 3, 1], [3, 3, 4], [1, 0, 0], [4, 4, 2], [2, 1, 0]], "int32")
MASK = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1], [1, 1, 0]], "float64")
LAST = np.array([2, 2, 2, 4, 4, 4])
BEFORE = np.concatenate([LAST[:, None], COMPLETIONS[:, :-1]], axis=1)  # each token


def policy(table=TABLE, name="policy"):
    """The table as a network of ids (B, T)."""
    entry = keras.Input((None,), dtype="int32")
    layer = keras.layers.Embedding(*np.shape(table), name=f"{name}_table")
    model = keras.Model(entry, layer(entry), name=name)
    layer.set_weights([np.float32(table)])
    return model


def table_of(model):
    """The table of a network of `policy`."""
    return np.array(model.get_weights()[0], "float64")


def log_probs(table, before=BEFORE, tokens=COMPLETIONS, temperature=1.0):
    """ln p of each token after the one before it."""
    z = table[before] / temperature
    z = z - z.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    return np.take_along_axis(log_p, tokens[..., None], -1)[..., 0]


def entropy(table, before=BEFORE, mask=MASK):
    """The mean entropy of what may follow."""
    p = np.exp(table[before])
    p = p / p.sum(-1, keepdims=True)
    return (-(p * np.log(p)).sum(-1) * mask).sum() / mask.sum()


def slope(loss, table, step=1e-5):
    """The gradient of `loss(table)` by central differences."""
    gradient = np.zeros_like(table)
    for place in np.ndindex(*table.shape):
        moved = [table.copy(), table.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        gradient[place] = (loss(moved[0]) - loss(moved[1])) / (2 * step)
    return gradient


def rollout(old=None):
    """The completions as a policy hands them on, as if sampled with log-probabilities `old`."""
    old = log_probs(TABLE) if old is None else old
    width = PROMPTS.shape[1]
    sequence = np.full((6, width + 3), PAD, "int32")
    for row, completion in enumerate(COMPLETIONS):
        length = LENGTHS[row // 3]
        sequence[row, :length] = PROMPTS[row // 3, :length]
        sequence[row, length : length + 3] = completion
    made = {
        "completion": COMPLETIONS,
        "log_probs": np.float32(old),
        "mask": np.float32(MASK),
        "ended": np.float32((COMPLETIONS == END).any(axis=1)),
        "start": np.repeat(LENGTHS, 3),
        "sequence": sequence,
    }
    return Rollout(**{name: ops.convert_to_tensor(value) for name, value in made.items()})


def taught(model, made, rewards, rate=1.0):
    """What a step of `model`, an algorithm with a table, makes of a rollout that is fed to it, with
    rewards that are too, trained by gradient descent: `(table, logs)`."""
    if not model.compiled:
        model.compile(keras.optimizers.SGD(rate))
    if not model.rewards:
        model.reward_fn = fed_rewards
        model.actor.unpack = lambda x: {"prompt_length": ops.ones_like(x["prompt"][:, 0]), **x}
        model.actor.rollout = fed_rollout
    groups = len(rewards) // (model.num_generations + model.also_greedy)
    columns = {name: ops.convert_to_numpy(v) for name, v in made._asdict().items() if v is not None}
    columns["rewards"] = np.float32(rewards)
    x = {name: value.reshape(groups, -1, *value.shape[1:]) for name, value in columns.items()}
    x["prompt"] = np.full((groups, 1), 2, "int32")
    model.reset_metrics()
    logs = model.train_on_batch(x, return_dict=True)
    return table_of(model.policy), {name: float(value) for name, value in logs.items()}


@traceable
def fed_rewards(prompts, completions, rewards):
    return ops.reshape(rewards[:: rewards.shape[1]], (-1,))


def fed_rollout(prompts, group_size, draw, greedy=False):
    columns = {
        name: ops.reshape(value, (-1, *value.shape[2:]))
        for name, value in prompts.items()
        if name in Rollout._fields
    }
    return Rollout(**columns)


def close(x, expected, rtol=2e-4, atol=2e-6):
    np.testing.assert_allclose(x, expected, rtol=rtol, atol=atol)
