"""Training on many devices, on JAX: data parallelism, FSDP, tensor parallelism, processes.

Everything builds on `keras.distribution`. Set one of these distributions, or give it to a trainer,
before or after the model is built.
"""

from artifex_keras.distributed.actor_learner import actor_learner
from artifex_keras.distributed.build import build_sharded
from artifex_keras.distributed.data_parallel import DataParallel, data_parallel
from artifex_keras.distributed.device_placement import memory_report, place, prefetch
from artifex_keras.distributed.launcher import launch
from artifex_keras.distributed.layouts import Layouts, auto_layout_map
from artifex_keras.distributed.mesh import DeviceMesh
from artifex_keras.distributed.model_parallel import ModelParallel, model_parallel
from artifex_keras.distributed.own_rows import OwnRows
from artifex_keras.distributed.processes import initialize
from artifex_keras.distributed.redistribute import redistribute

__all__ = [
    "DataParallel",
    "DeviceMesh",
    "Layouts",
    "ModelParallel",
    "OwnRows",
    "actor_learner",
    "auto_layout_map",
    "build_sharded",
    "data_parallel",
    "initialize",
    "launch",
    "memory_report",
    "model_parallel",
    "place",
    "prefetch",
    "redistribute",
]
