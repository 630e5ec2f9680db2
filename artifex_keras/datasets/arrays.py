"""Arrays, in memory or in NumPy's files, as a `Dataset`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import checked, dictionary, optional, text, unknown_name
from artifex_keras.datasets.dataset import PARTS, Dataset
from artifex_keras.datasets.shards import file_paths, joined, name_of
from artifex_keras.trust import read_arrays
from artifex_keras.utils import warn

__all__ = ["from_arrays", "from_numpy_file"]

# The names under which people save arrays, without regard to case.
EXAMPLE_KEYS = {
    "train": ("x_train", "train_x", "train_images", "images_train", "train_data", "train", "x",
              "images", "image", "data", "samples", "features", "tokens", "arr_0"),
    "validation": ("x_val", "x_valid", "x_validation", "val_x", "val_images", "images_val", "val",
                   "valid", "validation"),
    "test": ("x_test", "test_x", "test_images", "images_test", "test_data", "test"),
}  # fmt: skip
LABEL_KEYS = {
    "train": ("y_train", "train_y", "train_labels", "labels_train", "y", "labels", "label",
              "targets", "target"),
    "validation": ("y_val", "y_valid", "y_validation", "val_y", "val_labels", "labels_val"),
    "test": ("y_test", "test_y", "test_labels", "labels_test"),
}  # fmt: skip


@checked(example_key=optional(text))
def from_numpy_file(path: FilePath | Sequence[FilePath], *, example_key: str | None = None):
    """The arrays of an `.npy` or `.npz` file as a `Dataset`; of several files, one after the other,
    where `path` is a list of paths. `example_key` is that of `from_arrays`.

    Raises:
        ValueError: for a file that NumPy can't read, or with no array under a known name.

    Example:

    ```python
    import numpy as np
    import artifex_keras as ak

    np.savez("mine.npz", x_train=np.zeros((10, 8, 8), "uint8"), y_train=np.arange(10) % 2)
    from pathlib import Path
    dataset = ak.datasets.from_numpy_file(Path("mine.npz"))
    print(dataset)  # Dataset(mine.npz: 10 train images of shape (8, 8, 1))
    ```
    """
    paths = file_paths("path", path)
    arrays = joined([read_arrays(each) for each in paths], paths)
    return from_arrays(arrays, name_of(paths), example_key=example_key)


@checked(arrays=dictionary, name=text, example_key=optional(text))
def from_arrays(arrays: Mapping[str, Any], name: str, *, example_key: str | None = None):
    """A `Dataset` of the arrays in a dictionary, found by their names.

    Examples are `x`, `images`, `data`, `x_train`, ..., with `x_val` and `x_test` beside them,
    labels `y`, `labels`, `y_train`, ...; a single array may have any name, and `example_key` says
    which one holds the training examples where none has such a name. Arrays of rank 3 and
    4 are images (N, H, W) and (N, H, W, C), integers of rank 2 tokens, other arrays of rank 2
    vectors. uint8, and whole numbers of images, are divided by 255 unless they are 0 and 1 only.
    Labels are names, one-hot rows or whole numbers from 0; others are left out, with a warning.

    Raises:
        ValueError: if no training examples are found, or they are none of these.

    Example:

    ```python
    import numpy as np
    import artifex_keras as ak

    arrays = {"images": np.zeros((10, 8, 8), "uint8"), "labels": np.arange(10) % 2}
    dataset = ak.datasets.from_arrays(arrays, "mine")
    print(dataset.shape, dataset.num_classes)  # (8, 8, 1) 2
    ```
    """
    found = {part: _find(arrays, EXAMPLE_KEYS[part]) for part in PARTS}
    if example_key is not None:
        if example_key not in arrays:
            raise ValueError(unknown_name(example_key, arrays, f"array of {name!r}"))
        found["train"] = arrays[example_key]
    elif found["train"] is None and len(arrays) == 1:
        found["train"] = next(iter(arrays.values()))
    if found["train"] is None:
        raise ValueError(
            f"No training examples in {name!r}: looked for {', '.join(EXAMPLE_KEYS['train'])}. "
            f"Received: {', '.join(map(repr, arrays)) or 'nothing'}. `example_key` "
            "(--set example_key=NAME) says which one it is."
        )
    found = {part: None if x is None else np.asarray(x) for part, x in found.items()}
    kind = _kind(found["train"], name)
    divisor = _divisor(found["train"], kind)
    examples = [None if x is None else _examples(x, kind, divisor, name) for x in found.values()]
    labels = [_find(arrays, LABEL_KEYS[part]) for part in PARTS]
    labels, class_names = _labels(labels, name)
    return Dataset(name, kind, *examples, *labels, class_names)


def _find(arrays, keys):
    """The array under the first of `keys` that there is."""
    lower = {key.lower(): value for key, value in arrays.items()}
    return next((lower[key] for key in keys if key in lower), None)


def _kind(x, name):
    if x.dtype.kind not in "biuf":
        raise ValueError(f"Data must be numbers. Received: {x.dtype} in {name!r}.")
    if x.ndim == 2:
        return "tokens" if x.dtype.kind in "iu" and x.dtype != np.uint8 else "vectors"
    if x.ndim not in (3, 4):
        raise ValueError(
            "Data must be rows (N, D), images (N, H, W) or images (N, H, W, channels). "
            f"Received: shape {x.shape} in {name!r}."
        )
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise ValueError(
            "Images must have their channels last: `np.moveaxis(x, 1, -1)` moves them there. "
            f"Received: shape {x.shape} in {name!r}."
        )
    return "images"


def _divisor(x, kind):
    """255 for grey levels of eight bits, which whole numbers of images are; 1 for the rest."""
    levels = x.dtype == np.uint8 or (kind == "images" and x.dtype.kind in "iu")
    return 255 if levels and x.size and x.max() > 1 else 1  # 0 and 1 alone are a binary image


def _are_whole(x):
    """Whether all numbers are whole ones, as floats too."""
    return x.dtype.kind in "iu" or bool(np.isfinite(x).all() and (x == np.floor(x)).all())


def _examples(x, kind, divisor, name):
    if kind == "tokens":
        return x.astype("int32")
    x = x.astype("float32") / np.float32(divisor)
    if kind == "images":
        x = x[..., None] if x.ndim == 3 else x
        # NaN passes here and is reported as what it is later.
        if x.size and (np.nanmin(x) < 0 or np.nanmax(x) > 1):
            raise ValueError(
                "Images must be floats in [0, 1] or integers from 0 to 255. Received: "
                f"{np.nanmin(x) * divisor:g} to {np.nanmax(x) * divisor:g} in {name!r}. Divide "
                "them by their largest value, or save grey levels as uint8."
            )
    return x


def _labels(labels, name):
    """Labels as int32, and the names of the classes where the labels are not numbers; none at all
    where they are no classes."""
    present = [np.asarray(y) for y in labels if y is not None]
    present = [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in present]
    class_names = None
    if present and present[0].dtype.kind in "US":
        class_names = tuple(map(str, np.unique(np.concatenate(present))))
        present = [np.searchsorted(class_names, y.astype(str)) for y in present]
    present = [y.argmax(axis=1) if _is_one_hot(y) else y for y in present]
    for y in present:
        if not _are_classes(y):
            warn(
                f"The labels in {name!r} are left out: they must be names, one-hot rows or whole "
                f"numbers from 0. Received: {y.dtype} of shape {y.shape}."
            )
            return [None] * len(labels), None
    rest = iter(present)
    return [None if y is None else next(rest).astype("int32") for y in labels], class_names


def _is_one_hot(y):
    numbers = y.dtype.kind in "biuf" and y.ndim == 2 and y.shape[1] > 1
    return numbers and bool(np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all())


def _are_classes(y):
    """Whether labels are whole numbers from 0, of one dimension."""
    numbers = y.ndim == 1 and y.dtype.kind in "biuf"
    return numbers and (not y.size or y.dtype.kind == "b" or bool(y.min() >= 0 and _are_whole(y)))
