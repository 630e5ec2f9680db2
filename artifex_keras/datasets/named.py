"""Data sets known by name: what ships with a dependency, what is generated, what is downloaded."""

import functools

import numpy as np

from artifex_keras.arguments import checked, count, random_seed
from artifex_keras.datasets import toys
from artifex_keras.datasets.arrays import from_arrays
from artifex_keras.datasets.dataset import Dataset

__all__ = ["NAMED", "cifar10", "digits", "fashion_mnist", "mnist"]


@checked(seed=random_seed)
def digits(*, seed: int | None = None) -> Dataset:
    """scikit-learn's 1,797 handwritten digits: images (8, 8, 1) in [0, 1], steps of 1/16.

    1,000 to train, 350 to validate, 447 to test, in the order of the library: the writers of the
    test part are not those of the training part. A `seed` permutes all before the division.

    Example:

    ```python
    import artifex_keras as ak

    dataset = ak.datasets.digits()
    print(dataset.train.shape, dataset.test.shape)  # (1000, 8, 8, 1) (447, 8, 8, 1)
    ```
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")
    order = np.arange(1797) if seed is None else np.random.default_rng(seed).permutation(1797)
    x, y = np.split(images[order], [1000, 1350]), np.split(labels[order], [1000, 1350])
    y = [part.astype("int32") for part in y]
    return Dataset("digits", "images", *x, *y)


@checked(count=count(), seed=random_seed)
def _toy(name, *, count=10_000, seed=0):
    return Dataset(name, "vectors", toys.TOYS[name](count, seed))


def _downloaded(name):
    """The data set called `name` of `keras.datasets`, which keeps it in Keras's home folder."""
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise ConnectionError(
            f"{name!r} could not be downloaded: {error}. It needs a network once; without one, "
            "give the path of an .npz file with x_train and x_test instead of the name."
        ) from error
    arrays = {"x_train": train[0], "y_train": train[1], "x_test": test[0], "y_test": test[1]}
    return from_arrays(arrays, name)


def mnist() -> Dataset:
    """70,000 handwritten digits (28, 28, 1), 10,000 of them to test; downloaded by Keras."""
    return _downloaded("mnist")


def fashion_mnist() -> Dataset:
    """70,000 pieces of clothing (28, 28, 1), 10,000 of them to test; downloaded by Keras."""
    return _downloaded("fashion_mnist")


def cifar10() -> Dataset:
    """60,000 colour photographs (32, 32, 3), 10,000 of them to test; downloaded by Keras."""
    return _downloaded("cifar10")


NAMED = {
    "digits": digits,
    **{name: functools.partial(_toy, name) for name in toys.TOYS},
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
}
