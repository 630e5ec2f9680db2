"""Tensor parallelism: the axis of each weight to shard so that layers exchange little."""

import re

import keras

from artifex_keras.distributed.layout_patterns import layers_of, path_of

__all__ = ["TensorRules"]

HEADS = {"query": "num_heads", "key": "num_kv_heads", "value": "num_kv_heads"}
PROJECTIONS = re.compile(r"(?:^|_)(query|key|value)$")
ATTENTION_OUTPUTS = re.compile(r"(?:^|_)(attention_output|attention_out)$")
RECURRENT = (keras.layers.LSTMCell, keras.layers.GRUCell, keras.layers.SimpleRNNCell)
# Pairs of factors beside a weight: A has its axes but for the last, B the last.
LORA = {"lora_kernel_a", "lora_kernel_b", "lora_embeddings_a", "lora_embeddings_b"}


class TensorRules:
    """The rules for a model on `count` devices; ask for its weights in their order."""

    def __init__(self, model, count):
        self.count = count
        self.by_path = {path_of(layer): layer for layer in layers_of(model) if path_of(layer)}
        self.column = None  # the width of the projection before, if its outputs are sharded
        self.kinds = {}  # of kernels, by the layer's id: "column", "row", "experts", "replicated"
        self.axes = {}  # of kernels and tables, by the layer's id: which is sharded of how many

    def axis_of(self, weight, layer):
        """`(axis or None, why)`."""
        rank, kind = len(weight.shape), self.kinds.get(id(layer))
        if weight.name in LORA:
            return self._factor(weight, layer)
        if weight.name == "reverse_embeddings":
            return self._fits(weight, 1, "vocabulary")
        if isinstance(layer, keras.layers.Embedding) and weight.name == "embeddings":
            return self._noted(layer, rank, self._fits(weight, 0, "vocabulary"))
        if isinstance(layer, RECURRENT):
            self.column = None  # what comes out has a gate's width
            return self._fits(weight, rank - 1, "gates")
        if weight.name == "kernel" and rank >= 2:
            return self._noted(layer, rank, self._kernel(weight, layer))
        if rank == 3 and "expert" in weight.path:
            return self._fits(weight, 0, "experts")
        if weight.name == "bias" and kind == "experts":
            return self._fits(weight, 0, "experts")
        if weight.name == "bias" and kind == "column":
            axis = 0 if rank > 1 else -1  # (heads, size) after a projection to heads
            return self._fits(weight, axis % rank, "with its kernel")
        return None, "replicated"

    def _noted(self, layer, rank, found):
        self.axes[id(layer)] = found[0], rank
        return found

    def _factor(self, weight, layer):
        """A is sharded like the weight it changes; where that is by its last axis, B is."""
        axis, rank = self.axes.get(id(layer), (None, 0))
        if axis is None:
            return None, "replicated"
        last = axis == rank - 1
        if last != weight.name.endswith("_b"):
            return None, "replicated: the other factor is sharded"
        return self._fits(weight, 1 if last else axis, "with its kernel")

    def _kernel(self, weight, layer):
        kind, axis, why = self._preferred(weight, layer)
        found = self._fits(weight, axis, why)
        self.kinds[id(layer)] = kind = "replicated" if found[0] is None else kind
        self.column = weight.shape[-1] if kind == "column" else None
        return found

    def _preferred(self, weight, layer):
        """`("column", "row" or "experts", axis, why)` of a kernel."""
        rank, name = len(weight.shape), path_of(layer).rsplit("/", 1)[-1] if layer else ""
        experts = _expert_axis(layer, weight)
        if experts is not None and weight.shape[experts] % self.count == 0:
            return "experts", experts, "experts"
        if match := PROJECTIONS.search(name):
            if rank == 3:  # (width, heads, size)
                return "column", 1, "heads"
            heads = getattr(self.by_path.get(path_of(layer).rpartition("/")[0]), HEADS[match[1]], 0)
            return "column", rank - 1 if (heads or 0) % self.count == 0 else None, "heads"
        if ATTENTION_OUTPUTS.search(name):
            return "row", 0, "row: reads heads"
        if hasattr(layer, "kernel_size"):
            return "column", rank - 1, "channels"
        if self.column is not None and weight.shape[-2] in (self.column, self.column / 2):
            return "row", rank - 2, "row: reads a column"  # or the product of its halves
        return "column", rank - 1, "column"

    def _fits(self, weight, axis, why):
        if axis is None:
            return None, f"replicated: {self.count} doesn't divide its {why}"
        if weight.shape[axis] % self.count:
            return None, f"replicated: {self.count} doesn't divide axis {axis} ({why})"
        return axis, why


def _expert_axis(layer, weight):
    """The axis of a kernel that counts experts, or None: what goes in and what comes out has it."""
    if isinstance(layer, keras.layers.EinsumDense):
        ahead, _, result = layer.equation.replace(" ", "").partition("->")
        entry, kernel = ahead.split(",")
        shared = [i for i, letter in enumerate(kernel) if letter in entry and letter in result]
        return shared[0] if shared else None
    return 0 if len(weight.shape) == 3 and "expert" in weight.path else None
