"""Distillation: a student learns to give the distributions of a teacher, on its own samples."""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import checked, dictionary, factor, integer, optional, row_of, share
from artifex_keras.backend import SHAPES_ARE_KNOWN, num_model_shards, without_gradient
from artifex_keras.datasets import PromptBatches, completions
from artifex_keras.datasets.rows import are_rows, bucket, filled
from artifex_keras.models.autoregressive.chunks import in_chunks
from artifex_keras.objectives.distillation import generalized_jsd, top_k_and_rest
from artifex_keras.objectives.tokens import row_mean
from artifex_keras.rl import rollout_weights
from artifex_keras.rl.answers import Answers
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.tokens import joined
from artifex_keras.rl.rollout import Rollout, either
from artifex_keras.rl.teachers import check_denoising, check_kinds, check_pair

__all__ = ["Distillation"]

DATA = ("completion", "completion_mask")


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    beta=share,
    on_policy=share,
    temperature=factor,
    sampling=optional(dictionary),
    rollout_dtype=optional(row_of(rollout_weights.DTYPES, "dtype")),
)
class Distillation(Answers):
    """Distillation of a teacher into a student: `fit(prompts)` (2306.13649). The loss is the mean
    over the tokens of completions y of

        JSD_β(P(· | x, y_<t) ‖ Q(· | x, y_<t)),    P the teacher, Q the student,

    see `objectives.distillation.generalized_jsd`. A share `on_policy` of the completions are the
    student's own, sampled in the step, which is one compiled program; the others are the data's.
    On its own ones the student learns to go on from what it writes itself, and needs no answers.

    A `Diffusion` or `FlowMatching` as student and teacher learns on the states of the student's own
    chain: the loss is the divergence (μ - μ_teacher)²/(2σ²) of each step.

    Args:
        student: the model to train, see `rl.policies.policy_of`.
        teacher: a model with the same tokens, of any size. It is frozen.
        beta: β, 0 for KL(P‖Q), forward, 1 for KL(Q‖P), reverse. A divergence of denoising steps has
            no β.
        on_policy: λ, the share of completions that the student samples. Below 1 the rows need a
            "completion".
        temperature: τ of sampling, and of both distributions.
        top_k: compares the teacher's k likeliest tokens and all others as one; that is never more
            than the divergence of all tokens, and takes less memory. None compares all.
        max_new_tokens: C, how long a completion of the student may get.
        max_prompt_length: tokens of a prompt at most, the last ones; None cuts nothing. Rows with
            completions that don't fit into both contexts lose the beginning of their prompt, then
            the end of the completion.
        tokenizer: for texts.
        end_token_id: an id, or several, of which any ends a completion.
        pad_token_id: at the ends of rows.
        sampling: options of a policy of denoising steps: `num_steps`, `guidance_scale`, ...
        rollout_dtype: what the student samples in, see `OnPolicy`.
        chunk_size: how many tokens' logits, the student's and the teacher's, exist at a time, see
            `SFT`.
        ema_decay, seed: see `GenerativeModel`.

    Metrics: `loss`, in nats per token; `agreement`, how often the student's likeliest token is the
    teacher's; `completion_length`.

    Raises:
        ValueError: for a teacher of another vocabulary, a student that is its own teacher, and
            prompts that leave no room for a completion in either context.

    Example:

        ```python
        import artifex_keras as ak

        teacher = ak.networks.CausalTransformer(10, 16, num_layers=2, num_heads=2, width=16)
        student = ak.networks.CausalTransformer(10, 16, num_layers=1, num_heads=2, width=8)
        model = ak.Distillation(student, teacher, beta=0.5, max_new_tokens=4)
        model.compile("adam")
        history = model.fit([[1, 2], [3]], batch_size=2, verbose=0).history
        print(history["loss"], history["agreement"])
        ```
    """

    submodels = ("student", "teacher")
    options = (
        "beta",
        "on_policy",
        "temperature",
        "top_k",
        "max_new_tokens",
        "max_prompt_length",
        "end_token_id",
        "pad_token_id",
        "sampling",
        "rollout_dtype",
        "chunk_size",
        "ema_decay",
        "seed",
    )
    live_options = ("temperature",)
    derived_options = ("teacher_actor",)
    counts = "tokens"
    columns = ("prompt",)
    remedies = ("a smaller learning rate", "`beta=0.5`, which is bounded")
    metric_names = {"agreement": "max", "completion_length": None}

    def __init__(
        self,
        student,
        teacher,
        *,
        beta: float = 0.5,
        on_policy=1.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        max_new_tokens: int | None = None,
        max_prompt_length: int | None = None,
        tokenizer: Any = None,
        end_token_id: int | None = None,
        pad_token_id: int | None = None,
        sampling: Mapping[str, Any] | None = None,
        rollout_dtype: str | None = None,
        chunk_size: int | str | None = "auto",
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        given = {
            "max_new_tokens": max_new_tokens,
            "end_token_id": end_token_id,
            "pad_token_id": pad_token_id,
            **(sampling or {}),
        }
        actor = policy_of(student, "student", **given)
        check_kinds(actor, teacher)
        teacher_actor = policy_of(teacher, "teacher", **given)
        check_pair(actor, teacher_actor)
        if actor.tokens and on_policy and max_new_tokens is None:
            raise ValueError(
                "`max_new_tokens` must say how long a completion of the student may get; "
                "`on_policy=0` samples none."
            )
        if not actor.tokens:
            check_denoising(on_policy, top_k, temperature, beta)
        kwargs.setdefault("metric_names", self.metric_names if actor.tokens else {})
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        teacher.trainable = False
        self.student, self.teacher, self.reference = student, teacher, None
        self.actor, self.teacher_actor = actor, teacher_actor
        self.keep_chunks(chunk_size, actor, teacher_actor)
        self.beta, self.on_policy, self.temperature = beta, on_policy, temperature
        self.top_k = integer("top_k", top_k, minimum=1, optional=True)
        size = actor.vocabulary_size if actor.tokens else None
        if top_k is not None and size is not None and top_k >= size:
            raise ValueError(
                f"`top_k` must be below the vocabulary of {size} tokens; leave it out to compare "
                f"all. Received: top_k={top_k}."
            )
        self.max_new_tokens, self.rollout_dtype = max_new_tokens, rollout_dtype
        self.max_prompt_length = integer(
            "max_prompt_length", max_prompt_length, minimum=1, optional=True
        )
        if actor.tokens:
            actor.temperature = lambda: self.temperature
        self.finish(tokenizer, end_token_id, pad_token_id, None, sampling)

    @property
    def policy(self):
        """The student, under the name that all fine-tuning has for what it trains."""
        return self.student

    @property
    def averaged_parts(self):
        return [self.student]

    @property
    def _has_data(self):
        """Whether the data's completions are looked at."""
        return self.actor.tokens and self.on_policy < 1

    @property
    def answers(self):
        """The columns of tokens that need a mask."""
        return DATA[:1] if self._has_data else ()

    # The step

    @property
    def interrupted(self):
        """Whether sampling is a program of its own."""
        return self.on_policy > 0 and not SHAPES_ARE_KNOWN

    def train_on(self, data, training=True):
        return self.finish_on(data, self.begin_on(data, training), (), training)

    def test_on(self, data):
        return self.train_on(data, training=False)

    def begin_on(self, data, training):
        """The completions to learn from: a `Rollout`."""
        with self._in_phase("train" if training else "evaluate"):
            x = self.unpack(data).x
            if training:
                return self._rollout(x)
            with self.ema_weights():
                return self._rollout(x)

    def on_host(self, data, rollout, training):
        """Nothing: no Python function is asked."""
        return ()

    def symbolic_on_host(self, rollout):
        return ()

    def finish_on(self, data, rollout, host_values, training):
        """Compares student and teacher on a rollout and, in training, learns. Gives the logs."""
        rows = self.unpack(data).weight
        weight = rows * ops.sum(rollout.mask, axis=1)

        def objective():
            return self.reduced(self.terms(rollout), weight, self.student if training else None)

        with self._in_phase("train" if training else "evaluate"):
            if training:
                logs = self.descend(objective, self.trainable_variables, weight=weight)
                self.step.assign_add(1)
            else:
                with self.ema_weights():
                    logs = objective()
        if not self.actor.tokens:
            return self._recorded(logs, weight)
        logs["completion_length"] = self._mean(ops.sum(rollout.mask, axis=1), rows)
        return self._recorded(logs, weight, {"completion_length": ops.sum(rows)})

    def _rollout(self, x):
        """The student's own completions, the data's, or a share of both."""
        prompts = self.actor.unpack(x)
        if not self.on_policy:
            return self._of_data(x, prompts)
        rollout = functools.partial(self.actor.rollout, group_size=1, draw=self)
        own = rollout_weights.sample(rollout, prompts, self.actor, self.rollout_dtype)
        if not self._has_data:
            return own
        chosen = self.uniform(ops.shape(own.start)) < self.on_policy
        return either(chosen, own, self._of_data(x, prompts), self.actor.pad_token_id)

    def _of_data(self, x, prompts):
        completion, start = ops.cast(x["completion"], "int32"), prompts["prompt_length"]
        mask = ops.cast(ops.not_equal(x["completion_mask"], 0), "float32")
        return Rollout(
            completion=completion,
            log_probs=ops.zeros_like(mask),
            mask=mask,
            ended=ops.ones_like(mask[:, 0]),
            sequence=joined(prompts["prompt"], start, completion, self.actor.pad_token_id),
            start=start,
        )

    def terms(self, rollout):
        """The terms of each row: means over what counts of it."""
        if not self.actor.tokens:
            scores = self.actor.score(rollout)
            score = functools.partial(self.actor.score, rollout, self.teacher)
            return {"loss": ops.mean(self.actor.kl(scores, without_gradient(score)), axis=1)}
        student = self._features(self.actor, rollout)
        teacher = without_gradient(functools.partial(self._features, self.teacher_actor, rollout))
        chunk = self.actor.chunk(student) if self.teacher_actor.has_head() else None
        shards = num_model_shards(self.actor.vocabulary_size)
        compared = functools.partial(self._compared, num_shards=shards)
        divergence, agree = in_chunks(compared, (student, teacher), chunk)
        return {
            "loss": row_mean(divergence, rollout.mask),
            "agreement": row_mean(agree, rollout.mask),
        }

    def _features(self, policy, rollout):
        """What the distribution of each token of a completion is made of, (N, C, W)."""
        features = policy.features(policy.inputs(rollout.sequence))
        return policy.before_tokens(features, rollout)

    def _compared(self, student, teacher, num_shards):
        """The divergence, and 1 where the likeliest token is the same, (N, C) each, of features."""
        teacher = without_gradient(functools.partial(self._log_probs, self.teacher_actor, teacher))
        student = self._log_probs(self.actor, student)
        agree = ops.argmax(student, axis=-1) == ops.argmax(teacher, axis=-1)
        if self.top_k is not None:
            teacher, student = top_k_and_rest(teacher, student, self.top_k, num_shards)
        divergence = generalized_jsd(teacher, student, self.beta)
        return divergence, ops.cast(agree, "float32")

    def _log_probs(self, policy, features):
        """ln p of all tokens, (N, C, V)."""
        return ops.log_softmax(policy.head(features) / self.temperature, axis=-1)

    # Data

    def unpack(self, data):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        if not isinstance(x, dict):
            x = {"prompt" if self.actor.tokens else "condition": x}
        if not self.actor.tokens and "prompt" not in x:
            x = x | {"prompt": x["condition"]}
        return super().unpack((x, y, weight))

    def prepared_data(self, x):
        """Prompts, with completions where the data's count, as arrays, all of them checked.

        Raises:
            ValueError: for rows that can't be used.
        """
        if hasattr(x, "shape") and not are_rows(x):
            x = {"prompt" if self.actor.tokens else "condition": x}
        if self.actor.tokens and are_rows(x):
            x = self.as_arrays(x)
        if isinstance(x, dict):
            self.check_batch(x, None)
        return x

    def as_arrays(self, rows):
        if self._has_data:
            reading = self.reading()
            contexts = [reading["max_length"], self.teacher_actor.max_length]
            fits = min((n for n in contexts if n is not None), default=None)
            return _split(completions(rows, **reading | {"max_length": fits}))
        prompts = PromptBatches(
            rows,
            1,
            tokenizer=self.tokenizer,
            max_length=self.max_prompt_length,
            pad_token_id=self.actor.pad_token_id,
            shuffle=False,
        )
        width = bucket(max(prompts.lengths))
        ids = filled(prompts.prompts, width, self.actor.pad_token_id)
        return {"prompt": ids, "prompt_length": prompts.lengths}

    def check_batch(self, x, y):
        x = x if isinstance(x, dict) else {"prompt": x}
        for policy in (self.actor, self.teacher_actor):
            policy.check_batch(x, type(self).__name__)
        if self._has_data:
            super().check_batch(x, y)

    def check_rows(self, x):
        """Raises a ValueError for completions of the data that can't be used."""
        ids, mask = (ops.convert_to_numpy(x[name]) for name in DATA)
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise ValueError(
                "`completion` and `completion_mask` must be (B, C) and agree. Received: shapes "
                f"{ids.shape} and {mask.shape}."
            )
        self.actor.check_ids(ids)
        counted = (mask != 0).any(axis=1)
        if not counted.all():
            raise ValueError(
                "A completion must have at least one token. Received: none in row "
                f"{int(np.argmin(counted))} of `completion_mask`."
            )
        longest = ids.shape[1] + int(max(self._lengths_of(x))) + self.actor.num_start_tokens
        for policy in (self.actor, self.teacher_actor):
            if policy.max_length is not None and longest - 1 > policy.max_length:
                raise ValueError(
                    "Prompt and completion must fit into the contexts of student and teacher. "
                    f"Received: {longest} tokens at most, for a context of {policy.max_length}."
                )

    def _lengths_of(self, x):
        lengths = x.get("prompt_length")
        return [x["prompt"].shape[1]] if lengths is None else ops.convert_to_numpy(lengths)


def _split(rows):
    """Prompts and completions in arrays of their own, of `datasets.completions`."""
    tokens, mask = rows["tokens"], rows["mask"]
    start, counts = mask.argmax(axis=1), mask.sum(axis=1).astype("int32")
    prompts = [row[:n] for row, n in zip(tokens, start, strict=True)]
    answers = [row[n : n + m] for row, n, m in zip(tokens, start, counts, strict=True)]
    width = int(max(counts))
    return {
        "prompt": filled(prompts, bucket(max(start))),
        "prompt_length": start.astype("int32"),
        "completion": filled(answers, width),
        "completion_mask": (np.arange(width) < counts[:, None]).astype("float32"),
    }
