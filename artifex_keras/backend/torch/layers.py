"""Equal layers on torch: one after the other, each with variables of its own."""

from artifex_keras.backend.looped import through_layers

__all__ = ["Stacked", "through_layers"]

Stacked = None  # there is no scan
