"""Tensors on one device: on TensorFlow and torch, Keras distributes nothing."""

__all__ = ["by_device", "num_context_shards", "over_context", "reshard", "spread"]


def by_device(fn, tensors):
    """Calls `fn(*tensors)`."""
    return fn(*tensors)


def spread(x, axis=0):
    """Gives `x` back."""
    return x


def reshard(values, layouts):
    """Gives the values back."""
    return values


def over_context(x, axis=1, gathered=False):
    """Gives `x` back."""
    return x


def num_context_shards(length):
    """One."""
    return 1
