"""A training step as programs, lowered and compiled for devices that needn't exist. On JAX.

`step_programs(model, batch, layouts, distribution)`
    the programs of one step: one, or of a step that is interrupted two. Tracing them moves no
    weight and runs nothing.
`step_operations(model, rows=None)`
    how much a step of a running `fit` computes.
`compiled_here(programs)`, `compiled_elsewhere(programs, ...)`
    what the compiler says of them: for the devices that are here, or in a process of its own for
    more CPUs than there are, or for TPUs by libtpu, which needs no TPU.
`exported(program, *platforms)`
    the program as portable bytes for "cpu", "gpu", "tpu"; raises where it can't be lowered.
`abstract_mesh(shape, axis_names)`
    a mesh without devices.
`from_shapes(make, asked)`, `hold_shapes(variables)`, `explained(when, asked)`
    models whose variables are shapes, and what is said where there should be values.
`platform_here()`, `device_kind()`
    what JAX runs on.
"""

from artifex_keras.backend import choice
from artifex_keras.backend.figures import Figures
from artifex_keras.backend.lowering.process import compiled_elsewhere, has_libtpu

if choice.name() != "jax":
    raise ImportError(
        "Steps are lowered and compiled ahead of time on the JAX backend only. "
        f"Received: KERAS_BACKEND={choice.name()!r}."
    )

from artifex_keras.backend.jax.lowering import (  # noqa: E402
    abstract_mesh,
    compiled_here,
    device_kind,
    exported,
    platform_here,
    step_operations,
    step_programs,
)
from artifex_keras.backend.jax.shapes import explained, from_shapes, hold_shapes  # noqa: E402

__all__ = [
    "Figures",
    "abstract_mesh",
    "compiled_elsewhere",
    "compiled_here",
    "device_kind",
    "explained",
    "exported",
    "from_shapes",
    "has_libtpu",
    "hold_shapes",
    "platform_here",
    "step_operations",
    "step_programs",
]
