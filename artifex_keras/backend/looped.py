"""Equal layers one after the other, where there is no scan: a loop of Python."""

from artifex_keras.backend.choice import part

__all__ = ["through_layers"]

recomputed = part("gradients").recomputed


def through_layers(body, layers, x, *, remat=None, stack=None):
    """What becomes of `x` by ``x = body(layer, x)`` for each of `layers`, in order.

    `remat` is the mode of `recomputed`, or None to keep all for the gradient.
    """
    del stack  # what JAX scans over
    for layer in layers:
        if remat is None:
            x = body(layer, x)
        else:
            x = recomputed(lambda x, layer=layer: body(layer, x), x, mode=remat)
    return x
