"""The cross-entropy of tokens from what their logits are made of, all at once or in chunks."""

import keras
from keras import ops

from artifex_keras import backend
from artifex_keras.objectives.tokens import token_log_probs

__all__ = ["chunk_of", "token_terms"]

LARGE = 2**27  # bytes of float32 logits from which "auto" makes them in chunks
CHUNK = 2**26  # and the bytes of those of a chunk


def token_terms(head, features, targets, chunk_size=None):
    """`(nats, right)`, (B, S) each: -ln p of the targets, and 1 where the likeliest token is right.

    With a `chunk_size` the logits of about so many tokens exist at a time: each chunk is some
    columns of all rows, and its logits are made again for the gradient. Values are the same.

    Args:
        head: makes logits (B, C, V) of features (B, C, W).
        features: (B, S, W).
        targets: ids (B, S).
        chunk_size: how many tokens; None makes all logits at once.
    """
    rows, length, width = features.shape
    columns = length if chunk_size is None else max(1, chunk_size // (rows or 1))
    if columns >= length:
        return _terms(head, features, targets)
    count = -(-length // columns)
    missing = count * columns - length
    features = ops.pad(features, [[0, 0], [0, missing], [0, 0]])
    targets = ops.pad(targets, [[0, 0], [0, missing]])
    features = ops.reshape(features, (-1, count, columns, width))
    targets = ops.reshape(targets, (-1, count, columns))
    chunks = ops.transpose(features, (1, 0, 2, 3)), ops.transpose(targets, (1, 0, 2))

    def chunk(part):
        return keras.remat(lambda vectors: _terms(head, vectors, part[1]))(part[0])

    parts = backend.repeat(chunk, chunks)
    return tuple(
        ops.reshape(ops.transpose(part, (1, 0, 2)), (-1, count * columns))[:, :length]
        for part in parts
    )


def chunk_of(chunk_size, rows, length, vocabulary_size):
    """The tokens of a chunk by the option `chunk_size`: "auto" has chunks of 64 MiB where the
    logits of a batch would take more than 128 MiB."""
    if chunk_size != "auto":
        return chunk_size
    if not vocabulary_size or 4 * (rows or 1) * length * vocabulary_size <= LARGE:
        return None
    return max(1, CHUNK // (4 * vocabulary_size))


def _terms(head, features, targets):
    logits = head(features)
    right = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
    return -token_log_probs(logits, targets), ops.cast(right, "float32")
