"""Learning from answers given beforehand: pairs, or single ones with a label."""

from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data
from artifex_keras.arguments import integer, unknown_name
from artifex_keras.backend import compiled, keras_internals
from artifex_keras.datasets.rows import are_rows
from artifex_keras.models.base import Batch
from artifex_keras.models.data_contract import Contract
from artifex_keras.objectives.tokens import masked_sum
from artifex_keras.rl.base import FineTuning
from artifex_keras.rl.policies import policy_of
from artifex_keras.rl.policies.references import reference_scores

__all__ = ["Answers"]


class Answers(FineTuning):
    """The base of algorithms that score given answers under a policy and a reference.

    A subclass has the names of its batches' columns in `columns`, of those with tokens, each of
    which has a mask, in `answers`, and turns rows of texts into arrays in `as_arrays(rows)`.
    """

    columns = ()
    answers = ()
    remedies = (
        "a smaller `beta`",
        "pairs whose answers have a token that counts",
    )

    def actor_of(self, policy, end_token_id, pad_token_id, sampling, argument="policy"):
        """The policy of a model, which samples nothing here."""
        ends = {"end_token_id": end_token_id, "pad_token_id": pad_token_id}
        return policy_of(policy, argument, **ends, **(sampling or {}))

    def finish(self, tokenizer, end_token_id, pad_token_id, max_length, sampling=None):
        """Ends the constructor: keeps how texts become tokens, builds what hangs on the policy."""
        self.keep_tokens(tokenizer, end_token_id, pad_token_id, sampling)
        self.max_length = integer("max_length", max_length, minimum=2, optional=True)
        self.build_average()
        self.built = True

    # The step

    def unpack(self, data):
        """A batch's columns as tensors, with the sample weights."""
        x, _, weight = keras.utils.unpack_x_y_sample_weight(data)
        x = {name: ops.convert_to_tensor(value) for name, value in x.items()}
        rows = ops.shape(x[self.columns[0]])[0]
        weight = ops.ones((rows,)) if weight is None else ops.cast(weight, "float32")
        return Batch(x, None, ops.reshape(weight, (rows,)))

    def completion_log_probs(self, tokens, mask, model=None):
        """ln p of the tokens of each row that `mask` (B, T) counts, their sum: (B,)."""
        scores = self.actor.sequence_log_probs(ops.cast(tokens, "int32"), model)
        return masked_sum(scores, mask[:, -scores.shape[1] :])

    def under_reference(self, score):
        """`score(model)` under the reference, a constant."""
        return reference_scores(self.reference, self.actor, score)

    # Data

    def fit(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """`keras.Model.fit` on answers as the class describes them.

        Raises:
            ValueError: for data that can't be used, and targets.
        """
        self._forbid_targets(y)
        x = self.prepared_data(x)
        held_out = kwargs.get("validation_data")
        if isinstance(held_out, tuple):
            kwargs["validation_data"] = (self.prepared_data(held_out[0]), *held_out[1:])
        elif held_out is not None:
            held_out = self.prepared_data(held_out)
            kwargs["validation_data"] = (held_out,) if isinstance(held_out, dict) else held_out
        return super().fit(x, y, batch_size, *args, **kwargs)

    def evaluate(self, x: Data = None, y: Data = None, *args: Any, **kwargs: Any):
        if not keras_internals.is_validation(kwargs):
            self._forbid_targets(y)
            x = self.prepared_data(x)
        return super().evaluate(x, y, *args, **kwargs)

    def _forbid_targets(self, y):
        if y is not None:
            raise ValueError(
                f"{type(self).__name__} learns from its columns: there is no use for `y`."
            )

    def prepared_data(self, x):
        """Answers as arrays, all of them checked; what comes in batches stays as it is.

        Raises:
            ValueError: for answers that can't be used.
        """
        if isinstance(x, dict) and "prompt" not in x and not are_rows(x):
            self.check_batch(x, None)
            return x
        if isinstance(x, dict) or are_rows(x):
            if not self.actor.tokens:
                raise ValueError(
                    f"`x` must be a dict of arrays {list(self.columns)}. Received: "
                    f"{type(x).__name__}."
                )
            x = self.as_arrays(x)
            self.check_batch(x, None)
        return x

    def reading(self):
        """How texts become rows: the arguments of `datasets.preferences` and `completions`."""
        ends = self.actor.end_token_ids
        longest, started = self.actor.max_length, self.actor.num_start_tokens
        return {
            "tokenizer": self.tokenizer,
            "max_length": self.max_length or longest and longest + 1 - started,
            "end_token_id": None if ends is None else ends[0],
            "pad_token_id": self.actor.known_pad,
        }

    def check_batch(self, x, y):
        if not isinstance(x, dict):
            raise ValueError(
                f"{type(self).__name__} takes dicts of {list(self.columns)}, or rows with "
                f"these and a 'prompt'. Received: {type(x).__name__}."
            )
        masks = [f"{name}_mask" for name in self.answers if self.actor.tokens]
        for name in (*self.columns, *masks):
            if name in masks and name not in x:
                raise ValueError(
                    f"{type(self).__name__} needs the column {name!r} beside {name[:-5]!r}: 1 at a "
                    "token of the answer, 0 at the prompt and the padding. Or give a column "
                    f"'prompt', and answers without it. Received: the columns {sorted(x)}."
                )
            if name not in x:
                raise ValueError(unknown_name(name, x, "column, which is missing"))
        if self.actor.tokens:
            self.check_rows(x)

    def data_contract(self):
        return Contract(rows=lambda x: self.check_batch(x, None))

    def check_rows(self, x):
        """Raises a ValueError for rows of tokens that can't be scored."""
        for name in self.answers:
            ids, mask = (ops.convert_to_numpy(x[key]) for key in (name, f"{name}_mask"))
            if ids.ndim != 2 or ids.shape != mask.shape:
                raise ValueError(
                    f"`{name}` and `{name}_mask` must be (B, T) and agree. Received: shapes "
                    f"{ids.shape} and {mask.shape}."
                )
            self.actor.check_ids(ids)
            counted = (mask != 0).sum(axis=1)
            if not counted.all():
                raise ValueError(
                    f"A completion must have at least one token. Received: none in row "
                    f"{int(np.argmin(counted))} of `{name}_mask`."
                )
            started = self.actor.num_start_tokens
            if not started and mask[:, 0].any():
                raise ValueError(
                    "A completion must have a token of a prompt before it, or the policy a start "
                    "token: the first id of a row has no probability otherwise. Received: "
                    f"`{name}_mask` that counts the first id of row {int(np.argmax(mask[:, 0]))}."
                )
            longest = self.actor.max_length
            if longest is not None and ids.shape[1] - 1 + started > longest:
                raise ValueError(
                    f"Rows must fit into the network's context of {longest} tokens. Received: "
                    f"`{name}` of shape {ids.shape}. `max_length` cuts texts."
                )

    def build_from_batch(self, first_batch):
        self.check_batch(keras.utils.unpack_x_y_sample_weight(first_batch())[0], None)

    def score_in_batches(self, x, columns, batch_size):
        """What `_reference_program` gives for columns of arrays, joined: NumPy arrays."""
        parts = []
        for start in range(0, len(x[columns[0]]), batch_size):
            rows = {name: x[name][start : start + batch_size] for name in columns}
            parts.append([ops.convert_to_numpy(part) for part in self._reference_program(rows)])
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    @compiled
    def _reference_program(self, x):
        return tuple(self.under_reference(lambda model: self._scores(x, model)))
