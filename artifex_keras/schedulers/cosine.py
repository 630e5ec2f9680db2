"""Half a cosine down to the last update, or several with warm restarts (SGDR, 1608.03983)."""

import math

import keras
from keras import ops

from artifex_keras.aliases import LearningRate
from artifex_keras.arguments import checked, integer, number
from artifex_keras.schedulers.scheduler import BoundedSchedule

__all__ = ["CosineSchedule"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class CosineSchedule(BoundedSchedule):
    """min_lr + ½(learning_rate - min_lr)(1 + cos πp) at progress p (1608.03983, eq. 5).

    With `num_cycles` > 1 the updates from the peak on are shared out among so many cycles. Each
    starts at its peak and has `min_lr` in its last update.

    Args:
        num_cycles: the number of cosines; 1 has no restart.
        cycle_growth: how much longer each cycle is than the one before (T_mult in the paper).
        cycle_decay: the ratio of each cycle's peak above `min_lr` to that of the one before.

    Example:

    ```python
    from artifex_keras.schedulers import CosineSchedule

    schedule = CosineSchedule(1e-3, total_steps=1000, warmup_steps=100, min_lr=1e-5)
    print(float(schedule(99)), float(schedule(999)))  # 0.001 at the peak, 1e-05 at the end
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 1e-3,
        total_steps: int | None = None,
        *,
        warmup_steps: int = 0,
        min_lr: float = 0.0,
        num_cycles: int = 1,
        cycle_growth: float = 1.0,
        cycle_decay: float = 1.0,
    ):
        super().__init__(learning_rate, total_steps, warmup_steps=warmup_steps, min_lr=min_lr)
        self.num_cycles = integer("num_cycles", num_cycles, minimum=1)
        self.cycle_growth = number("cycle_growth", cycle_growth, minimum=0.0)
        self.cycle_decay = number("cycle_decay", cycle_decay, minimum=0.0)
        self._cycles = self._first_updates_and_lengths()
        lengths = [length for _, length in self._cycles]
        if self.num_cycles > 1 and min(lengths) < 2:
            raise ValueError(
                "Each cycle needs at least 2 updates. Received: "
                f"num_cycles={num_cycles}, cycle_growth={cycle_growth}, which makes cycles of "
                f"{lengths} updates."
            )

    def _first_updates_and_lengths(self):
        """Of each cycle, counted from the peak."""
        sizes = [self.cycle_growth**cycle for cycle in range(self.num_cycles)]
        updates = self.total_steps - self.peak_step
        ends = [round(updates * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes))]
        return [(start, end - start) for start, end in zip([0, *ends], ends, strict=False)]

    def decay(self, updates):
        updates = ops.minimum(updates, float(self.decay_steps))
        share = 0.0
        for cycle, (start, length) in enumerate(self._cycles):
            progress = (updates - start) / max(length - 1, 1)
            falling = 0.5 * (1.0 + ops.cos(math.pi * progress)) * self.cycle_decay**cycle
            share = ops.where(updates >= start, falling, share)
        return self.mixed(share)
