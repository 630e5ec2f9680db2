"""Episodes with an environment of tensors, all turns of which are part of the compiled step.

N rows play beside each other. A row whose episode is over plays along until the last turn, and
nothing of that is kept.
"""

import functools
import itertools
from typing import NamedTuple

import numpy as np
from keras import ops

from artifex_keras.backend import compiled
from artifex_keras.backend.processes import to_host_array
from artifex_keras.objectives import tokens as objectives
from artifex_keras.rl import rollout_weights
from artifex_keras.rl.asking import SHORT
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.data import device_columns, prompt_texts
from artifex_keras.rl.environments import Environments, checked_environment
from artifex_keras.rl.rollout import Rollout

__all__ = ["TraceableEnvironment", "TracedPlaying"]

NONE = -1  # stands in an environment's ids behind a text


class TraceableEnvironment(Environments):
    """An environment whose two methods are functions of tensors, marked by `rl.traceable`.

    | method | is given | gives |
    |---|---|---|
    | `reset(**columns)` | of `prompt`, `prompt_length` and the columns, N rows, what it names | state, ids |
    | `step(state, completions, mask)` | what the policy wrote, (N, C), 1 where that counts | state, ids, rewards, done |

    A state is whatever nest of tensors the environment likes. Ids (N, K) are what the policy reads
    next, -1 behind a shorter text; None is no text for anyone. Rewards and done are (N,). Rows that
    are done go on being given, and what comes of it isn't looked at.
    """  # noqa: E501

    count_on_host = 0

    def __init__(self, factory, **read_by):
        super().__init__(factory, **read_by)
        self.environment = checked_environment(self.factory(), self.name)

    def values(self, host_values, view):
        return view["rewards"][:, None]

    def begin(self, columns, rows):
        """`(state, ids)` of `rows` episodes that begin; `columns` are tensors by name."""
        reset = self.environment.reset
        result = reset(**self._of_columns(reset, columns))
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise self._unlike("(state, ids)", result, "reset")
        state, ids = result
        return state, self._ids(ids, rows, "reset")

    def turn(self, state, tokens, mask):
        """`(state, ids, rewards, done)` of a turn."""
        result = self.environment.step(state, tokens, mask)
        if not isinstance(result, tuple | list) or len(result) != 4:
            raise self._unlike("(state, ids, rewards, done)", result, "step")
        state, ids, rewards, done = result
        rows = tokens.shape[0]
        rewards, done = (
            self._each(name, value, rows) for name, value in (("rewards", rewards), ("done", done))
        )
        ids = self._ids(ids, rows, "step")
        return state, ids, ops.cast(rewards, "float32"), ops.cast(done, "bool")

    def _ids(self, ids, rows, method):
        if ids is None:
            return ops.zeros((rows, 0), "int32")
        ids = ops.convert_to_tensor(ids)
        if len(ids.shape) != 2 or ids.shape[0] != rows or "int" not in str(ids.dtype):
            raise self._unlike(f"ids ({rows}, K), integers", ids, method)
        return ops.cast(ids, "int32")

    def _each(self, name, value, rows):
        value = ops.convert_to_tensor(value)
        if tuple(value.shape) != (rows,):
            raise self._unlike(f"{name} ({rows},)", value, "step")
        return value

    def _unlike(self, rule, value, method):
        shape = getattr(value, "shape", None)
        found = SHORT.repr(value) if shape is None else f"shape {tuple(shape)}, {value.dtype}"
        return ValueError(
            f"The traceable environment {self.name!r} must give {rule} from `{method}`. Received: "
            f"{found} of type {type(value).__name__}."
        )


