"""Plans: what a training step costs in memory, operations and traffic, before devices are rented.

On JAX. A step is compiled, or lowered for devices that aren't here, and nothing runs.
"""

from artifex_keras.planning.chips import CHIPS, Chip, Target
from artifex_keras.planning.plan import plan
from artifex_keras.planning.report import Plan

__all__ = ["CHIPS", "Chip", "Plan", "Target", "plan"]
