"""Rewards: what is one, where each runs, and what is made of what all of them say.

N completions stand in a batch, K rewards judge them. A value that doesn't apply is None for a
Python function and NaN in a tensor.
"""

import functools
import inspect
import re
from typing import TypeVar

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import broken_rule, checked, number
from artifex_keras.backend import without_gradient
from artifex_keras.rl.asking import ask
from artifex_keras.rl.host_rewards import decoded, results_of, run_coroutine
from artifex_keras.rl.reward_function import Reward, missing_column
from artifex_keras.trust import deserialize_callable

T = TypeVar("T")

__all__ = [
    "Rewards",
    "rewards_config",
    "rewards_from_config",
    "traceable",
]

TAKEN = {"reward", "std"}  # `reward` and `reward_std` are metrics of all rewards together


@checked()
def traceable(function: T) -> T:
    """Marks a reward function of tensors, or an environment: it runs inside the compiled step.

    It is called as ``function(prompts, completions, **columns)`` with tensors of the running
    backend, token ids (N, W) and (N, C) or samples (N, ...), and gives a tensor (N,), NaN where it
    doesn't apply. To its columns belong `completion_mask` (N, C), 1 on the tokens up to and
    including the first end token, and `prompt_length` (N,). It also marks the class of an
    environment whose `reset(**columns) -> (state, ids)` and ``step(state, completions, mask) ->
    (state, ids, rewards, done)`` are functions of tensors. A decorator, which goes with
    `keras.saving.register_keras_serializable` in either order.

    Example:

        ```python
        from keras import ops
        from artifex_keras.rl import traceable

        @traceable
        def sevens(prompts, completions, completion_mask):
            return ops.sum(ops.cast(completions == 7, "float32") * completion_mask, axis=1)

        print(sevens(None, ops.array([[7, 1], [7, 7]]), ops.array([[1.0, 1.0], [1.0, 0.0]])))
        ```
    """
    if not callable(function):
        raise broken_rule("function", function, "a reward function")
    try:
        function._traceable = True
    except AttributeError:  # a bound method holds no attributes
        return traceable(functools.wraps(function)(functools.partial(function)))
    return function


class Rewards:
    """What judges completions: one reward or several, weighted and summed.

    | a reward is | runs | is called | gives |
    |---|---|---|---|
    | a Keras model or layer | on the device | `model(rows)` | (N,), (N, 1), (N, T), (N, T, 1) |
    | a function marked `traceable` | on the device | with tensors | a tensor (N,) |
    | a function | on the host | with texts, ids or arrays | N numbers, None allowed |
    | an `async def` function | on the host, all at once | like a function | N numbers |

    A model's rows are prompt and completion, (N, W + C) ids with padding behind them, of whose
    scores per token that of the last real token counts; or samples (N, ...), where these are what
    is judged. It runs with `training=False`.

    A function is called as ``reward_fn(prompts, completions, **columns)``, with those columns of
    the data that it has parameters for, and all of them if it takes ``**kwargs``. The two come
    first, whatever they are called, or by their names `prompts` and `completions` if
    `completions` is not the second parameter, as in ``def reward(completions, answer)``.

    Args:
        reward_fn: a reward, or a list of them; None for none yet.
        reward_weights: a number for each, 1 by default.
        tokenizer, end_token_ids: what `readable` makes texts with.

    Attributes:
        names: of the rewards, all different: a function's, a model's, or that of a class.

    Raises:
        ValueError: for what isn't a reward, for no reward in a list, and for weights that aren't
            one finite number for each.
    """

    plays = False  # whether an environment stands here

    def __init__(self, reward_fn, reward_weights=None, *, tokenizer=None, end_token_ids=None):
        functions = _listed(reward_fn)
        self.names = _names(functions)
        self._rewards = [Reward(*pair) for pair in zip(self.names, functions, strict=True)]
        self.weights = _weights(reward_weights, None if reward_fn is None else len(functions))
        self.tokenizer, self.end_token_ids = tokenizer, end_token_ids

    def __len__(self):
        return len(self._rewards)

    @property
    def on_host(self):
        """Whether any reward must run on the host."""
        return bool(self._host)

    @property
    def count_on_host(self):
        """How many rewards run on the host."""
        return len(self._host)

    @property
    def _host(self):
        return [reward for reward in self._rewards if reward.on_host]

    def check_columns(self, columns):
        """Raises a ValueError for a column that a reward on the host needs and that there isn't."""
        for reward in self._host:
            for name, required in reward.wanted.items():
                if required and name not in columns:
                    raise ValueError(missing_column(reward.name, name, columns))

    def readable(self, ids, mask):
        """Completions as functions on the host are given them, see `decoded`."""
        return decoded(self.tokenizer, ids, mask, self.end_token_ids)

    def host(self, prompts, completions, columns, *, timeout=None, retries=0):
        """What the rewards on the host say: NumPy float32, (N, number of these), NaN for None.

        Args:
            prompts, completions: N texts or lists of ids each, or arrays (N, ...).
            columns: a list or an array of N by name.
            timeout, retries: of each reward, see `asking.ask`.

        Raises:
            ValueError: with the reward's name for a column that is missing, for results that
                aren't N, and with the row for one that is neither a finite number nor None. What
                a reward raises itself gets a note with its name, the row that it read and the
                prompt.
            TimeoutError: for a reward that takes longer than `timeout`.
        """
        # Asynchronous ones come last, so that no coroutine is left over if another one fails.
        rewards = sorted(self._host, key=lambda reward: reward.asynchronous)
        calls = [reward.reading(prompts, completions, columns) for reward in rewards]
        numbers = {
            reward.name: ask(reward.name, *call, timeout, retries)
            for reward, call in zip(rewards, calls, strict=True)
        }
        waiting = {name: x for name, x in numbers.items() if inspect.isawaitable(x)}
        if waiting:
            numbers |= run_coroutine(results_of(waiting))
        return np.stack([numbers[reward.name] for reward in self._host], axis=1)

    def require_one(self, host_values):
        """Raises a ValueError if no reward gave a number for any completion of a batch: there is
        nothing to learn, and a reward of 0 would be a lie."""
        if self._rewards and len(self._host) == len(self) and np.isnan(host_values).all():
            raise ValueError(
                "`reward_fn` must give a number for some completion of each batch, None being for "
                f"those that it doesn't apply to. Received: None for all {len(host_values)} of "
                f"{', '.join(map(repr, self.names))}. Leave such prompts out of the data, or give "
                "0.0 for what earns nothing."
            )

    def device(self, view):
        """What the rewards on the device say: a list of float32 tensors (N,).

        Args:
            view: `prompts` and `completions`, tensors of N rows; of tokens also `sequence`
                (N, W + C), the completion right behind each prompt, and `last` (N,), the place of
                its last real token; `columns`, tensors of N rows by name.

        Raises:
            ValueError: with the reward's name for a column that is missing, and for a result of
                another shape.
        """
        rewards = [reward for reward in self._rewards if not reward.on_host]
        return [without_gradient(functools.partial(reward.scores, view)) for reward in rewards]

    def values(self, host_values, view):
        """What each reward says, (N, K) in their order, from `host`'s result and `device`'s view.

        `host_values` isn't looked at where no reward runs on the host.
        """
        device = iter(self.device(view))
        if self.on_host:
            host_values = iter(
                ops.unstack(ops.convert_to_tensor(host_values, "float32"), len(self._host), 1)
            )
        columns = [next(host_values if reward.on_host else device) for reward in self._rewards]
        return ops.stack(columns, axis=1)

    def combined(self, values):
        """``Σ_k w_k r_k`` over the rewards that apply, (N,) from (N, K); NaN where none does."""
        values = ops.cast(values, "float32")
        applies = ops.logical_not(ops.isnan(values))
        weights = ops.convert_to_tensor(self.weights, "float32")
        total = ops.sum(weights * ops.where(applies, values, ops.zeros_like(values)), axis=1)
        return ops.where(ops.any(applies, axis=1), total, ops.full_like(total, float("nan")))


