"""Episodes of several turns: the policy writes, an environment answers, and so on.

An episode becomes one row of a `Rollout`: what follows the beginning is the completion, of which
the mask counts the policy's own tokens. What the environment wrote is read, and teaches nothing.
"""

import keras
import numpy as np
from keras import ops

from artifex_keras.backend import compiled, processes, spread
from artifex_keras.backend.processes import to_host_array
from artifex_keras.objectives import tokens as objectives
from artifex_keras.rl import rollout_weights
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.host_rewards import decoded
from artifex_keras.rl.rollout import Rollout, repeated

__all__ = ["Playing", "on_devices", "rounded_width"]

DEFAULT_TURNS = 10
SMALLEST = 16  # of the widths that texts are padded to


def rounded_width(longest, limit=None):
    """The width to which rows of up to `longest` tokens are padded: 16, 32, 64, ..., so that few
    programs serve all turns; at most `limit`, but not below `longest`."""
    width = SMALLEST
    while width < longest:
        width *= 2
    return width if limit is None else max(min(width, limit), longest)


class Playing(FineTuning):
    """The part of an on-policy algorithm that plays episodes with an environment."""

    @property
    def turns(self):
        """How many turns an episode has at most."""
        return DEFAULT_TURNS if self.max_turns is None else self.max_turns

    def begin_episodes(self, prompts):
        """What episodes of a batch of prompts begin with: prompts, and the noise of all turns."""
        shape = (prompts["prompt"].shape[0] * self.num_generations, self.max_new_tokens)
        opening = {**prompts, "noise": self.uniform(shape)}
        if self.turns > 1:
            opening["later_noise"] = self.uniform((self.turns - 1, *shape), rows=1)
        return opening

    def between(self, turn, data, outputs, training):
        if not (self.rewards.plays and self.rewards.on_host):
            return super().between(turn, data, outputs, training)
        x = keras.utils.unpack_x_y_sample_weight(data)[0]
        columns = self.episode_columns(x, outputs, "train" if training else "evaluate")
        episodes = self.play(turn, outputs, columns)
        return episodes.rollout(), episodes.values()

    def turn_on(self, prompt, length, uniforms, training=True):
        """The policy's part of a turn, within a compiled step: tokens, their log-probabilities and
        mask, each (N, C), after texts (P, W) of lengths (P,), N/P after each."""
        with self._in_phase("train" if training else "evaluate"):
            if training:
                return self._turn(prompt, length, uniforms)
            with self.ema_weights():
                return self._turn(prompt, length, uniforms)

    def _turn(self, prompt, length, uniforms):
        prompt, length, uniforms = map(ops.convert_to_tensor, (prompt, length, uniforms))
        prompt, length = spread(prompt), spread(length)
        group_size = uniforms.shape[0] // prompt.shape[0]

        def written(texts):
            tokens, log_probs = self.actor.completions(*texts[:2], group_size, texts[2])
            return tokens, log_probs, objectives.end_mask(tokens, self.actor.end_token_ids)

        texts = (prompt, length, uniforms)
        return rollout_weights.sample(written, texts, self.actor, self.rollout_dtype)

    def play(self, turn, opening, columns):
        """Plays an episode for each row: `Episodes`.

        Args:
            turn: `turn_on`, compiled, with the weights of the moment.
            opening: what `begin_episodes` gave.
            columns: of the prompts, P values by name, `prompt` among them.
        """
        prompt, length = (to_host_array(opening[name]) for name in ("prompt", "prompt_length"))
        episodes = Episodes(self, prompt, length)
        episodes.reset(columns)
        later = to_host_array(opening["later_noise"]) if self.turns > 1 else []
        for index, noise in enumerate([opening["noise"], *later]):
            texts = episodes.texts() if index else episodes.beginnings()
            written = map(to_host_array, turn(*texts, noise))
            episodes.step(index + 1, *written)
            if not episodes.open:
                break
        return episodes

    # A program for each of `shapes`: TensorFlow would leave open what differs between calls.

    def _begin_for_table(self, prompts):
        return self._begin_of(prompts, shapes=_shapes(prompts))

    @compiled
    def _begin_of(self, prompts, shapes):
        return self.begin_episodes(prompts)

    def _turn_for_table(self, *arrays):
        return self._turn_of(*arrays, shapes=_shapes(arrays))

    @compiled
    def _turn_of(self, prompt, length, uniforms, shapes):
        with self.ema_weights():
            return self._turn(prompt, length, uniforms)


def _shapes(arrays):
    return tuple(tuple(each.shape) for each in keras.tree.flatten(arrays) if each is not None)


