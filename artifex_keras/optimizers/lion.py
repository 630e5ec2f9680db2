"""Lion, for half of Adam's memory."""

import keras

from artifex_keras.arguments import bounded, checked
from artifex_keras.optimizers.base import OptimizerMixin, native
from artifex_keras.optimizers.rules import RULES

__all__ = ["Lion"]


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(RULES, beta_1=bounded(above=0.0, maximum=1.0))
class Lion(OptimizerMixin, native(keras.optimizers.Lion)):
    """w ← w - learning_rate · (sign(β₁m + (1 - β₁)g) + weight_decay · w), m ← β₂m + (1 - β₂)g
    (2302.06675, algorithm 2): Keras's.

    One slot per weight instead of Adam's two. Every weight moves by the rate itself, so take 3 to
    10 times less than for Adam, and so much more weight decay. It likes large batches.

    Example:

    ```python
    import artifex_keras as ak

    optimizer = ak.optimizers.Lion(1e-4, weight_decay=0.1)  # a third of AdamW's rate, or less
    ```
    """