# What is a reward


def _listed(reward_fn):
    if reward_fn is None:
        return []
    functions = list(reward_fn) if isinstance(reward_fn, list | tuple) else [reward_fn]
    if not functions:
        raise ValueError("`reward_fn` must hold at least one reward. Received: an empty list.")
    for function in functions:
        if not callable(function) or isinstance(function, type):
            ready = isinstance(function, str)
            raise ValueError(
                "`reward_fn` must be a function, a Keras model, or a list of these. "
                f"{'`rl.ready_rewards` makes ready ones. ' if ready else ''}Received: "
                f"{function!r} of type {type(function).__name__}."
            )
    return functions


def _weights(weights, count):
    """The weights as floats; `count` is None where the rewards aren't known yet."""
    if weights is None:
        return [1.0] * (count or 0)
    weights = weights.tolist() if getattr(weights, "ndim", None) == 1 else weights
    listed = isinstance(weights, list | tuple)
    if not listed or (count is not None and len(weights) != count):
        raise ValueError(
            "`reward_weights` must be a list with one number for each reward. "
            f"Received: reward_weights={weights!r} for {count} rewards."
        )
    return [number("reward_weights", weight) for weight in weights]


def _names(functions):
    names = []
    for function in functions:
        first = name = _name(function)
        again = 2
        while name in names:
            name, again = f"{first}_{again}", again + 1
        names.append(name)
    return names


def _name(function):
    while isinstance(function, functools.partial) and not hasattr(function, "__name__"):
        function = function.func
    if isinstance(function, keras.Layer):
        name = function.name
    else:
        name = getattr(function, "__name__", type(function).__name__)
    name = re.sub(r"\W+", "_", name).strip("_") or "function"
    return f"{name}_fn" if name in TAKEN else name


# Saving


def rewards_config(reward_fn):
    """`reward_fn` as Keras writes it down, or None where it can't all be written.

    Keras objects are, and functions registered by `keras.saving.register_keras_serializable`. Any
    other function isn't, nor is an object with a lambda inside: code doesn't go into files.
    """
    if not isinstance(reward_fn, list | tuple):
        return None if reward_fn is None else _config(reward_fn)
    configs = [_config(function) for function in reward_fn]
    return None if None in configs else configs


def rewards_from_config(config, custom_objects=None):
    """The `reward_fn` of a `rewards_config`; None of None."""
    if config is None:
        return None
    if isinstance(config, list | tuple):
        return [deserialize_callable(each, "reward_fn", custom_objects) for each in config]
    return deserialize_callable(config, "reward_fn", custom_objects)


def _config(function):
    if not hasattr(function, "get_config") and not _is_registered(function):
        return None
    try:
        config = keras.saving.serialize_keras_object(function)
    except (TypeError, NotImplementedError):  # a part of it can't be written
        return None
    return None if "__lambda__" in keras.tree.flatten(config) else config


def _is_registered(function):
    if not hasattr(function, "__name__"):
        return False
    name = keras.saving.get_registered_name(function)
    return keras.saving.get_registered_object(name) is function