class TracedPlaying(FineTuning):
    """The part of an on-policy algorithm that plays with a `TraceableEnvironment`."""

    def traced_rollout(self, x, prompts, greedy=False):
        """A `Rollout` of G episodes of each prompt, with the noise of `begin_episodes`."""
        opening, size = self.begin_episodes(prompts), self.num_generations
        noise = [opening["noise"]]
        if self.turns > 1:
            noise += ops.unstack(opening["later_noise"], self.turns - 1)
        first = self.actor.num_start_tokens
        columns = device_columns(x, size) | {
            "prompt": ops.repeat(prompts["prompt"][:, first:], size, axis=0),
            "prompt_length": ops.repeat(prompts["prompt_length"] - first, size, axis=0),
        }
        episodes = functools.partial(played, self.actor, self.rewards, group_size=size)
        given = {"prompts": prompts, "columns": columns, "noise": noise}
        return rollout_weights.sample(
            lambda given: episodes(**given), given, self.actor, self.rollout_dtype
        )

    def traced_table(self, x, prompts, count, seed):
        """The rows of `table`."""
        shapes = tuple(tuple(each.shape) for each in prompts.values())
        x = x if isinstance(x, dict) else {}
        with self.drawing_from(seed):
            rollout = self._traced_for_table(x, prompts, shapes=shapes)
        beginnings = map(to_host_array, (rollout.sequence, rollout.start))
        prompts = prompt_texts(self, *beginnings)

        def read(ids):
            return ids if self.tokenizer is None else self.tokenizer.decode(ids)

        return episode_rows(rollout, prompts, read, count)

    @compiled
    def _traced_for_table(self, x, prompts, shapes):
        with self.ema_weights():
            return self.traced_rollout(x, prompts)


class _Texts(NamedTuple):
    """N texts so far, (N, M) each with nothing behind `length` (N,)."""

    ids: object
    own: object  # 1 on the policy's own tokens
    log_probs: object
    length: object


def played(actor, environment, prompts, columns, noise, group_size):
    """A `Rollout` of one episode for each row, with its `rewards`.

    Args:
        prompts: what `actor.unpack` gives.
        columns: tensors of N rows by name, for `reset`.
        noise: of each turn (N, C).
    """
    prompt, length = prompts["prompt"], prompts["prompt_length"]
    rows, new = noise[0].shape
    room = None if actor.max_length is None else actor.max_length - new + 1
    state, ids = environment.begin(columns, rows)
    _check_room(prompt.shape[1] + ids.shape[1], room, ids.shape[1], environment)
    texts = _beginnings(actor, prompt, length, group_size, ids)
    start, width = texts.length, 0
    opened = ops.ones((rows,), "bool")
    ended, wrong = ops.zeros_like(opened), _unknown(actor, ids)
    turns = rewards = ops.zeros((rows,), "float32")
    for index, uniforms in enumerate(noise):
        read = prompt, length
        if index or ids.shape[1]:
            read, group_size = _readable(texts, room), 1
        tokens, log_probs = actor.completions(*read, group_size, uniforms)
        mask = objectives.end_mask(tokens, actor.end_token_ids)
        written = ops.where(opened, ops.cast(ops.sum(mask, axis=1), "int32"), 0)
        texts = _appended(texts, actor, tokens, written, log_probs)
        state, ids, reward, done = environment.turn(state, tokens, mask)
        rewards = rewards + ops.where(opened, reward, 0.0)
        turns = turns + ops.cast(opened, "float32")
        ended = ops.where(opened, done, ended)
        width += new
        if index + 1 < len(noise):
            count = _count(ids)
            opened = ops.logical_and(opened, ops.logical_not(done))
            if room is not None:
                opened = ops.logical_and(opened, texts.length + count <= room)
            wrong = ops.logical_or(wrong, ops.logical_and(opened, _unknown(actor, ids)))
            texts = _appended(texts, actor, ids, ops.where(opened, count, 0))
            width += ids.shape[1]
    # What isn't finite makes the loss no number, of which `on_nan` speaks; NaN would be no reward.
    wrong = ops.logical_or(wrong, ops.logical_not(ops.isfinite(rewards)))
    rewards = ops.where(wrong, -float("inf"), rewards)
    return _rollout(texts, actor, start, width, ended, turns, rewards)


def _check_room(width, room, added, environment):
    if added and room is not None and width > room:
        raise ValueError(
            "A prompt, the text of `reset` and a turn must fit into the network's context. "
            f"Received: {width} tokens before the first turn from {environment.name!r}, with room "
            f"for {room}. Take a longer network, shorter texts, or fewer new tokens."
        )


