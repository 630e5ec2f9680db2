"""What importing the package brings along, and that its modules bear the documented names."""

import importlib
import os
import subprocess
import sys

import pytest

# The modules of the documentation's reference table.
DOCUMENTED = (
    "trainers.trainer",
    "trainers.vae_trainer",
    "trainers.gan_trainer",
    "trainers.flow_trainer",
    "trainers.autoregressive_trainer",
    "trainers.diffusion_trainer",
    "trainers.energy_trainer",
    "optimizers.adamw",
    "optimizers.lion",
    "optimizers.adafactor",
    "optimizers.optax_wrappers",
    "schedulers.scheduler",
    "schedulers.cosine",
    "schedulers.linear",
    "schedulers.exponential",
    "schedulers.factory",
    "distributed.data_parallel",
    "distributed.model_parallel",
    "distributed.mesh",
    "distributed.device_placement",
    "distributed.distributed_metrics",
    "rl.reinforce",
    "rl.ppo",
    "rl.dpo",
    "rl.grpo",
    "callbacks.base",
    "callbacks.checkpoint",
    "callbacks.early_stopping",
    "callbacks.visualization",
    "callbacks.logging",
    "callbacks.profiling",
    "models.base",
    "gradient_accumulation",
    "mixed_precision",
    "tracking",
    "arguments",
    "utils",
)

BROUGHT_ALONG = """
import sys
import keras
before = set(sys.modules)
import artifex_keras
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
if keras.config.backend() == "jax":
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized(), "a device was started"
"""

BLOCKED = """
import sys
for name in ("tensorflow", "torch", "optax", "orbax", "wandb", "mlflow", "matplotlib", "sklearn"):
    sys.modules[name] = None
import artifex_keras
"""


def python(source):
    """What a fresh interpreter prints when it runs `source`."""
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_module_has_its_documented_name(name):
    assert importlib.import_module(f"artifex_keras.{name}").__doc__


def test_import_brings_nothing_but_itself_and_starts_no_device():
    own = {"artifex_keras", "keras", "numpy", *sys.stdlib_module_names}
    assert set(python(BROUGHT_ALONG)) - own == set()


@pytest.mark.backends("jax")
def test_import_needs_no_optional_package():
    python(BLOCKED)


def test_trainers_of_many_devices_are_found_beside_the_meshes():
    from artifex_keras.distributed import DataParallelTrainer, DeviceMesh, ModelParallelTrainer

    names = {cls.__name__ for cls in (DataParallelTrainer, DeviceMesh, ModelParallelTrainer)}
    assert names == {"DataParallelTrainer", "DeviceMesh", "ModelParallelTrainer"}


def test_public_names_exist():
    package = importlib.import_module("artifex_keras")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