class Episodes:
    """The episodes of a batch as they are played, N rows.

    Attributes:
        open: the rows whose episode isn't over.
        rewards: the sum of each row's rewards so far, (N,).
        prompts: what each row's policy reads first, N texts.
        transcripts: of each row the texts that follow, by turns: the policy's, the environment's.
    """

    def __init__(self, algorithm, prompt, length):
        self.algorithm, self.actor = algorithm, algorithm.actor
        self.environments, self.group_size = algorithm.rewards, algorithm.num_generations
        self.width = prompt.shape[1]
        prompts = [ids[:n].tolist() for ids, n in zip(prompt, length, strict=True)]
        self.rows = repeated(prompts, self.group_size)
        count = len(self.rows)
        self.open, self.start = list(range(count)), [len(row) for row in self.rows]
        self.own, self.log_probs, self.transcripts = ([[] for _ in self.rows] for _ in range(3))
        self.rewards, self.turns, self.ended = np.zeros((3, count))

    @property
    def room(self):
        """How long a text may be that the policy goes on from; None for any length."""
        limit = self.actor.max_length
        return None if limit is None else limit - self.algorithm.max_new_tokens + 1

    def _ask(self, method, *arguments):
        """What the environments give. One process asks, and all go on with the same answer."""
        method, timeout = getattr(self.environments, method), self.algorithm.reward_timeout
        return processes.on_first_process(lambda: method(*arguments, timeout=timeout))

    def reset(self, columns):
        """Begins all episodes."""
        columns = {name: repeated(values, self.group_size) for name, values in columns.items()}
        self.environments.prompts = self.prompts = columns["prompt"]
        for row, (text, ids) in enumerate(self._ask("reset", columns, len(self.rows))):
            if ids and not np.array_equal(text, self.prompts[row]):  # the prompt adds nothing
                self._check(ids, 0, row)
                self.rows[row] = self.rows[row] + ids
                self.prompts[row] = self.prompts[row] + text
        before, self.start = self.start, [len(row) for row in self.rows]
        if self.start != before:
            self.width = rounded_width(max(self.start), self.room)
        self._check_room()

    def _check_room(self):
        """Raises a ValueError for a beginning that leaves no room for a turn."""
        longest = max(self.start)
        if self.room is None or longest <= self.room:
            return
        place = self.environments.place(0, self.start.index(longest))
        self.environments.close()
        raise ValueError(
            "A prompt, the text of `reset` and a turn must fit into the network's context of "
            f"{self.actor.max_length} tokens. Received: {longest} tokens before the first turn and "
            f"max_new_tokens={self.algorithm.max_new_tokens}, {place}. Take a longer network, "
            "shorter texts, or fewer new tokens."
        )

    def _check(self, ids, turn, row):
        """Raises a ValueError for ids that the policy doesn't know."""
        try:
            self.actor.check_ids(np.array(ids))
        except ValueError as error:
            place = self.environments.place(turn, row)
            error.add_note(f"In what the environment {self.environments.name!r} gave, {place}.")
            self.environments.close()
            raise

    def beginnings(self):
        """`(ids, lengths)` before the first turn: of each prompt, where its episodes begin alike,
        or else of each row."""
        first, size = self.rows[:: self.group_size], self.group_size
        rows = first if repeated(first, size) == self.rows else self.rows
        return self._padded(rows, self.width), _lengths(rows)

    def texts(self):
        """`(ids, lengths)` of all rows so far; of those that are over, only the first id."""
        rows = [row[:1] for row in self.rows]
        for row in self.open:
            rows[row] = self.rows[row]
        return self._padded(rows, rounded_width(max(map(len, rows)), self.room)), _lengths(rows)

    def step(self, turn, tokens, log_probs, mask):
        """Shows the environments what the policy has written in the rows that aren't over."""
        ends, tokenizer = self.actor.end_token_ids, self.algorithm.tokenizer
        written = decoded(tokenizer, tokens[self.open], mask[self.open], ends)
        for row in self.open:
            counts = mask[row] != 0
            self._append(row, tokens[row][counts].tolist(), log_probs[row][counts].tolist())
        answers = self._ask("step", turn, self.open, written)
        still_open = []
        for row, text, (answer, ids, reward, done) in zip(self.open, written, answers, strict=True):
            self.transcripts[row] += [text, answer]
            self.rewards[row] += reward
            self.turns[row], self.ended[row] = turn, done
            fits = self.room is None or len(self.rows[row]) + len(ids) <= self.room
            if not done and turn < self.algorithm.turns and fits:
                self._check(ids, turn, row)
                self._append(row, ids)
                still_open.append(row)
        self.open = still_open

    def _append(self, row, ids, log_probs=None):
        """Adds the policy's own tokens, or without `log_probs` those of the environment."""
        self.rows[row] = self.rows[row] + ids
        self.own[row] += [float(log_probs is not None)] * len(ids)
        self.log_probs[row] += [0.0] * len(ids) if log_probs is None else log_probs

    def values(self):
        """The reward of each episode, (N, 1) float32."""
        return self.rewards[:, None].astype("float32")

    def rollout(self):
        """The `Rollout` of all episodes, in NumPy."""
        longest, width = max(map(len, self.own)), self.algorithm.max_new_tokens
        width = width if longest <= width else rounded_width(longest)
        completions = [row[start:] for row, start in zip(self.rows, self.start, strict=True)]
        return Rollout(
            completion=self._padded(completions, width),
            log_probs=_filled(self.log_probs, width, 0.0, "float32"),
            mask=_filled(self.own, width, 0.0, "float32"),
            ended=self.ended.astype("float32"),
            sequence=self._padded(self.rows, self.width + width),
            start=np.array(self.start, "int32"),
            turns=self.turns.astype("float32"),
        )

    def table(self, count):
        """The first `count` episodes, dicts of `prompt`, `completion` and `reward`. In a completion
        a line begins with ``>`` where the policy goes on, with ``<`` where it reads."""
        rows = []
        for prompt, texts, reward in zip(self.prompts, self.transcripts, self.rewards, strict=True):
            turns = [f"{a}\n< {b}" for a, b in zip(texts[::2], texts[1::2], strict=True)]
            reward = float(np.float32(reward))
            rows.append({"prompt": prompt, "completion": "\n> ".join(turns), "reward": reward})
        return rows[:count]

    def _padded(self, rows, width):
        return _filled(rows, width, self.actor.pad_token_id, "int32")


def on_devices(rollout):
    """A rollout that the host has made, its rows sharded over the devices of a distribution."""

    def placed(rows):
        return spread(ops.convert_to_tensor(rows))

    return keras.tree.map_structure(placed, rollout, none_is_leaf=False)


def _lengths(rows):
    return np.array([len(row) for row in rows], "int32")


def _filled(rows, width, value, dtype):
    """Rows of several lengths as one array, `value` behind each."""
    filled = np.full((len(rows), width), value, dtype)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled
