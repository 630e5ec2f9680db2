"""What is computed of logits, all at once or of some tokens at a time.

A network whose logits are made by its last layer alone, or that has `hidden` and `head`, or that is
KerasHub's, is a body and a head here: `features` and `head`. Logits (B, S, V) in float32 are often
the largest thing in the memory of a step. Head and loss of one chunk of tokens after the other need
as much as a chunk; for the gradient its logits are made once more. The numbers are the same.
"""

import keras
from keras import layers, ops

from artifex_keras import backend
from artifex_keras.arguments import broken_rule, integer
from artifex_keras.models.autoregressive import decoding, hub
from artifex_keras.networks.columns import over_columns
from artifex_keras.objectives.tokens import cross_entropy, token_log_probs

__all__ = [
    "as_logits",
    "check_chunks",
    "chunk_of",
    "chunk_size_rule",
    "features",
    "has_head",
    "head",
    "in_chunks",
    "last_entry",
    "logits",
    "token_terms",
]

LARGE = 2**27  # bytes of float32 logits up to which "auto" makes all of them at once
CHUNK = 2**26  # and the bytes of those of a chunk
ROWS = 32  # of a batch whose rows aren't known when a step is traced, as in TensorFlow's `fit`


def chunk_size_rule(name, value):
    """The rule of the argument `chunk_size`."""
    if isinstance(value, str):
        if value != "auto":
            raise broken_rule(name, value, "a number of tokens, 'auto' or None")
        return value
    return integer(name, value, minimum=1, optional=True)


def check_chunks(chunk_size, network, has_head):
    """Raises a ValueError for a number of tokens where the logits can't be made in chunks."""
    if isinstance(chunk_size, int) and not has_head:
        raise ValueError(
            "`chunk_size` needs a network whose last layer is a `Dense` that makes the logits, or "
            f"that has `hidden` and `head`: {type(network).__name__} {network.name!r} gives logits "
            f"alone, all at once. Leave it out. Received: chunk_size={chunk_size}."
        )


def chunk_of(chunk_size, rows, length, vocabulary_size):
    """The tokens of a chunk by the option `chunk_size`: "auto" has chunks of 64 MiB where the
    logits of a batch would take more than 128 MiB, of each device that has some of its own. None
    is all at once."""
    if chunk_size != "auto":
        return chunk_size
    if not vocabulary_size or not _known(length):
        return None
    rows, shards = _known(rows) or ROWS, _logit_shards(vocabulary_size)
    if 4 * rows * length * vocabulary_size <= LARGE * shards:
        return None
    return max(1, CHUNK * shards // (4 * vocabulary_size))


def _logit_shards(vocabulary_size):
    """Over how many devices the logits of a batch lie."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    if hasattr(distribution, "num_logit_shards"):
        return distribution.num_logit_shards(vocabulary_size)
    return distribution.num_model_replicas


def _known(size):
    """A dimension that is a number; None for one that isn't known, as a symbol of an export."""
    return size if isinstance(size, int) else None


def in_chunks(fn, tensors, chunk_size):
    """`fn(*tensors)`, a tuple of (B, S), for tensors (B, S, ...), of chunks of them.

    A chunk is some columns of all rows, about `chunk_size` tokens; None is one chunk of all. `fn`
    must treat each token by itself, and is called again for the gradient. The devices of a
    distribution take chunks of their own tokens, after what `fn` reads was gathered for all chunks.
    """
    rows, length = tensors[0].shape[:2]
    if chunk_size is None or not _known(length):
        return fn(*tensors)
    columns = max(1, chunk_size // (_known(rows) or ROWS))
    if columns >= length:
        return fn(*tensors)

    def chunked(*own):
        part = own[0].shape[1]
        shards = backend.num_context_shards(part)
        return over_columns(fn, own, max(1, columns * part // length), shards)

    return backend.by_device(chunked, tensors)


def token_terms(head, features, targets, chunk_size=None, **smoothing):
    """`(nats, right, loss)`, (B, S) each: -ln p of the targets, 1 where the likeliest token is
    right, and the cross-entropy with `label_smoothing` and `z_loss`; the nats without them.

    Args:
        head: makes logits (B, C, V) of features (B, C, W).
        features: (B, S, W).
        targets: ids (B, S).
        chunk_size: how many tokens; None makes all logits at once.
    """

    def terms(features, targets):
        logits = head(features)
        right = ops.cast(ops.argmax(logits, axis=-1), "int32") == targets
        nats = -token_log_probs(logits, targets)
        loss = cross_entropy(logits, targets, **smoothing) if smoothing else nats
        return nats, ops.cast(right, "float32"), loss

    return in_chunks(terms, (features, targets), chunk_size)


# Networks


def has_head(network):
    """Whether the network is a body and a head."""
    return hub.is_causal_lm(network) or _in_halves(network) or last_entry(network) is not None


def logits(network, ids, training=False):
    """The logits (B, T, V) of ids (B, T), as the network gives them."""
    return _of_padded(_logits, network, ids, training)


def _logits(network, ids, training):
    if hub.is_causal_lm(network):
        return hub.head(network, hub.features(network, ids, training))
    return network(ids, training=training)


def features(network, ids, training=False):
    """What `head` makes the logits of, (B, S, W); the logits of a network without a head."""
    return _of_padded(_features, network, ids, training)


def _features(network, ids, training):
    if hub.is_causal_lm(network):
        return hub.features(network, ids, training)
    if _in_halves(network):
        return network.hidden(ids, training=training)
    entry = last_entry(network)
    if entry is None:
        return network(ids, training=training)
    return keras.Model(network.inputs, entry)(ids, training=training)


def _of_padded(fn, network, ids, training):
    """`fn(network, ids, training)` of ids that are padded at their end until the context of a
    distribution divides them, where the network takes rows of that length."""
    length = keras.tree.flatten(ids)[0].shape[1]
    padding = _padding(network, length)
    if not padding:
        return fn(network, ids, training)
    ids = keras.tree.map_structure(lambda part: ops.pad(part, [[0, 0], [0, padding]]), ids)
    return fn(network, ids, training)[:, :length]


def _padding(network, length):
    shards = getattr(keras.distribution.distribution(), "num_context_shards", 1)
    if shards == 1 or not _known(length):
        return 0
    padding, longest = -length % shards, decoding.max_length(network)
    return padding if longest is None or length + padding <= longest else 0


def head(network, features):
    """The logits of `features`, float32."""
    if hub.is_causal_lm(network):
        return hub.head(network, features)
    if _in_halves(network):
        return ops.cast(network.head(features), "float32")
    if last_entry(network) is not None:
        features = network.layers[-1](features)
    return ops.cast(features, "float32")


def last_entry(network):
    """What the last layer of a functional network sees, (B, S, W), if that layer alone makes the
    logits, of each token by itself."""
    if not getattr(network, "inputs", None) or len(network.outputs) != 1:
        return None
    last = network.layers[-1]
    entry = getattr(last, "input", None)
    if not isinstance(last, layers.Dense) or last.output is not network.outputs[0]:
        return None
    if not hasattr(entry, "shape") or getattr(last, "activity_regularizer", None) is not None:
        return None
    return entry if len(entry.shape) == 3 else None


def as_logits(features):
    """The head of a network that is taken whole: its logits in float32."""
    return ops.cast(features, "float32")


def _in_halves(network):
    return hasattr(network, "hidden") and hasattr(network, "head")
