"""Causal attention of rows whose tokens lie on several devices.

Each device attends from its part of a row to all of it. Keys and values are gathered, which is
O(T) of memory, and scores are made of some queries at a time, so that there are never T x T.
"""

import keras
from keras import ops

from artifex_keras import backend
from artifex_keras.networks.columns import over_columns

__all__ = ["attended_over_context"]

LARGE = 2**24  # bytes of scores in float32 that a device makes at a time, or
FEWEST = 128  # queries, whichever is more


def attended_over_context(query, key, value, visible, shards):
    """What queries (B, T, H, D) see of keys and values (B, T, K, D): (B, T, H, D).

    Args:
        query, key, value: with the tokens over `shards` devices.
        visible: (B, T, T), or None for all up to the query's own place.
        shards: how many devices.
    """
    length = query.shape[1]
    places = ops.arange(length, dtype="int32")
    of_query = places[None] if visible is None else backend.over_context(visible)

    def own(part):
        """(B, n·C, ...) as (n, B, C, ...): what each device has of the rows."""
        part = ops.reshape(part, (part.shape[0], shards, -1, *part.shape[2:]))
        return backend.over_context(ops.moveaxis(part, 1, 0), axis=0)

    def of_each(part):
        # A copy for each device, so that their gradients are added up once, and not in the loop.
        part = backend.over_context(part, gathered=True)
        return backend.over_context(ops.broadcast_to(part, (shards, *part.shape)), axis=0)

    key, value = of_each(key), of_each(value)

    def of_one(parts):
        query, key, value, of_query = parts
        seen = places <= of_query[..., None] if visible is None else of_query
        mask = seen[:, None]
        return ops.dot_product_attention(query, key, value, mask=mask, flash_attention=False)

    def attended(query, of_query):
        parts = own(query), key, value, own(of_query)
        made = ops.moveaxis(ops.vectorized_map(of_one, parts), 0, 1)
        return (backend.over_context(ops.reshape(made, query.shape)),)

    columns = _columns(query, shards)
    return over_columns(attended, (backend.over_context(query), of_query), columns, shards)[0]


def _columns(query, shards):
    """How many queries at a time, of all devices."""
    rows, length, heads = query.shape[:3]
    rows = -(-rows // keras.distribution.distribution().num_model_replicas)
    return max(FEWEST, LARGE // (4 * rows * heads * length)) * shards
