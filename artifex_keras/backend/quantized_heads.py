"""Output heads in int8 or int4: Keras's `ReversibleEmbedding` passes no gradient to the vectors of
which it makes logits, but for that of their largest entry, and all layers below learn from that."""

import functools
import types

from keras import ops

from artifex_keras.backend import keras_internals

__all__ = ["give_heads_gradients"]

SMALL = 1e-2  # of a soft cap: where it still is a straight line


def give_heads_gradients(model):
    """Lets the quantised heads of a model pass the gradient of their rounded weights, as Keras's
    quantised `Dense` does. What they compute stays, to the bit."""
    for layer in keras_internals.all_layers(model):
        kinds = {kind.__name__ for kind in type(layer).__mro__}
        if "ReversibleEmbedding" in kinds and "quantized_call" not in vars(layer):
            # Past Keras, which tracks attributes and locks them once a layer is built.
            object.__setattr__(layer, "quantized_call", types.MethodType(_call, layer))


def _call(layer, inputs, reverse=False):
    """`layer.quantized_call` with the gradient of the logits."""
    call = functools.partial(type(layer).quantized_call, layer)
    if not reverse:
        return call(inputs)
    cap = getattr(layer, "logit_soft_cap", None)

    @ops.custom_gradient
    def logits_of(hidden):
        logits = call(hidden, reverse=True)

        def gradient(*upstreams, upstream=None):
            upstream = upstreams[0] if upstream is None else upstream
            if cap is not None:
                upstream = upstream * (1 - ops.square(logits / cap))
            tied = layer.tie_weights and not layer.lora_enabled  # LoRA is of the way in alone
            rows = _dequantised(call, tied, ops.shape(logits)[-1], hidden, cap)
            return ops.matmul(ops.cast(upstream, rows.dtype), rows)

        return logits, gradient

    return logits_of(inputs)


def _dequantised(call, tied, count, hidden, cap):
    """The weights of a head (V, W), in the dtype of `hidden`."""
    if tied:
        return ops.cast(call(ops.arange(count)), hidden.dtype)
    size = 1.0 if cap is None else SMALL * cap
    unit = ops.eye(hidden.shape[-1], dtype=hidden.dtype)
    return ops.transpose(call(size * unit, reverse=True)) / size
