"""Features, in which two sets of examples are compared, and a classifier that gives them."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import broken_rule, checked, count, random_seed
from artifex_keras.metrics.rows import checked_rows

__all__ = ["classifier_features", "extracted"]

STEPS = 500  # of a classifier, at least


def extracted(
    features: keras.Model | Callable[..., Any], x: Data, batch_size: int = 256
) -> np.ndarray:
    """The features of examples: rows (N, D), float64.

    Args:
        features: a `keras.Model`, which predicts them in batches; any function of a batch; None
            for the examples themselves.
        x: examples, (N, ...).
        batch_size: examples in a batch.
    """
    if features is None:
        return checked_rows("x", x)
    if isinstance(features, keras.Model):
        found = features.predict(x, batch_size=batch_size, verbose=0)
    elif callable(features):
        x = keras.ops.convert_to_numpy(x)
        parts = [features(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        found = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
    else:
        raise broken_rule("features", features, "a Keras model, a function of a batch, or None")
    rows = checked_rows("features(x)", found)
    if len(rows) != len(x):
        raise ValueError(
            "`features` must give a row for each example. Received: "
            f"{len(rows)} rows for {len(x)} examples."
        )
    return rows


@checked(width=count(), epochs=count(optional=True), batch_size=count(), seed=random_seed)
def classifier_features(
    x: Data,
    labels: Tensor,
    *,
    width: int = 64,
    epochs: int | None = None,
    batch_size: int = 128,
    seed: int | None = None,
    verbose: bool | int | str = 0,
) -> keras.Model:
    """A model of examples to features (N, width), from a small classifier trained on `labels`.

    Published distances use a network trained on ImageNet. It can't be had everywhere, and knows
    little of digits or of your data. A classifier of your own labels sees what matters in them.
    Distances in its features compare only with distances in the features of the same classifier:
    save it beside the numbers.

    Images (N, H, W, C) or (N, H, W) pass two convolutions, other examples two dense layers. The
    features are the last hidden layer's.

    Args:
        x: examples, floats of about unit scale, such as pixels in [0, 1] or [-1, 1].
        labels: a class for each example, (N,): numbers or texts, counted from anywhere.
        width: the number of features.
        epochs: passes over the examples; by default 3, and of few examples as many as make 500
            steps.
        batch_size: examples in a step.
        seed: makes the classifier repeatable.
        verbose: as for `fit`.

    Returns:
        A `keras.Model`. Its attribute `accuracy` is that of the last epoch of training.

    Raises:
        ValueError: for labels that aren't one class for each example, and examples that aren't
            finite.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        x = np.random.default_rng(0).uniform(size=(64, 8, 8, 1)).astype("float32")
        labels = (x.mean(axis=(1, 2, 3)) > 0.5).astype("int32")
        features = ak.metrics.classifier_features(x, labels, width=16, epochs=1, seed=0)
        assert features.predict(x, verbose=0).shape == (64, 16)
        ```
    """
    x = np.asarray(keras.ops.convert_to_numpy(x))
    checked_rows("x", x, least=2)
    labels = _classes(labels, len(x))
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(x))
    inputs = keras.Input(x.shape[1:])
    hidden = _trunk(inputs, width, generator)
    logits = layers.Dense(int(labels.max()) + 1, kernel_initializer=_uniform(generator))(hidden)
    classifier = keras.Model(inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classifier.compile("adam", loss, metrics=["accuracy"])
    epochs = epochs or max(3, math.ceil(STEPS * batch_size / len(x)))
    history = classifier.fit(
        x[order], labels[order], batch_size, epochs, verbose=verbose, shuffle=False
    )
    features = keras.Model(inputs, hidden, name="features")
    features.accuracy = history.history["accuracy"][-1]
    return features


def _classes(labels, rows):
    """Labels of any kind as class numbers from 0, (N,)."""
    labels = np.asarray(labels if isinstance(labels, list) else keras.ops.convert_to_numpy(labels))
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (rows,):
        raise ValueError(
            "`labels` must be one class for each example; of one-hot rows take "
            f"labels.argmax(axis=1). Received: labels of shape {labels.shape} for {rows} examples."
        )
    names, classes = np.unique(labels, return_inverse=True)
    if not 1 < len(names) <= max(2, rows // 2):
        raise ValueError(
            "`labels` must name at least two classes, and at most half as many as there are "
            f"examples. Received: {len(names)} different labels for {rows} examples."
        )
    return classes.astype("int32")


def _uniform(generator):
    """Glorot's initialiser with a seed of its own, drawn from `generator`."""
    return keras.initializers.GlorotUniform(seed=int(generator.integers(2**31 - 1)))


def _trunk(x, width, generator):
    """The hidden layers: of images two convolutions and a dense layer, else two dense layers."""
    if len(x.shape) == 3:  # images without channels
        x = layers.Reshape((*x.shape[1:], 1))(x)
    images = len(x.shape) == 4
    for filters in (32, 64) if images else ():
        x = layers.Conv2D(
            filters, 3, strides=2, padding="same", activation="relu",
            kernel_initializer=_uniform(generator),
        )(x)  # fmt: skip
    x = layers.Flatten()(x)
    for _ in range(1 if images else 2):
        x = layers.Dense(width, "relu", kernel_initializer=_uniform(generator))(x)
    return x