def _beginnings(actor, prompt, length, group_size, ids):
    """The texts before the first turn: prompts, and what `reset` gave."""
    prompt, length = (ops.repeat(x, group_size, axis=0) for x in (prompt, length))
    real = ops.arange(prompt.shape[1], dtype="int32")[None] < length[:, None]
    zeros = ops.zeros(prompt.shape, "float32")
    texts = _Texts(ops.where(real, prompt, actor.pad_token_id), zeros, zeros, length)
    return _appended(texts, actor, ids, _count(ids))


def _count(ids):
    """How many ids of each row stand before the first -1."""
    return ops.sum(ops.cumprod(ops.cast(ids >= 0, "int32"), axis=1), axis=1)


def _unknown(actor, ids):
    """The rows with ids that the policy doesn't know."""
    if actor.vocabulary_size is None:
        return ops.zeros((ids.shape[0],), "bool")
    return ops.any(ids >= actor.vocabulary_size, axis=1)


def _readable(texts, room):
    """`(ids, length)` for the policy to go on from, no wider than the context allows."""
    width = texts.ids.shape[1] if room is None else min(texts.ids.shape[1], room)
    return texts.ids[:, :width], ops.minimum(texts.length, width)


def _appended(texts, actor, ids, count, log_probs=None):
    """Texts with the first `count` (N,) of `ids` (N, K) behind: the policy's own with their
    `log_probs`, or the environment's."""
    width = ids.shape[1]
    if not width:
        return texts
    own = log_probs is not None
    values = ids, ops.full(ids.shape, float(own)), log_probs if own else ops.zeros(ids.shape)
    total = texts.ids.shape[1] + width
    if actor.max_length is not None:
        total = max(texts.ids.shape[1], min(total, actor.max_length + 1))
    places = ops.arange(total, dtype="int32")[None] - texts.length[:, None]
    added = ops.logical_and(places >= 0, places < count[:, None])
    source = ops.clip(places, 0, width - 1)
    more = [[0, 0], [0, total - texts.ids.shape[1]]]
    found = []
    for before, value, pad in zip(texts[:3], values, (actor.pad_token_id, 0.0, 0.0), strict=True):
        before = ops.pad(before, more, constant_values=pad)
        found.append(ops.where(added, ops.take_along_axis(value, source, axis=1), before))
    return _Texts(*found, texts.length + count)


def _rollout(texts, actor, start, width, ended, turns, rewards):
    """The texts as a `Rollout`: what follows `start`, `width` tokens at most, is the completion."""
    width = min(width, texts.ids.shape[1])
    places = start[:, None] + ops.arange(width, dtype="int32")[None]
    real = places < texts.length[:, None]
    source = ops.minimum(places, texts.ids.shape[1] - 1)

    def behind(values, pad):
        return ops.where(real, ops.take_along_axis(values, source, axis=1), pad)

    return Rollout(
        completion=behind(texts.ids, actor.pad_token_id),
        log_probs=behind(texts.log_probs, 0.0),
        mask=behind(texts.own, 0.0),
        ended=ops.cast(ended, "float32"),
        sequence=texts.ids,
        start=start,
        turns=turns,
        rewards=rewards,
    )


def episode_rows(rollout, prompts, read, count):
    """The first `count` episodes as `Episodes.table` gives them; `read(ids)` makes a text."""
    arrays = (rollout.completion, rollout.mask, rollout.rewards)
    rows = zip(prompts, *map(to_host_array, arrays), strict=True)
    found = []
    for prompt, ids, own, reward in itertools.islice(rows, count):
        last = np.flatnonzero(own)[-1] + 1 if own.any() else 0
        runs = itertools.groupby(
            zip(own[:last] != 0, ids[:last].tolist(), strict=True), lambda x: x[0]
        )
        parts = [
            ("\n> " if mine else "\n< ") + f"{read([i for _, i in run])}" for mine, run in runs
        ]
        text = "".join(parts).removeprefix("\n> ")
        found.append({"prompt": prompt, "completion": text, "reward": float(reward)})
    return found
