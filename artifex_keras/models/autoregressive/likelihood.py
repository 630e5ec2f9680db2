"""How likely tokens are under an autoregressive model."""

import numpy as np
from keras import ops

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import integer
from artifex_keras.backend import compiled
from artifex_keras.models import data_contract
from artifex_keras.models.autoregressive import chunks
from artifex_keras.objectives.tokens import token_log_probs

__all__ = ["Likelihood"]


class Likelihood:
    """The part of an `Autoregressive` that says how likely tokens are."""

    def log_prob(self, tokens: Tensor) -> Tensor:
        """ln p(x_t | x_<t) of each token in nats, float32: (B, T - 1), for the first token is
        given; (B, T) with a `start_token_id`. Padding isn't left out."""
        self._check_built("log_prob", tokens)
        tokens = self._checked_rows(tokens)
        return self._log_prob_program(ops.convert_to_tensor(tokens))

    @compiled
    def _log_prob_program(self, tokens):
        with self.ema_weights():
            return self._log_probs(self._network_inputs(tokens), tokens[:, self._shift :])

    def perplexity(
        self,
        tokens: Tensor,
        labels: Tensor = None,
        *,
        sample_weight: Tensor = None,
        batch_size: int = 32,
    ) -> float:
        """exp of the mean of -ln p(x_t | x_<t) over all tokens that count: a float. What counts is
        said as in `fit`."""
        self._check_built("perplexity", tokens)
        batch_size = integer("batch_size", batch_size, minimum=1)
        tokens = self._checked_rows(tokens)
        contract = self.data_contract()
        data_contract.check(contract.y, labels)
        data_contract.check(contract.weight, sample_weight)
        total, count = 0.0, 0.0
        for start in range(0, len(tokens), batch_size):
            rows = slice(start, start + batch_size)
            parts = [None if part is None else part[rows] for part in (labels, sample_weight)]
            nats, counted = self._totals_program(ops.convert_to_tensor(tokens[rows]), *parts)
            total, count = total + float(nats), count + float(counted)
        if not count:
            raise ValueError("No token counts: a perplexity needs at least one.")
        return float(np.exp(total / count))

    @compiled
    def _totals_program(self, tokens, labels, weight):
        batch = self.unpack((tokens, labels, weight))
        targets, counts = batch.y
        with self.ema_weights():
            log_p = self._log_probs(batch.x, targets)
        return -ops.sum(ops.where(counts > 0, counts * log_p, 0.0)), ops.sum(counts)

    def _checked_rows(self, tokens):
        tokens = ops.convert_to_numpy(tokens)
        self.check_batch(tokens, None)
        self.check_values(tokens)
        return tokens.astype("int32")

    def _log_probs(self, inputs, targets):
        """ln p of targets (B, S) after inputs (B, S)."""
        features, head, chunk = self._halves(inputs)

        def scored(features, targets):
            return (token_log_probs(head(features), targets),)

        return chunks.in_chunks(scored, (features, targets), chunk)[0]
