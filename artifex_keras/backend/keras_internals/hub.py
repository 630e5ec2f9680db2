"""KerasHub's language models."""

import inspect

from .names import uses


@uses("keras_hub", "_build_cache")
def hub_cache_arguments(model):
    """The names of the arguments that a KerasHub model must be given to fill its key-value cache.

    None for a model without one.
    """
    if not hasattr(model, "_build_cache"):
        return None
    arguments = inspect.signature(model._build_cache).parameters.values()
    return [entry.name for entry in arguments if entry.default is entry.empty]


def fill_hub_cache(model, ids, **arguments):
    """The key-value cache of a KerasHub model after token ids (P, W)."""
    return model._build_cache(ids, **arguments)[1]
