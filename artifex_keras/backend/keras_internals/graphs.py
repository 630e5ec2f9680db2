"""The graph of a functional model."""

import keras

from .names import uses


@uses("tensor", "_keras_history")
@uses("operation", "_inbound_nodes")
def origin(tensor):
    """`(operation, inputs)` that a symbolic tensor is the output of."""
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index].input_tensors


def compute(tensor, values, **options):
    """Calls the operation that a symbolic tensor is an output of: `values` has what its inputs are,
    by their ids, and gets its outputs."""
    operation, index, _ = tensor._keras_history
    node = operation._inbound_nodes[index]
    arguments, named = node.arguments.fill_in(values)
    made = operation(*arguments, **{**named, **options})
    values.update(zip(map(id, node.outputs), keras.tree.flatten(made), strict=True))


@uses("functional", "_standardize_inputs")
def functional_inputs(model, inputs):
    """The inputs of a functional model as Keras's own `call` takes them, a list."""
    return model._standardize_inputs(inputs)


def call_inputs(operation):
    """The symbolic tensors that went into an operation, over all its calls."""
    return [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]
