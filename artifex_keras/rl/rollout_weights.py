"""The weights that a policy samples by: its own, in another layout or another dtype."""

import contextlib

import keras
from keras import ops

from artifex_keras.backend import (
    ReadThroughScope,
    assign_all,
    keras_internals,
    name,
    reshard,
    spread,
    stacks,
    without_gradient,
)

__all__ = ["DTYPES", "castable_ids", "rollout_copy", "sample"]

SCOPE = "rollout"  # by which a plan finds in a program what is of sampling
DTYPES = {name: name for name in ("bfloat16", "float16", "float32")}


def sample(rollout, prompts, policy, dtype=None):
    """`rollout(prompts)` without gradient, with the weights that `policy` samples by.

    Where the distribution has `rollouts`, one of its own, the weights are copied into its layouts
    first, and rows are sharded by it until all is sampled.

    Args:
        rollout: a function of a nest of tensors that gives one; each has the rows first.
        policy: of `rl.policies`.
        dtype: what its floating weights are cast to; None leaves them as they are.
    """
    rollouts = getattr(keras.distribution.distribution(), "rollouts", None)

    prompts = prompts if rollouts is None else _placed(prompts)

    def sampled():
        with keras.name_scope(SCOPE), rollout_copy(policy, rollouts, dtype):
            return rollout(_by_rows(prompts, rollouts))

    made = without_gradient(sampled)
    return made if rollouts is None else _placed(made)


def _placed(tensors):
    """The nest of tensors, each as a batch lies by the running distribution: JAX would let what
    comes from the host, or goes to it, lie as `rollouts` has it, and knows no such place."""
    distribution = keras.distribution.distribution()

    def placed(tensor):
        return reshard([tensor], [[distribution.get_data_layout(tuple(tensor.shape))]])[0]

    return keras.tree.map_structure(placed, tensors, none_is_leaf=False)


def _by_rows(tensors, rollouts):
    """The nest of tensors, its rows sharded as the running distribution has it."""
    if rollouts is None:
        return tensors
    return keras.tree.map_structure(spread, tensors, none_is_leaf=False)


@contextlib.contextmanager
def rollout_copy(policy, rollouts, dtype):
    """Inside, the policy has the copy of its weights, and `rollouts` is in force."""
    if rollouts is None and dtype is None:
        yield
        return
    network, distribution = policy.sampled_by, keras.distribution.distribution()
    layouts = {} if rollouts is None else rollouts.layouts_from(distribution, network)
    cast = set() if dtype is None else castable_ids(network)
    every = stacks.each_by_itself(network.variables)
    variables = [v for v in every if id(v) in cast or id(v) in layouts]
    values = [ops.cast(v.value, dtype) if id(v) in cast else v.value for v in variables]
    values = reshard(values, [layouts.get(id(variable), ()) for variable in variables])
    # TensorFlow's operations don't mix dtypes: there weights are rounded, and read in their own.
    keep = name() != "tensorflow"
    scope = ReadThroughScope(zip(variables, values, strict=True), keep_dtypes=keep)
    with contextlib.nullcontext() if rollouts is None else rollouts.scope(), scope:
        yield
        assigned, values = scope.updates(excluding=variables)
    assign_all(assigned, values)


def castable_ids(network):
    """The ids of the floating weights but those of layers that are quantised."""
    layers = keras_internals.all_layers(network)
    quantised = [layer for layer in layers if getattr(layer, "quantization_mode", None)]
    kept = {id(v) for layer in quantised for v in keras_internals.own_variables(layer)}
    floating = [
        variable
        for variable in stacks.each_by_itself(network.variables)
        if "float" in keras.backend.standardize_dtype(variable.dtype)
    ]
    return {id(variable) for variable in floating} - kept
