"""Log-probabilities, cross-entropies, entropies and masks of tokens.

B rows of T tokens; V is the size of the vocabulary. A mask (B, T) is 1 on the tokens that count,
those of the completion up to and including the first end token, and 0 elsewhere; whatever is not
zero counts as 1. Values under a 0 are dropped before anything is computed from them, so that a
NaN or an infinity there reaches neither a result nor a gradient.
"""

from keras import ops

from artifex_keras.objectives.masks import as_floats

__all__ = [
    "counted",
    "cross_entropy",
    "end_mask",
    "ended",
    "entropy",
    "forcing_probability",
    "masked_sum",
    "row_mean",
    "token_log_probs",
]


def token_log_probs(logits, tokens, temperature=1.0):
    """``ln softmax(z / τ)[y]``, (B, T) in float32, for logits z (B, T, V) and token ids y (B, T).

    Row t of the logits scores ``tokens[:, t]``: for a model whose output t predicts token t + 1
    the caller has shifted. τ is the temperature that the tokens were sampled at, for policy, old
    policy and reference alike. An id outside the vocabulary, such as an ignored -100, gives NaN
    on every backend; mask it.

    Raises:
        ValueError: if the shapes don't belong together, or for a temperature that is not positive.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.tokens import token_log_probs

    print(token_log_probs(np.zeros((1, 2, 4)), np.array([[0, 3]])))  # [[-ln 4, -ln 4]]
    ```
    """
    logits = _tempered(logits, temperature)
    tokens = ops.cast(tokens, "int32")
    if ops.ndim(tokens) != ops.ndim(logits) - 1 or _differ(tokens.shape, logits.shape[:-1]):
        raise ValueError(
            "`tokens` must have the shape of `logits` without the last axis. "
            f"Received: tokens of shape {tokens.shape}, logits of shape {logits.shape}."
        )
    size = logits.shape[-1]
    known = ops.logical_and(tokens >= 0, tokens < size)
    ids = ops.expand_dims(ops.clip(tokens, 0, size - 1), -1)
    picked = ops.squeeze(ops.take_along_axis(logits, ids, axis=-1), -1)
    scores = picked - ops.logsumexp(logits, axis=-1)
    return ops.where(known, scores, ops.full_like(scores, float("nan")))


def cross_entropy(logits, tokens, *, label_smoothing=0.0, z_loss=0.0):
    """The loss of each token in nats, (B, T) in float32, for logits z (B, T, V), tokens y (B, T):

        -(1 - ε) ln p_y - ε/V Σ_v ln p_v + ζ (logsumexp z)²,    p = softmax(z).

    ε is `label_smoothing`, which falls on every class, the right one included. ζ is `z_loss`
    (2204.02311 has 1e-4). Rows and ids are those of `token_log_probs`.

    Example:

    ```python
    import numpy as np
    from artifex_keras.objectives.tokens import cross_entropy

    print(cross_entropy(np.zeros((1, 2, 4)), np.array([[0, 3]])))  # [[ln 4, ln 4]]
    ```
    """
    log_p = token_log_probs(logits, tokens)
    if _is_zero(label_smoothing) and _is_zero(z_loss):
        return -log_p
    logits = ops.cast(logits, "float32")
    log_sum = ops.logsumexp(logits, axis=-1)
    mean_log_p = ops.mean(logits, axis=-1) - log_sum
    loss = -(1.0 - label_smoothing) * log_p
    if not _is_zero(label_smoothing):
        loss -= label_smoothing * mean_log_p
    return loss + z_loss * ops.square(log_sum)


def _is_zero(number):
    return isinstance(number, int | float) and number == 0


def _linear(step, k):
    return 1.0 - step / k


def _exponential(step, k):
    return ops.exp(-step / k)


def _inverse_sigmoid(step, k):
    return k / (k + ops.exp(ops.minimum(step / k, 80.0)))  # more than e^80 is infinite


FORCING_SCHEDULES = {
    "linear": _linear,
    "exponential": _exponential,
    "inverse_sigmoid": _inverse_sigmoid,
}


def forcing_probability(step, schedule, k):
    """The share ε of true tokens among a model's inputs in scheduled sampling (1506.03099).

    `"linear"` is max(0, 1 - i/k) at update i, `"exponential"` e^(-i/k), `"inverse_sigmoid"`
    k/(k + e^(i/k)), for k ≥ 1.
    """
    return ops.maximum(FORCING_SCHEDULES[schedule](ops.cast(step, "float32"), float(k)), 0.0)


