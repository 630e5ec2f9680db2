"""What all on-policy algorithms share: collect, reward, update, in one step of `fit`."""

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import integer, lookup, number, share
from artifex_keras.backend import (
    SHAPES_ARE_KNOWN,
    compiled,
    keras_internals,
    processes,
    repeat,
    when,
    without_gradient,
)
from artifex_keras.datasets import PromptBatches
from artifex_keras.datasets.text import as_tokenizer
from artifex_keras.models.base import GenerativeModel
from artifex_keras.objectives import policy as objectives
from artifex_keras.objectives.advantages import group_std
from artifex_keras.objectives.masks import weighted_mean
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.base import kept_tokenizer
from artifex_keras.rl.policies.lora import unmerged, with_lora
from artifex_keras.rl.policies.references import check_movable, held_to, moved, reference_scores
from artifex_keras.rl.rewards import Rewards, decoded, rewards_config, rewards_from_config

__all__ = ["OnPolicy"]

KL_PLACES = {"loss": "loss", "reward": "reward"}
STOP_FACTOR = 1.5  # of `target_kl`, at which the updates with a batch end


class OnPolicy(GenerativeModel):
    """The base of the algorithms that learn from what the policy itself has made.

    A step of `fit` takes a batch of P prompts, samples G completions of each, has them rewarded,
    and updates the policy. All of it is one compiled program where all rewards are Keras models or
    `traceable`; otherwise two, between which Python rewards run on the host.

    A subclass says in `worth(rollout, rewards)` what the actions were worth, and in `terms(rows)`
    what is descended.

    Args:
        policy: the model to train, see `rl.policies.policy_of`.
        reward_fn: ``reward_fn(prompts, completions, **columns)`` gives N = P·G numbers, None where
            it doesn't apply; or a list of such functions, see `rl.rewards.Rewards`.
        reward_weights: of the functions, 1 each by default.
        max_new_tokens: how long a completion may get; for policies of tokens.
        max_prompt_length: tokens of a prompt at most, the last ones; None cuts nothing. For prompts
            that are not batches yet.
        num_generations: G, how many completions of each prompt.
        temperature: of sampling, and of all log-probabilities.
        end_token_id: an id, or several, of which any ends a completion.
        pad_token_id: what stands after the end, and what is taken off the end of an array's
            prompts.
        tokenizer: `encode` and `decode`: then prompts may be texts, and rewards are given texts.
        sampling: options of a policy of denoising steps: `num_steps`, `guidance_scale`, ...
        kl_coeff: β, how strongly the policy is held to the reference; 0 needs none.
        kl_estimator: a row of `objectives.policy.KL_ESTIMATORS`.
        kl_in: where the divergence goes, "loss" or "reward".
        reference: what the policy is held to: None copies it as it is now, "lora_off" is the policy
            without its LoRA weights, or another model.
        reference_sync_steps: moves the reference after so many steps towards the policy, by the
            share `reference_mixup` of the way.
        num_epochs: updates with each completion.
        num_minibatches: updates that a batch is divided into, in a fresh order each epoch.
        target_kl: no further updates with a batch once the policy has moved 1.5 times as far, in
            nats per action.
        mask_truncated: completions that didn't end by themselves teach nothing.
        ema_decay, seed: see `GenerativeModel`.
    """

    submodels = ("policy", "reference")
    options = (
        "reward_weights",
        "num_generations",
        "max_new_tokens",
        "max_prompt_length",
        "temperature",
        "end_token_id",
        "pad_token_id",
        "sampling",
        "reference_sync_steps",
        "reference_mixup",
        "mask_truncated",
        "ema_decay",
        "seed",
    )
    counts = "completions"
    least_generations = 1
    also_greedy = False  # judges a greedy completion of each prompt too, in training

    def __init__(
        self,
        policy,
        reward_fn=None,
        *,
        reward_weights=None,
        max_new_tokens=None,
        max_prompt_length=None,
        num_generations=1,
        temperature=1.0,
        end_token_id=None,
        pad_token_id=None,
        tokenizer=None,
        sampling=None,
        kl_coeff=0.0,
        kl_estimator="k1",
        kl_in="reward",
        reference=None,
        reference_sync_steps=None,
        reference_mixup=1.0,
        num_epochs=1,
        num_minibatches=1,
        target_kl=None,
        mask_truncated=False,
        ema_decay=None,
        seed=None,
        **kwargs,
    ):
        acting = policy_of(
            policy,
            max_new_tokens=max_new_tokens,
            temperature=None if temperature == 1 else temperature,
            end_token_id=end_token_id,
            pad_token_id=pad_token_id,
            **(sampling or {}),
        )
        if acting.tokens and max_new_tokens is None:
            raise ValueError("`max_new_tokens` must say how long a completion may get.")
        tokenizer = acting.tokenizer if tokenizer is None else as_tokenizer(tokenizer)
        rewards = Rewards(
            reward_fn, reward_weights, tokenizer=tokenizer, end_token_ids=acting.end_token_ids
        )
        kl_coeff = number("kl_coeff", kl_coeff, minimum=0.0)
        self.kl_in = lookup(KL_PLACES, kl_in, "place of the divergence")
        self.kl_estimator = kl_estimator
        lookup(objectives.KL_ESTIMATORS, kl_estimator, "KL estimator")
        if self.kl_in == "loss" and kl_estimator == "k1":
            raise ValueError(
                "`kl_estimator='k1'` has no gradient in the loss, in expectation: it would hold "
                "nothing. Choose 'k3_is' (or 'k2'), or kl_in='reward'."
            )
        reference = held_to(reference, acting, kl_coeff > 0)
        self._has_reference = reference is not None
        self._watches_ends = acting.tokens and acting.end_token_ids is not None
        if mask_truncated and not self._watches_ends:
            raise ValueError(
                "`mask_truncated` needs an `end_token_id`: without one nothing ends by itself."
            )
        self.num_generations = integer(
            "num_generations", num_generations, minimum=self.least_generations
        )
        names = self._metric_names(rewards, acting)
        super().__init__(ema_decay=ema_decay, seed=seed, metric_names=names, **kwargs)
        self.policy, self.reference = policy, reference
        self.unmerged = unmerged(policy, reference)
        self.acting, self.tokenizer = acting, tokenizer
        self.reward_weights = reward_weights
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.max_prompt_length = integer(
            "max_prompt_length", max_prompt_length, minimum=1, optional=True
        )
        # A tokenizer has none to tell while a model is being loaded: its own are kept, too.
        self.end_token_id = acting.end_token_ids if end_token_id is None else end_token_id
        self.pad_token_id = pad_token_id
        self.sampling, self.kl_coeff = sampling, kl_coeff
        self.reference_sync_steps = integer(
            "reference_sync_steps", reference_sync_steps, minimum=1, optional=True
        )
        if self.reference_sync_steps is not None:
            check_movable(reference, acting)
        self.reference_mixup = share("reference_mixup", reference_mixup)
        self.num_epochs = integer("num_epochs", num_epochs, minimum=1)
        self.num_minibatches = integer("num_minibatches", num_minibatches, minimum=1)
        self.target_kl = target_kl
        if target_kl is not None:
            self.target_kl = number("target_kl", target_kl, above=0.0)
        self.mask_truncated = bool(mask_truncated)
        self._tables, self._example = {}, None
        self.reward_fn = reward_fn
        self._going = self.add_weight(
            name="going", shape=(), dtype="bool", initializer="ones", trainable=False
        )
        self.build_average()
        self.built = True

    @property
    def reward_fn(self):
        """What judges completions. It may be set: a Python function isn't saved with its model."""
        return self._reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn):
        ends = self.acting.end_token_ids
        given = {"tokenizer": self.tokenizer, "end_token_ids": ends}
        self.rewards = Rewards(reward_fn, self.reward_weights, **given)
        for judge in _judges(reward_fn):
            self._freeze(judge)
        self._keep_reward(reward_fn)
        self.watch(self._metric_names(self.rewards, self.acting))
        self.train_function = self.test_function = None
        self.compiled_methods = {}

    def _keep_reward(self, reward_fn):
        """Puts it in the place of the one before, of which no weights are kept."""
        with keras_internals.unlocked(self):
            if hasattr(self, "_reward_fn"):
                for judge in _judges(self._reward_fn):
                    keras_internals.untrack(self, judge)
                del self._reward_fn  # torch would only put a model in a model's place
            self._reward_fn = reward_fn

    def __setattr__(self, name, value):
        if name == "reward_fn":  # torch would take a model for a part before it looks for a setter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _freeze(self, reward):
        """Keeps a model that judges as it is: neither gradients nor weight decay reach it."""
        if {id(w) for w in reward.weights} & {id(w) for w in self.policy.weights}:
            raise ValueError(
                "`reward_fn` must not share weights with the policy, which would train its own "
                f"judge. Received: {reward.name!r}. Give a copy."
            )
        reward.trainable = False

    # What is watched

    own_metrics = ()  # of each update, besides those of all
    told_metrics = ()  # of a rollout

    def _metric_names(self, rewards, acting):
        names = ["reward", "reward_std"]
        if len(rewards.names) > 1:
            names += [f"reward_{name}" for name in rewards.names]
        if self.num_generations > 1:
            names.append("flat_groups")
        if acting.tokens:
            names.append("entropy")
        if self._has_reference:
            names.append("kl")
        if self._watches_ends:
            names += ["completion_length", "truncated"]
        elif acting.tokens:
            names.append("completion_length")
        return (*names, "approx_kl", *self.own_metrics, *self.told_metrics)

    @property
    def averaged_parts(self):
        return [self.policy]

    # The step: what is collected, what it is worth, what it teaches

    @property
    def interrupted(self):
        return self.rewards.on_host or not SHAPES_ARE_KNOWN

    def train_on(self, data):
        return self._whole(data, training=True)

    def test_on(self, data):
        return self._whole(data, training=False)

    def _whole(self, data, training):
        made = self.begin_on(data, training=training)
        told = self.on_host(data, made, training=training)
        return self.finish_on(data, made, told, training=training)

    def begin_on(self, data, training):
        """What the policy makes of a batch of prompts: the rollout."""
        with self._in_phase("train" if training else "evaluate"):
            prompts = self.acting.unpack(_tensors(_prompts(data)))
            if training:
                more = {"greedy": True} if self.also_greedy else {}
                return self._collected(prompts, **more)
            with self.ema_weights():
                return self._collected(prompts)

    def _collected(self, prompts, **more):
        return without_gradient(
            lambda: self.acting.rollout(prompts, self.num_generations, self, **more)
        )

    def _each(self, training):
        """How many completions of each prompt are judged; the last may be the greedy one."""
        return self.num_generations + int(training and self.also_greedy)

    def on_host(self, data, made, training):
        """What the rewards that run on the host say of a rollout: (N, K)."""
        phase = "train" if training else "evaluate"
        return self._rewarded_on_host(_prompts(data), made, phase, self._each(training))

    def symbolic_on_host(self, made):
        """What `on_host` gives for rollouts of such a shape, as symbols, for plans."""
        rows = made["completion"].shape[0]
        return keras.KerasTensor((rows, self.rewards.count_on_host), "float32")

    def _rewarded_on_host(self, x, made, phase, each):
        if not self.rewards.on_host:
            return ()
        columns = self._columns(x, phase)
        prompts = self._readable_prompts(x, columns, made, each)
        completions = self._readable(made)
        repeated = {name: _repeated(values, each) for name, values in columns.items()}
        repeated.pop("prompt", None)
        return processes.on_first_process(  # one asks a judge, and all learn from the same answer
            lambda: self.rewards.host(_repeated(prompts, each), completions, repeated)
        )

    def _columns(self, x, phase):
        """What came with the prompts of a batch, NumPy arrays and lists of P, by name."""
        if not isinstance(x, dict):
            return {}
        columns = {
            name: processes.to_host_array(value)
            for name, value in x.items()
            if name not in ("prompt", "prompt_length", "row")
        }
        if "row" in x:
            rows = processes.to_host_array(x["row"])
            table = self._tables.get(phase, {})
            columns |= {name: [values[i] for i in rows] for name, values in table.items()}
        return columns

    def _readable_prompts(self, x, columns, made, each):
        if "prompt" in columns:
            return columns["prompt"]
        if not self.acting.tokens:
            given = x if isinstance(x, dict) else {"condition": x}
            nothing = np.zeros((len(keras.tree.flatten(x)[0]), 0), "float32")
            return processes.to_host_array(given.get("condition", nothing))
        # The rollout has them: to unpack `x` again, operation by operation, takes a millisecond.
        to_host = processes.to_host_array
        ids, lengths = (to_host(made[name])[::each] for name in ("sequence", "start"))
        mask = np.arange(ids.shape[1]) < lengths[:, None]
        first = self.acting.num_start_tokens
        return decoded(self.tokenizer, ids[:, first:], mask[:, first:], None)

    def _readable(self, made):
        completion = processes.to_host_array(made["completion"])
        if not self.acting.tokens:
            return completion
        mask = processes.to_host_array(made["mask"])
        return decoded(self.tokenizer, completion, mask, self.acting.end_token_ids)

    def finish_on(self, data, made, told, training):
        """Rewards a rollout and, in training, learns from it. Gives the logs."""
        each = self._each(training)
        values = self._values(_prompts(data), made, told, each)
        rewards = self.rewards.combined(values)
        if each > self.num_generations:
            made, values, rewards = _without_last(each, made, values, rewards)
        logs = self._told(made, values, rewards)
        if training:
            with self._in_phase("train"):
                logs |= self.learn(made, rewards)
            self.step.assign_add(1)
            self._move_reference()
        return self._recorded(logs, ops.ones_like(rewards))

    def _values(self, x, made, told, each):
        """What each reward says of each completion, (N, K), in the order of the rewards."""
        view = {"completions": made["completion"], "columns": self._device_columns(x, each)}
        if self.acting.tokens:
            first = self.acting.num_start_tokens  # which a policy puts before what it was given
            start = made["start"] - first
            prompts = self.acting.unpack(_tensors(x))["prompt"][:, first:]
            view["prompts"] = ops.repeat(prompts, each, axis=0)
            view["sequence"] = made["sequence"][:, first:]
            view["last"] = start + ops.cast(ops.sum(made["mask"], axis=1), "int32") - 1
            view["columns"] |= {"completion_mask": made["mask"], "prompt_length": start}
        else:
            view["prompts"] = made.get("condition")
        return self.rewards.values(told, view)

    def _device_columns(self, x, each):
        if not isinstance(x, dict):
            return {}
        return {
            name: ops.repeat(ops.convert_to_tensor(value), each, axis=0)
            for name, value in x.items()
            if name not in ("prompt", "prompt_length", "row")
        }

    def _told(self, made, values, rewards):
        """The metrics of a rollout and its rewards."""
        applies = ops.logical_not(ops.isnan(rewards))
        mean = weighted_mean(rewards, applies)
        spread = weighted_mean(ops.square(rewards - mean), applies)
        logs = {"reward": mean, "reward_std": ops.sqrt(spread)}
        if len(self.rewards.names) > 1:
            for index, name in enumerate(self.rewards.names):
                value = values[:, index]
                logs[f"reward_{name}"] = weighted_mean(value, ops.logical_not(ops.isnan(value)))
        if self.num_generations > 1:
            flat = group_std(rewards, self.num_generations) == 0
            logs["flat_groups"] = ops.mean(ops.cast(flat, "float32"))
        if self.acting.tokens:
            logs["completion_length"] = ops.mean(ops.sum(made["mask"], axis=1))
        if self._watches_ends:
            logs["truncated"] = 1.0 - ops.mean(made["ended"])
        return logs

    def learn(self, made, rewards):
        """Updates the policy with a rollout. Gives the logs, means over the updates."""
        rows = dict(made)
        if self.mask_truncated:
            rows["mask"] = made["mask"] * made["ended"][:, None]
        prepared, logs = self._prepared(rows, rewards)
        rows |= prepared
        if self.num_epochs == self.num_minibatches == 1:
            return logs | self._descended(rows)
        count = made["mask"].shape[0]
        self._check_divided(count)
        self._going.assign(ops.ones((), "bool"))
        order = ops.argsort(self.uniform((self.num_epochs, count), rows=None), axis=1)
        order = ops.reshape(order, (-1, count // self.num_minibatches))
        updates = repeat(lambda index: self._descended_while_going(rows, index), order)
        ran = updates.pop("ran")
        return logs | {name: weighted_mean(values, ran) for name, values in updates.items()}

    def _check_divided(self, count):
        if count % self.num_minibatches:
            raise ValueError(
                "`num_minibatches` must divide the completions of each batch. Received: "
                f"num_minibatches={self.num_minibatches}, {count} completions "
                f"({count // self.num_generations} prompts, {self.num_generations} each)."
            )

    def _prepared(self, rows, rewards):
        """What stays the same over all updates with a rollout."""
        prepared = {"old_log_probs": rows["log_probs"]}
        in_reward, logs = None, {}
        if self._has_reference:
            reference = self._reference_scores(rows)
            prepared["reference"] = reference
            x = [rows["log_probs"], reference["log_probs"]]
            far = ops.where(rows["mask"] > 0, objectives.kl_estimate(*x, "k3"), 0.0)
            logs["kl"] = weighted_mean(far, rows["mask"])
            if self.kl_in == "reward":
                in_reward = ops.where(rows["mask"] > 0, objectives.kl_estimate(*x, "k1"), 0.0)
        prepared |= self.worth(rows, rewards, in_reward)
        return prepared, logs | prepared.pop("logs", {})

    def _reference_scores(self, rows):
        scores = without_gradient(
            lambda: reference_scores(
                self.reference, self.acting, lambda model: self.acting.score(rows, model)
            )
        )
        scores.pop("features", None)
        return scores

    def worth(self, rows, rewards, kl):
        """`advantages` (N,) or (N, T), and what else of rows `terms` needs, from `rewards` (N,) and
        the divergence of each action (N, T), or None where it isn't part of the reward."""
        raise NotImplementedError

    def terms(self, rows):
        """The terms of the update: `loss` and metrics, scalars."""
        raise NotImplementedError

    def _descended(self, rows):
        return self.descend(lambda: self._regularised(rows), self.trainable_variables)

    def _regularised(self, rows):
        logs = self.terms(rows)
        for loss in self.acting.model.losses:
            logs["loss"] += ops.cast(loss, "float32")
        return logs

    def _descended_while_going(self, rows, index):
        part = keras.tree.map_structure(lambda leaf: ops.take(leaf, index, axis=0), rows)
        if self.target_kl is None:
            return self._descended(part) | {"ran": ops.ones(())}

        def update():
            logs = self._descended(part)
            self._going.assign(logs["approx_kl"] <= STOP_FACTOR * self.target_kl)
            return logs | {"ran": ops.ones(())}

        def skip():
            return {name: ops.zeros(()) for name in (*self._update_names(), "ran")}

        return when(ops.convert_to_tensor(self._going), update, skip)

    def _update_names(self):
        """What `terms` tells of an update."""
        names = ["loss", "approx_kl", *self.own_metrics]
        names += ["entropy"] if self.acting.tokens else []
        return [*names, self._norm_name(self.optimizer)] if self.gradient_norms else names

    def _move_reference(self):
        if self.reference_sync_steps is not None:
            due = self.step % self.reference_sync_steps == 0
            moved(self.reference, self.acting, due, self.reference_mixup)

    # Data

    def fit(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """`keras.Model.fit` on prompts: P = `batch_size` of them a step, G completions of each.

        Args:
            x: texts, rows of ids, dicts with a prompt and further columns, an array of ids (N, W),
                a file of JSON lines, a `datasets.PromptBatches`, or batches in any form that `fit`
                takes; of a policy of denoising steps, conditions, or an array (N, 0) without.

        Raises:
            ValueError: without a reward; for prompts that can't be used, targets, sample weights.
        """
        self._refuse_targets(y, kwargs.get("sample_weight"))
        self.check_reward()
        shuffle = kwargs.pop("shuffle", True)
        x = self._source(x, batch_size, "train", shuffle)
        self._check_batches(x, batch_size or 32)
        if kwargs.get("validation_data") is not None:
            held_out = kwargs["validation_data"]
            held_out = held_out[0] if isinstance(held_out, tuple) else held_out
            size = kwargs.get("validation_batch_size") or batch_size
            kwargs["validation_data"] = self._source(held_out, size, "evaluate", False)
        if isinstance(x, PromptBatches):
            batch_size, shuffle = None, False
        return super().fit(x, None, batch_size, *args, shuffle=shuffle, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        self.check_reward()
        if not keras_internals.is_validation(kwargs):
            self._refuse_targets(y, kwargs.get("sample_weight"))
            x = self._source(x, batch_size, "evaluate", False)
        if isinstance(x, PromptBatches):
            batch_size = None
        return super().evaluate(x, y, batch_size, *args, **kwargs)

    def _refuse_targets(self, y, sample_weight):
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(
                    f"{type(self).__name__} learns from rewards: there is no use for `{name}`. "
                    "What rewards need besides goes into columns of the prompts' dicts."
                )

    def _check_batches(self, x, size):
        """Looks at the sizes of the batches that `x` gives, where it is known beforehand."""
        leaves = keras.tree.flatten(x)
        if isinstance(x, PromptBatches):
            sizes = [x.batch_size] if x.drop_remainder else [x.batch_size, x.rows % x.batch_size]
        elif all(hasattr(leaf, "shape") for leaf in leaves):
            rows = len(leaves[0])
            sizes = [min(rows, size), rows % size]
        else:
            return
        for prompts in sizes:
            self._check_divided(prompts * self.num_generations)

    def check_reward(self):
        """Raises a ValueError where there is no reward."""
        if not self.rewards:
            raise ValueError(
                "There is no reward: give a `reward_fn`. Of a model that was loaded set "
                "`model.reward_fn` again, as a Python function isn't saved with its model."
            )

    def _source(self, x, batch_size, phase, shuffle):
        """The data as Keras takes them; texts, lists and files become `PromptBatches`."""
        arrays = all(hasattr(leaf, "shape") for leaf in keras.tree.flatten(x))
        listed = isinstance(x, (list, tuple, str)) or hasattr(x, "__fspath__")
        if self.acting.tokens and (listed or isinstance(x, dict) and not arrays):
            drop = phase == "train"
            x = self.prompt_batches(x, batch_size or 32, shuffle=shuffle, drop_remainder=drop)
        if isinstance(x, PromptBatches):
            self._tables[phase] = x.columns
            self.acting.check_prompts(x.lengths)
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
            pad_token_id=self.acting.pad_token_id,
            **options,
        )
        self.acting.check_ids(np.concatenate(batches.prompts))
        self.acting.check_prompts(batches.lengths)
        self.rewards.check_columns({*batches.columns, *batches.numbers} - {"prompt"})
        return batches

    def check_batch(self, x, y):
        if not self.acting.tokens:
            return
        prompt = x.get("prompt") if isinstance(x, dict) else x
        shape, dtype = tuple(getattr(prompt, "shape", ())), str(getattr(prompt, "dtype", None))
        if len(shape) != 2 or "int" not in dtype:
            raise ValueError(
                f"{type(self).__name__} takes prompts as rows of token ids (P, W), or as texts "
                f"with a `tokenizer`. Received: `prompt` of shape {shape}, dtype {dtype}."
            )
        if not prompt.shape[1]:
            raise ValueError("A prompt must have at least one token. Received: shape (P, 0).")
        self.acting.check_ids(ops.convert_to_numpy(prompt))
        columns = x if isinstance(x, dict) else {"prompt": x}
        own = {name: columns[name] for name in ("prompt", "prompt_length") if name in columns}
        lengths = ops.convert_to_numpy(self.acting.unpack(_tensors(own))["prompt_length"])
        lengths = lengths - self.acting.num_start_tokens
        if lengths.size and (lengths.min() < 1 or lengths.max() > shape[1]):
            raise ValueError(
                f"`prompt_length` must be from 1 to {shape[1]}, the width of the prompts. "
                f"Received: {lengths.min()} to {lengths.max()}."
            )
        self.acting.check_prompts(lengths)

    def build_from_batch(self, first_batch):
        self.check_reward()
        self.check_batch(_prompts(first_batch()), None)

    # Use

    def call(self, inputs, training=False):
        """What the policy's model gives."""
        return self.policy(inputs, training=training)

    def table(self, prompts=None, count=8, *, seed=0):
        """`count` completions with their rewards: a list of dicts `prompt`, `completion`, `reward`
        and, of several rewards, each by its name; neither the run nor its noise is touched.

        Args:
            prompts: in any form that `fit` takes, by default the first that `fit` was given.
            seed: draws the same ones each time.
        """
        self.check_reward()
        x, phase = self._example, "train"
        if prompts is not None:
            x, phase = self._source(prompts, count, "table", False), "table"
        if x is None:
            raise ValueError("`table` needs prompts: give some, or call `fit` first.")
        if isinstance(x, PromptBatches):
            x = x[0]
        each = self.num_generations
        x = keras.tree.map_structure(lambda rows: rows[: -(-count // each)], x)
        unpacked = self.acting.unpack(_tensors(x))
        with self.drawing_from(seed):
            made = self._table_program(unpacked)
        told = self._rewarded_on_host(x, made, phase, each)
        values = ops.convert_to_numpy(self._values(x, made, told, each))
        rewards = ops.convert_to_numpy(self.rewards.combined(ops.convert_to_tensor(values)))
        prompts = self._readable_prompts(x, self._columns(x, phase), made, each)
        completions = self._readable(made)
        rows = []
        for index in range(min(count, len(rewards))):
            row = {"prompt": prompts[index // each]}
            row |= {"completion": completions[index], "reward": float(rewards[index])}
            if len(self.rewards.names) > 1:
                row |= dict(zip(self.rewards.names, map(float, values[index]), strict=True))
            rows.append(row)
        return rows

    @compiled
    def _table_program(self, prompts):
        with self.ema_weights():
            return self._collected(prompts)

    # Saving

    def get_config(self):
        config = super().get_config()
        config["reward_fn"] = rewards_config(self.reward_fn)
        config["tokenizer"] = kept_tokenizer(self.tokenizer, self.acting)
        return with_lora(config, policy=self.policy, reference=self.reference)

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["reward_fn"] = rewards_from_config(config.get("reward_fn"), custom_objects)
        return super().from_config(config, custom_objects)

    def get_build_config(self):
        return {}

    def build_from_config(self, config):
        """The policy is built already."""


def _prompts(data):
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return x


def _tensors(x):
    return keras.tree.map_structure(ops.convert_to_tensor, x)


def _judges(reward_fn):
    """The models among rewards."""
    rewards = reward_fn if isinstance(reward_fn, (list, tuple)) else [reward_fn]
    return [reward for reward in rewards if isinstance(reward, keras.Layer)]


def _repeated(values, times):
    """Each of `values` so many times, side by side."""
    if isinstance(values, list):
        return [value for value in values for _ in range(times)]
    return np.repeat(values, times, axis=0)


def _without_last(each, made, values, rewards):
    """`made`, `values` and `rewards` without the last of each `each` rows, whose reward is told to
    the others of its group as `greedy_reward`."""

    def others(leaf):
        groups = ops.reshape(leaf, (-1, each, *leaf.shape[1:]))[:, :-1]
        return ops.reshape(groups, (-1, *leaf.shape[1:]))

    made, values = keras.tree.map_structure(others, (made, values))
    last = ops.reshape(rewards, (-1, each))[:, -1]
    made["greedy_reward"] = ops.repeat(last, each - 1, axis=0)
    return made, values, others(rewards)
