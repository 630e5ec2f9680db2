"""The classifier two-sample test: does a network distinguish samples from data?"""

import keras
import numpy as np
from keras import layers

from artifex_keras.aliases import Tensor
from artifex_keras.arguments import checked, random_seed
from artifex_keras.metrics.rows import checked_pair

__all__ = ["classifier_two_sample"]

HIDDEN, STEPS, FOLDS = 64, 100, 2


@checked(seed=random_seed)
def classifier_two_sample(a: Tensor, b: Tensor, seed: int | None = None):
    """The accuracy of a classifier that distinguishes `a` from `b`, on rows that are new to it.

    .5 if the classifier finds no difference, 1 if it is right about every row. Each row is held
    out once: two networks are trained on half of the rows each, with one hidden layer of 64 units,
    and both classes count alike.

    Source: Lopez-Paz and Oquab 2017, https://arxiv.org/abs/1610.06545.

    Args:
        a: a sample or its features, (N, D) or (N, ...), N at least 4.
        b: a sample or its features, (M, D), M at least 4.
        seed: makes the result repeatable.

    Returns:
        A float in [0, 1], about .5 ± .5 / √N for equal distributions.

    Raises:
        ValueError: for too few rows, rows of two widths, or numbers that aren't finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        a = np.random.default_rng(0).normal(size=(200, 2))
        assert ak.metrics.classifier_two_sample(a, a + 3.0, seed=0) > 0.9
        ```
    """
    a, b = checked_pair(a, b, ("a", "b"), least=4)
    generator = np.random.default_rng(seed)
    x = np.concatenate([a, b])
    y = np.repeat([0.0, 1.0], [len(a), len(b)])
    fold = _folds(len(a), len(b), generator)
    right = np.empty(len(x), bool)
    for held_out in (fold == 0, fold == 1):
        logits = _trained_logits(x, y, ~held_out, generator)
        right[held_out] = (logits[held_out] > 0) == (y[held_out] == 1)
    return float(np.mean([right[y == side].mean() for side in (0, 1)]))


def _folds(first, second, generator):
    """0 or 1 for each row of both sets, as many of each as can be.

    Equal rows at the same place, as in a set beside itself, are held out together.
    """
    common = generator.permutation(min(first, second)) % FOLDS
    rest = generator.permutation(abs(first - second)) % FOLDS
    longer = np.concatenate([common, rest])
    return np.concatenate([longer[:first], longer[:second]])


def _trained_logits(x, y, trained, generator):
    """The logits of all rows, from a network trained on some of them."""
    scale = x[trained].std(axis=0)
    x = (x - x[trained].mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    weights = np.where(y == 1, (y[trained] == 0).mean(), (y[trained] == 1).mean())
    network = _network(x.shape[1], generator)
    data = (x[trained].astype("float32"), y[trained, None].astype("float32"))
    for _ in range(STEPS):
        network.train_on_batch(*data, sample_weight=weights[trained].astype("float32"))
    return network.predict(x.astype("float32"), batch_size=4096, verbose=0)[:, 0]


def _network(width, generator):
    def uniform():
        return keras.initializers.GlorotUniform(seed=int(generator.integers(2**31 - 1)))

    network = keras.Sequential(
        [
            keras.Input((width,)),
            layers.Dense(HIDDEN, "relu", kernel_initializer=uniform(), dtype="float32"),
            layers.Dense(1, kernel_initializer=uniform(), dtype="float32"),
        ]
    )
    network.compile(keras.optimizers.Adam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    return network