def entropy(logits, temperature=1.0):
    """``-Σ_v p_v ln p_v`` in nats with ``p = softmax(z / τ)``: (B, T) in float32, from (B, T, V).

    A forbidden token, of logit -inf, adds nothing.
    """
    log_p = ops.log_softmax(_tempered(logits, temperature), axis=-1)
    possible = log_p > -float("inf")
    safe = ops.where(possible, log_p, ops.zeros_like(log_p))
    return -ops.sum(ops.where(possible, ops.exp(safe) * safe, ops.zeros_like(safe)), axis=-1)


def _tempered(logits, temperature):
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"`temperature` must be positive. Received: {temperature}.")
    return ops.cast(logits, "float32") / temperature


def end_mask(tokens, end_token_ids, mask=None):
    """1 on each token up to and including the first end token of its row, else 0: (B, T) float32.

    `end_token_ids` is one id, several ids of which any ends a row, or None. `mask` is 1 where
    tokens are part of the completion, by default everywhere: what it leaves out neither counts
    nor ends a row, be it a prompt with end tokens inside or padding with the end token's own id.
    A row without an end token keeps all that `mask` keeps. No id but an end token's is looked
    for, so the padding may have any id, that of the end token too.
    """
    ends, real = _ends(tokens, end_token_ids, mask)
    before = ops.cumsum(ends, axis=1) - ends
    return ops.cast(before == 0, "float32") * real


def ended(tokens, end_token_ids, mask=None):
    """1 for each row in which an end token stands, 0 for a truncated one: (B,) float32.

    ``end_mask(...) * ended(...)[:, None]`` leaves truncated rows out of a loss altogether. The
    arguments are those of `end_mask`.
    """
    ends, _ = _ends(tokens, end_token_ids, mask)
    return ops.cast(ops.any(ends > 0, axis=1), "float32")


def _ends(tokens, end_token_ids, mask):
    """Where a row may end, (B, T) integers, and which tokens are real, (B, T) floats."""
    tokens = ops.cast(tokens, "int32")
    mask = ops.ones_like(tokens) if mask is None else ops.convert_to_tensor(mask)
    _check_shapes(mask, tokens)
    real = ops.cast(ops.not_equal(mask, 0), "float32")
    if end_token_ids is None:
        return ops.zeros_like(tokens), real
    ids = ops.reshape(ops.convert_to_tensor(end_token_ids, "int32"), (-1,))
    is_end = ops.any(ops.expand_dims(tokens, -1) == ids, axis=-1)
    return ops.cast(ops.logical_and(is_end, real > 0), "int32"), real


def counted(mask, x, *others):
    """`mask` as zeros and ones, then `x` and the `others` with 0 where it is 0; all (B, T).

    Raises:
        ValueError: if their shapes differ; broadcasting (B,) against (B, T) hides mistakes.
    """
    mask, *tensors = as_floats(mask, x, *others)
    _check_shapes(mask, *tensors)
    counts = mask != 0
    kept = [ops.where(counts, tensor, ops.zeros_like(tensor)) for tensor in tensors]
    return ops.cast(counts, mask.dtype), *kept


def masked_sum(x, mask):
    """``Σ_t x m`` of each row, (B,): a sequence's log-probability from those of its tokens."""
    _, x = counted(mask, x)
    return ops.sum(x, axis=1)


def row_mean(x, mask):
    """``Σ_t x m / Σ_t m`` of each row, (B,); 0 for a row in which nothing counts."""
    mask, x = counted(mask, x)
    return ops.sum(x, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)


def _check_shapes(mask, *tensors):
    if ops.ndim(mask) != 2 or any(_differ(mask.shape, tensor.shape) for tensor in tensors):
        raise ValueError(
            "A mask and the values per token that it is for must be (B, T) and agree. Received: "
            f"mask {tuple(mask.shape)}, values {[tuple(tensor.shape) for tensor in tensors]}."
        )


def _differ(a, b):
    """Whether two shapes, of which an axis may be unknown while tracing, can't be equal."""
    known = zip(a, b, strict=False)
    return len(a) != len(b) or any(m != n for m, n in known if None not in (m, n))
