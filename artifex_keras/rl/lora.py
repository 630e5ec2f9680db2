"""Policies with LoRA (2106.09685): what is trained of them, and what they are without it."""

import contextlib

from keras import ops

from artifex_keras.backend import ReadThroughScope, assign_all

__all__ = ["enable_like", "train_lora_alone", "without_lora"]

SECOND = ("lora_kernel_b", "lora_embeddings_b")  # factors that begin at 0


def train_lora_alone(model):
    """Freezes what else the layers with LoRA have: KerasHub's `enable_lora` leaves them their
    biases, with which the model without LoRA would no longer be the one it began as."""
    for layer in _lora_layers(model).values():
        for variable in _own(layer):
            if not _is_factor(variable):
                variable.trainable = False


@contextlib.contextmanager
def without_lora(model):
    """Inside, the model is what it was before its LoRA weights learned anything."""
    factors = [variable for variable in model.variables if variable.name in SECOND]
    pairs = [(factor, ops.zeros_like(factor.value)) for factor in factors]
    with ReadThroughScope(pairs) as scope:
        yield
        assigned, values = scope.updates(excluding=factors)
    assign_all(assigned, values)


def enable_like(model, other):
    """Gives the layers of `model` LoRA where those of `other`, made of the same config, have it."""
    layers = _weighted(model)
    for place, layer in _lora_layers(other).items():
        if not layers[place].lora_enabled:
            layers[place].enable_lora(layer.lora_rank, lora_alpha=layer.lora_alpha)


def _weighted(model):
    return [layer for layer in model._flatten_layers(include_self=False) if layer.weights]


def _lora_layers(model):
    """The layers with LoRA, by their place among those with weights."""
    layers = enumerate(_weighted(model))
    return {place: layer for place, layer in layers if getattr(layer, "lora_enabled", False)}


def _own(layer):
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def _is_factor(variable):
    return variable.name.startswith("lora_")
