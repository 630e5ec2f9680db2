"""Models whose weights are made shard by shard, so that they may be larger than a device."""

import contextlib
from collections.abc import Callable
from typing import Any

import keras

from artifex_keras import backend
from artifex_keras.aliases import Data
from artifex_keras.arguments import checked, function, instance_of
from artifex_keras.backend import keras_internals
from artifex_keras.distributed.from_shapes import BUILT, made_from_shapes, makes_model, prepare
from artifex_keras.distributed.redistribute import layouts_of, redistribute
from artifex_keras.distributed.sharding import layout_of_axes

__all__ = ["build_sharded"]

KINDS = keras.distribution.ModelParallel, keras.distribution.DataParallel


@checked(
    make=function,
    distribution=instance_of(*KINDS, what="a distribution of keras.distribution or ours"),
)
def build_sharded(make: Callable[[], keras.Model], batch: Data, distribution: Any) -> keras.Model:
    """The compiled model of `make()`, each of its weights made in shards on the devices that hold
    them, with its optimizer, averages and references.

    No device ever holds more than its shards and the one that is being made. (What is small is made
    whole and then sharded: by Keras, weights of less than 250 MB divided by the number of devices.)
    The numbers are those of the model as one device makes it. `make` is called twice: first with
    shapes alone, from which the table of layouts follows.

    Args:
        make: a function without arguments that makes, compiles and gives a model.
        batch: one batch as `fit` delivers it, or zeros of the same shapes and dtypes.
        distribution: of `model_parallel`, or any of `keras.distribution`.

    Raises:
        ValueError: for another backend than JAX, a `make` that gives no compiled model, takes
            weights that were made before, reads a file or needs the values of weights. Load weights
            into the model afterwards.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        tokens = np.random.default_rng(0).integers(0, 100, (8, 16)).astype("int32")

        def make():
            network = ak.networks.CausalTransformer(100, 16, num_layers=1, num_heads=2, width=16)
            model = ak.Autoregressive(network)
            model.compile(optimizer="adamw")
            return model

        distribution = ak.distributed.model_parallel((1, 1))  # (2, 4) on eight devices
        model = ak.distributed.build_sharded(make, tokens, distribution)
        with distribution.scope():
            model.fit(tokens, batch_size=8, epochs=1, verbose=0)
        ```
    """
    if backend.name() != "jax":
        raise ValueError(
            "`build_sharded` needs the JAX backend, which shards weights. Received: "
            f"KERAS_BACKEND={backend.name()!r}."
        )
    if not makes_model(make):
        raise ValueError(
            "`make` must be a function that makes the model. Received: a model, "
            f"{type(make).__name__}, whose weights are there already: `redistribute` shards those."
        )
    with keras_internals.global_state_kept():
        model, _, _ = made_from_shapes(make, batch, BUILT)
        layouts = _layouts_by_path(model, distribution)
    with distribution.scope():
        with _placing(distribution, layouts):
            model = make()
            prepare(model, batch)
        redistribute(model, distribution)  # what has no row, such as seeds, is replicated
    return model


def _layouts_by_path(model, distribution):
    """`{(path, shape): layout}` of all variables of a model that have one."""
    found = layouts_of(model, distribution)
    layouts = {}
    for variable in [*model.variables, *model.optimizer.variables]:
        layout = found.get(id(variable))
        if layout is not None:
            layouts[_key(variable)] = layout
            for part in getattr(variable, "slices", ()):  # which are made before they are stacked
                layouts[_key(part)] = layout_of_axes(layout.axes[1:], layout.device_mesh)
    return layouts


def _key(variable):
    return variable.path, tuple(variable.shape)


@contextlib.contextmanager
def _placing(distribution, layouts):
    """Inside, a new variable is made as its row of `layouts` says; others stay where their value
    is, until the model is sharded."""
    distribution.get_variable_layout = lambda variable: layouts.get(_key(variable))
    try:
        yield
    finally:
        del distribution.get_variable_layout
