"""Prompts: what `fit` takes, their columns, and the view of a rollout that rewards are given."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data
from artifex_keras.backend import compiled, keras_internals
from artifex_keras.backend.processes import to_host_array
from artifex_keras.datasets import PromptBatches
from artifex_keras.datasets.rows import are_rows, split_rows
from artifex_keras.models.data_contract import Contract
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.host_rewards import decoded
from artifex_keras.rl.rollout import repeated

__all__ = ["PromptData", "device_columns", "device_view", "host_view", "prompt_texts"]

NO_COLUMNS = ("prompt", "prompt_length", "row")  # of a batch: the rest are columns for rewards


class PromptData(FineTuning):
    """The part of an on-policy algorithm that reads prompts and shows completions."""

    def fit(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit` on prompts: P = `batch_size` of them a step, G completions of each.

        Args:
            x: texts, rows of ids, dicts with a prompt and further columns, an array of ids (N, W),
                a file of JSON lines, a `datasets.PromptBatches`, or batches in any form that `fit`
                takes; of a policy of denoising steps, conditions, or an array (N, 0) without.

        Raises:
            ValueError: without a reward; for prompts that can't be used, targets, sample weights.
        """
        self._forbid_targets(y, kwargs.get("sample_weight"))
        self.check_reward()
        self.check_overlap()
        shuffle = kwargs.pop("shuffle", True)
        share = kwargs.get("validation_data") is None and kwargs.get("validation_split")
        if share and self.actor.tokens and are_rows(x):
            x, kwargs["validation_data"] = split_rows(x, share)
            del kwargs["validation_split"]
        x = self._prepare_prompts(x, batch_size, "train", shuffle)
        self._check_batch_sizes(x, batch_size or 32)
        if kwargs.get("validation_data") is not None:
            held_out = kwargs["validation_data"]
            held_out = held_out[0] if isinstance(held_out, tuple) else held_out
            size = kwargs.get("validation_batch_size") or batch_size
            kwargs["validation_data"] = self._prepare_prompts(held_out, size, "evaluate", False)
        if isinstance(x, PromptBatches):
            batch_size, shuffle = None, False
        return super().fit(x, None, batch_size, *args, shuffle=shuffle, **kwargs)

    def evaluate(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ):
        """`keras.Model.evaluate` on prompts, in the forms that `fit` takes."""
        self.check_reward()
        if not keras_internals.is_validation(kwargs):
            self._forbid_targets(y, kwargs.get("sample_weight"))
            x = self._prepare_prompts(x, batch_size, "evaluate", False)
        if isinstance(x, PromptBatches):
            batch_size = None
        return super().evaluate(x, y, batch_size, *args, **kwargs)

    def _forbid_targets(self, y, sample_weight):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{type(self).__name__} learns from rewards: there is no use for `{name}`. "
                    "What rewards need besides goes into columns of the prompts' dicts."
                )

    def _check_batch_sizes(self, x, size):
        """Checks the sizes of the batches that `x` gives, where they are known beforehand."""
        leaves = keras.tree.flatten(x)
        if isinstance(x, PromptBatches):
            sizes = [x.batch_size] if x.drop_remainder else [x.batch_size, x.rows % x.batch_size]
        elif all(hasattr(leaf, "shape") for leaf in leaves):
            rows = len(leaves[0])
            sizes = [min(rows, size), rows % size]
        else:
            return
        self.check_minibatches(
            *[self.learned_prompts(prompts) * self.num_generations for prompts in sizes]
        )

    def check_reward(self):
        """Raises a ValueError where there is no reward."""
        if not self.rewards:
            raise ValueError(
                "There is no reward: give a `reward_fn`, or an `environment`. Of a model that was "
                "loaded set `model.reward_fn` or `model.environment` again, as Python code isn't "
                "saved with its model."
            )

    def _prepare_prompts(self, x, batch_size, phase, shuffle):
        """The prompts as Keras takes them; texts, lists and files become `PromptBatches`."""
        arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))
        if self.actor.tokens and are_rows(x):
            drop = phase == "train"
            x = self.prompt_batches(x, batch_size or 32, shuffle=shuffle, drop_remainder=drop)
        if isinstance(x, PromptBatches):
            self._tables[phase] = x.columns
            self.actor.check_prompts(x.lengths)
            if phase == "train":
                self._example = x[0]
        elif arrays and keras.tree.flatten(x):
            self.check_batch(x, None)
            if phase == "train":
                self._example = keras.tree.map_structure(lambda a: a[: batch_size or 32], x)
        return x

    def prompt_batches(self, prompts, batch_size, **options):
        """`prompts` in the batches that this policy takes: a `datasets.PromptBatches`.

        Raises:
            ValueError: for prompts that can't be used.
        """
        batches = PromptBatches(
            prompts,
            batch_size,
            tokenizer=self.tokenizer,
            max_length=self.max_prompt_length,
            pad_token_id=self.actor.pad_token_id,
            **options,
        )
        self.actor.check_ids(np.concatenate(batches.prompts))
        self.actor.check_prompts(batches.lengths)
        self.rewards.check_columns({*batches.columns, *batches.numbers} - {"prompt"})
        return batches

    def check_batch(self, x, y):
        """Raises a ValueError for prompts of another shape or dtype, and for ids or lengths that
        the policy can't take."""
        self.actor.check_batch(x, type(self).__name__)

    def data_contract(self):
        """Of prompts: their columns may hold anything, NaN too, as only rewards read them."""
        return Contract(x=None, rows=lambda x: self.check_batch(x, None))

    def build_from_batch(self, first_batch):
        """The policy is built already; its prompts are checked as they come."""
        self.check_reward()

    # Completions to look at

    def table(self, prompts=None, count=8, *, seed=0):
        """`count` completions with their rewards: a list of dicts `prompt`, `completion`, `reward`
        and, of several rewards, each by its name; neither the run nor its noise is touched.

        Args:
            prompts: in any form that `fit` takes, by default the first that `fit` was given.
            seed: draws the same ones each time.

        Raises:
            ValueError: without a reward, and without prompts before the first `fit`.
        """
        self.check_reward()
        x, phase = self._example, "train"
        if prompts is not None:
            x, phase = self._prepare_prompts(prompts, count, "table", False), "table"
        if x is None:
            raise ValueError("`table` needs prompts: give some, or call `fit` first.")
        if isinstance(x, PromptBatches):
            x = x[0]
        size = self.num_generations
        x = keras.tree.map_structure(lambda rows: rows[: -(-count // size)], x)
        unpacked = self.actor.unpack(keras.tree.map_structure(ops.convert_to_tensor, x))
        if self.rewards.plays:
            return self._episode_table(x, unpacked, phase, count, seed)
        with self.drawing_from(seed):
            rollout = self._sample_for_table(unpacked)
        host_values = self.host_rewards(x, rollout, phase, size)
        values = self.rewards.values(host_values, device_view(self.actor, x, rollout, size))
        values = ops.convert_to_numpy(values)
        rewards = ops.convert_to_numpy(self.rewards.combined(ops.convert_to_tensor(values)))
        prompts, completions, _ = host_view(self, x, rollout, phase, size)
        rows = []
        for index in range(min(count, len(rewards))):
            row = {"prompt": prompts[index], "completion": completions[index]}
            row["reward"] = float(rewards[index])
            if len(self.rewards.names) > 1:
                row |= dict(zip(self.rewards.names, map(float, values[index]), strict=True))
            rows.append(row)
        return rows

    def _episode_table(self, x, unpacked, phase, count, seed):
        """The rows of `table` with an environment."""
        if not self.rewards.on_host:
            return self.traced_table(x, unpacked, count, seed)
        with self.drawing_from(seed):
            opening = self._begin_for_table(unpacked)
        columns = self.episode_columns(x, opening, phase)
        return self.play(self._turn_for_table, opening, columns).table(count)

    def episode_columns(self, x, opening, phase):
        """What the environments of a batch are given: P values by name, `prompt` among them."""
        columns = host_columns(self, x, phase)
        if "prompt" not in columns:
            ids = (to_host_array(opening[name]) for name in ("prompt", "prompt_length"))
            columns["prompt"] = prompt_texts(self, *ids)
        return columns

    @compiled
    def _sample_for_table(self, prompts):
        with self.ema_weights():
            return self.sample_rollout(prompts)


def host_columns(algorithm, x, phase):
    """The columns that came with the prompts by name, P values each, as Python functions are given
    them. `prompt` is among them where prompts came as texts."""
    columns = {}
    if isinstance(x, dict):
        for name, value in x.items():
            if name not in NO_COLUMNS:
                columns[name] = to_host_array(value)
        if "row" in x:
            rows = to_host_array(x["row"])
            table = algorithm._tables.get(phase, {})
            columns |= {name: [values[i] for i in rows] for name, values in table.items()}
    return columns


def prompt_texts(algorithm, ids, lengths):
    """The prompts in rows of ids (P, W), of which the first `lengths` (P,) count, as Python
    functions are given them."""
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    first = algorithm.actor.num_start_tokens
    return decoded(algorithm.tokenizer, ids[:, first:], mask[:, first:], None)


def host_view(algorithm, x, rollout, phase, group_size):
    """`(prompts, completions, columns)` of a rollout as Python functions are given them.

    Texts with a tokenizer, lists of ids without, arrays of samples; N each, and columns that came
    with the prompts by name.
    """
    policy, tokenizer = algorithm.actor, algorithm.tokenizer
    columns = host_columns(algorithm, x, phase)
    completions = to_host_array(rollout.completion)
    if "prompt" in columns:
        prompts = columns.pop("prompt")
    elif policy.tokens:
        # The rollout has them: to unpack `x` again, operation by operation, takes a millisecond.
        ids, lengths = (to_host_array(v)[::group_size] for v in (rollout.sequence, rollout.start))
        prompts = prompt_texts(algorithm, ids, lengths)
    else:
        conditions = x if isinstance(x, dict) else {"condition": x}
        nothing = np.zeros((len(keras.tree.flatten(x)[0]), 0), "float32")
        prompts = to_host_array(conditions.get("condition", nothing))
    if policy.tokens:
        mask = to_host_array(rollout.mask)
        completions = decoded(tokenizer, completions, mask, policy.end_token_ids)
    columns = {name: repeated(values, group_size) for name, values in columns.items()}
    return repeated(prompts, group_size), completions, columns


def device_columns(x, group_size):
    """The columns that came with the prompts by name, tensors of N rows."""
    given = x.items() if isinstance(x, dict) else ()
    return {
        name: ops.repeat(ops.convert_to_tensor(value), group_size, axis=0)
        for name, value in given
        if name not in NO_COLUMNS
    }


def device_view(policy, x, rollout, group_size):
    """A rollout as rewards on the device are given it: see `Rewards.device`."""
    columns = device_columns(x, group_size)
    view = {"completions": rollout.completion, "columns": columns, "rewards": rollout.rewards}
    if not policy.tokens:
        return view | {"prompts": rollout.condition}
    first = policy.num_start_tokens  # which a policy puts before what it was given
    start = rollout.start - first
    prompts = ops.convert_to_tensor(x["prompt"] if isinstance(x, dict) else x)
    columns |= {"completion_mask": rollout.mask, "prompt_length": start}
    return view | {
        "prompts": ops.repeat(ops.cast(prompts, "int32"), group_size, axis=0),
        "sequence": rollout.sequence[:, first:],
        "last": start + ops.cast(ops.sum(rollout.mask, axis=1), "int32") - 1,
    }
