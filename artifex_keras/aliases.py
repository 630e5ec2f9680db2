"""The types that signatures share."""

import os
from collections.abc import Callable
from typing import Any, TypeAlias

# Of the running backend: a `jax.Array`, `tf.Tensor` or `torch.Tensor`. Where it is an argument, an
# array of NumPy does as well. No checker can know which backend runs, so all of them pass.
Tensor: TypeAlias = Any
# What `fit` takes: arrays, dicts of them, tables, or batches of a `tf.data`, torch or grain loader.
Data: TypeAlias = Any
FilePath: TypeAlias = str | os.PathLike[str]
# The name of a function that Keras knows, or a function.
Activation: TypeAlias = str | Callable[..., Any]
# A number, or a schedule: a function of the step.
LearningRate: TypeAlias = float | Callable[..., Any]
Shape: TypeAlias = int | tuple[int, ...]
Limits: TypeAlias = tuple[float, float]
