"""One function for every source of data."""

import functools
import inspect
import os
from typing import Any

import numpy as np

from artifex_keras import endings
from artifex_keras.arguments import checked as checked_arguments
from artifex_keras.arguments import file_path, nearest, random_seed, shown, unknown_name
from artifex_keras.datasets.arrays import from_arrays, from_numpy_file
from artifex_keras.datasets.dataset import Dataset, checked, divide, rescale
from artifex_keras.datasets.examples import from_examples_file
from artifex_keras.datasets.files import from_rows_file, from_text_file
from artifex_keras.datasets.images import from_image_folder
from artifex_keras.datasets.named import NAMED
from artifex_keras.datasets.shards import found_files
from artifex_keras.datasets.tables import from_table_file, standardised
from artifex_keras.remote import local_path

__all__ = ["load", "load_examples", "load_rows"]

READERS = {
    **dict.fromkeys(endings.ARRAYS, from_numpy_file),
    **dict.fromkeys(endings.TABLES, from_table_file),
    **dict.fromkeys(endings.TEXTS, from_text_file),
}


@checked_arguments(seed=random_seed)
def load(
    data: Any,
    *,
    validation: Any = None,
    test: Any = None,
    seed: int = 0,
    scale: str = "unit",
    **options: Any,
) -> Dataset:
    """The `Dataset` that `data` stands for, checked, scaled and divided.

    `data` is

    - a name: `digits`; `moons`, `ring`, `gaussians`, `swiss_roll`, `checkerboard` (option
      `count`, 10,000 points, drawn by `seed`); `mnist`, `fashion_mnist`, `cifar10` (downloaded);
    - the path of an `.npz` or `.npy` file, a folder of images (options `image_size`, `channels`,
      `stream`), a table as `.csv`, `.tsv`, `.parquet` or `.jsonl`, whose columns are scaled by the
      training part (`columns` of the result has the scaling), or a `.txt` or `.md` text (options
      `length`, 128 characters a row, and `tokenizer`, the path of one);
    - several files of one ending: a list of paths, a glob such as "shards/*.npz", their folder;
    - an array, or a dictionary of arrays as in an `.npz` file.

    `validation` and `test` are shares or numbers of examples, by default a tenth each where the
    data are not divided already (as `digits` are, in their order); `seed` decides which examples,
    except that a text is divided in order. `scale` is the range of images: "unit" [0, 1] or
    "symmetric" [-1, 1].

    Raises:
        ValueError: for an unknown name, data that can't be used, or an option that does not apply.
        FileNotFoundError: for a path that is not there.
        ConnectionError: if a download fails.

    Example:

    ```python
    import artifex_keras as ak

    dataset = ak.datasets.load("moons", count=1000, validation=100, test=0)
    print(dataset.train.shape, dataset.validation.shape)  # (900, 2) (100, 2)
    ```
    """
    reader = _reader(data)
    dataset = checked(reader(**_accepted(reader, data, options, seed)))
    in_order = dataset.tokenizer is not None
    dataset = divide(rescale(dataset, scale), validation, test, None if in_order else seed)
    return standardised(dataset)


@checked_arguments(seed=random_seed)
def load_rows(
    data: Any, *, validation: Any = None, test: Any = None, seed: int = 0, **options: Any
):
    """The `Dataset` of rows in a .jsonl, .csv, .tsv, .parquet or .txt file, or in several files of
    one ending: prompts with what belongs to each.

    `options` are `prompt_key`, `completion_key` and `tokenizer`, see `files.from_rows_file`; the
    others are those of `load`.

    Raises:
        ValueError: for another kind of file, and an option that does not apply.
        FileNotFoundError: for a path that is not there.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("prompts.txt").write_text("1+1=\\n2+2=\\n3+3=\\n")
    rows = ak.datasets.load_rows("prompts.txt", validation=1, test=0)
    print(len(rows.train), len(rows.validation))  # 2 1
    ```
    """
    return _rows_by(from_rows_file, data, validation, test, seed, options)


@checked_arguments(seed=random_seed)
def load_examples(
    data: Any, *, validation: Any = None, test: Any = None, seed: int = 0, **options: Any
):
    """The `Dataset` of rows that `SFT` learns; all else is as in `load_rows`, see
    `examples.from_examples_file`."""
    return _rows_by(from_examples_file, data, validation, test, seed, options)


def _rows_by(read, data, validation, test, seed, options):
    """The rows that `read` makes of files, divided."""
    paths = found_files(data) or [file_path("data", data).expanduser()]
    _one_ending(paths, dict.fromkeys(endings.PROMPTS), "file of rows", ", ".join(endings.PROMPTS))
    reader = functools.partial(read, paths)
    return divide(reader(**_accepted(reader, data, options, seed)), validation, test, seed)


def _reader(data):
    """A function of options alone that reads `data`."""
    if isinstance(data, dict):
        return functools.partial(from_arrays, data, "arrays")
    if isinstance(data, str) and data in NAMED:
        return NAMED[data]
    if paths := found_files(data):
        return functools.partial(_one_ending(paths, READERS), paths)
    if not isinstance(data, (str, os.PathLike)):
        return functools.partial(from_arrays, {"x": np.asarray(data)}, "array")
    path = local_path(data, "data").expanduser()
    if path.is_dir():
        return functools.partial(from_image_folder, path)
    if not path.exists():
        raise _missing(data, path)
    return functools.partial(_one_ending([path], READERS), [path])


def _one_ending(paths, table, what="data file", choices=None):
    """The row of `table` for the ending that all `paths` have."""
    found = {path.suffix.lower(): path for path in paths}
    if len(found) > 1:
        one, other = [*found.values()][:2]
        raise ValueError(
            f"Files of one data set must have one ending. Received: {one.name!r}, {other.name!r}."
        )
    for path in paths:
        if path.suffix.lower() not in table:
            hint = " Unpack it first." if path.suffix.lower() in endings.PACKED else ""
            raise ValueError(
                f"A {what} must end in {choices or endings.listed()}. Received: {str(path)!r}."
                f"{hint}"
            )
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return table[paths[0].suffix.lower()]


def _missing(data, path):
    if path.suffix or len(path.parts) > 1:
        return FileNotFoundError(f"There is no file or folder {str(data)!r}.")
    hint = unknown_name(str(data), NAMED, "data set")
    return ValueError(f"{hint} Nor is there a file or folder of that name.")


COMMON = ("data", "validation", "test", "seed", "scale")


def _accepted(reader, data, options, seed):
    """The options that `reader` takes; toys take the seed as well."""
    parameters = inspect.signature(reader).parameters.values()
    takes = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for name in options:
        if name not in takes or name == "seed":
            known = ", ".join(f"`{option}`" for option in takes if option != "seed") or "none"
            raise ValueError(
                f"`{name}` does not apply to this data, whose options are: {known}. "
                f"Received: {name}={shown(options[name])}.{nearest(name, [*takes, *COMMON])}"
            )
    return options | ({"seed": seed} if "count" in takes else {})
