"""Tables of numbers as a `Dataset`: their columns are scaled, and samples come back in the
table's own units."""

import csv
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from artifex_keras.aliases import FilePath
from artifex_keras.arguments import broken_rule, checked, lookup, shown
from artifex_keras.atomic import atomic_file
from artifex_keras.columns import column_moments
from artifex_keras.datasets.columns import read_table
from artifex_keras.datasets.dataset import PARTS, Dataset
from artifex_keras.datasets.numerals import as_numbers, without_lists
from artifex_keras.datasets.shards import file_paths, joined, name_of
from artifex_keras.trust import FileError
from artifex_keras.utils import warn

__all__ = ["Columns", "from_table_file", "standardised"]

MOST = 0.5  # a column that misses more than this share of its values is left out
NAMED = 5  # columns that a message names
FEW = 20  # rows that may count on by chance


PARTS_OF_COLUMNS = ("names", "mean", "std")


def _describes_columns(names=None, mean=None, std=None):
    """Whether lists, as a file has them, are what `Columns` holds."""
    lists = all(isinstance(part, list) for part in (names, mean, std))
    if not lists or not len(names) == len(mean) == len(std):
        return False
    named = all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return named and all(map(_is_finite, (*mean, *std))) and all(s > 0 for s in std)


def _is_finite(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns of a table: their names, and the mean and standard deviation that scale them.

    Example:

    ```python
    import artifex_keras as ak

    columns = ak.datasets.Columns(("height", "weight"), (170.0, 70.0), (10.0, 8.0))
    print(columns.in_units([[0.0, 1.0]]))  # [[170. 78.]]
    ```
    """

    names: tuple
    mean: tuple | None = None
    std: tuple | None = None

    def scaled(self, x):
        """Rows (N, D) of the table's units as float32 of mean 0 and deviation 1."""
        return ((np.asarray(x, "float64") - self.mean) / self.std).astype("float32")

    def in_units(self, x):
        """Scaled rows (N, D) in the table's own units, float64."""
        return np.asarray(x, "float64") * self.std + self.mean

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which `from_dict` makes it again."""
        return {"names": [*self.names], "mean": [*self.mean], "std": [*self.std]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]):
        """The columns that `to_dict` gave. Raises a ValueError for anything else."""
        parts = [values.get(key) for key in PARTS_OF_COLUMNS] if isinstance(values, dict) else []
        if not _describes_columns(*parts):
            raise ValueError(
                "Columns must have names, means, deviations: different texts, and as many numbers, "
                f"deviations above 0. Received: {shown(values)}."
            )
        names, mean, std = parts
        return cls(tuple(names), tuple(map(float, mean)), tuple(map(float, std)))

    def write_csv(self, x, path):
        """Writes scaled rows as a CSV file in the table's own units, under the columns' names."""
        with atomic_file(path) as temporary, open(temporary, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(self.names)
            table.writerows(self._shown(row) for row in self.in_units(x))

    def _shown(self, row):
        """Values with six digits of their column's deviation, which float32 has."""
        return [
            f"{round(float(value), 5 - math.floor(math.log10(std))):.15g}"
            for value, std in zip(row, self.std, strict=True)
        ]


@checked()
def from_table_file(path: FilePath | Sequence[FilePath], *, columns: Sequence[str] | None = None):
    """The numeric columns of a .csv, .tsv, .parquet or .jsonl file as vectors, not yet scaled.

    Columns that are no numbers, have the same value in all rows, number the rows, or miss more than
    half of their values are left out, and then rows in which a value is missing: a warning says
    which and how many. True and false are 1 and 0; of a column of lists of one length each entry is
    a column. The first line of a .csv file names the columns, unless it holds values. Several files
    of the same columns, a list of paths, are one table.

    Args:
        path: of the file, or a list of paths. Parquet needs pyarrow (extra `tables`).
        columns: the names of those to learn, in that order; or the `Columns` that a model was
            trained on.

    Raises:
        ValueError: for a damaged file, no numeric column, no complete row, or a missing column.
        ImportError: for Parquet without pyarrow.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("people.csv").write_text("height,weight\\n170,60\\n181,82\\n")
    dataset = ak.datasets.from_table_file("people.csv")
    print(dataset.columns.names, dataset.shape)  # ('height', 'weight') (2,)
    ```
    """
    paths = file_paths("path", path)
    known = columns if isinstance(columns, Columns) else None
    wanted = _names("columns", columns) if known is None else known.names
    read = [read_table(each) for each in paths]
    table = without_lists(joined([columns for columns, _ in read], paths))
    name, separators = name_of(paths), {separator for _, separator in read}
    found = {key: as_numbers(values, separators) for key, values in table.items()}
    numbers = {key: column for key, column in found.items() if column is not None}
    if wanted is None:
        kept = _kept(table, numbers, name)
    else:
        kept = {key: lookup(numbers, key, f"numeric column of {name!r}") for key in wanted}
    _check_finite(kept, name)
    rows = np.stack([*kept.values()], axis=1)
    complete = ~np.isnan(rows).any(axis=1)
    if not complete.any():
        raise FileError(f"Each row of {name!r} misses a value in {_some(kept)}.")
    if missing := int((~complete).sum()):
        warn(f"{missing} of {len(rows)} rows of {name!r} miss a value and are left out.")
    return Dataset(name, "vectors", rows[complete], columns=known or Columns(tuple(kept)))


def _names(name, value):
    """Names of columns: None, one, or a list of different ones."""
    value = [value] if isinstance(value, str) else value
    if value is None:
        return None
    texts = isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value)
    if not texts or len({*value}) < len(value):
        raise broken_rule(name, value, "a list of different names, or `Columns`")
    return tuple(value)


def _check_finite(columns, name):
    for key, x in columns.items():
        if len(rows := np.flatnonzero(np.isinf(x))):
            raise FileError(
                f"Values must be finite. Received: {x[rows[0]]} in column {key!r} of {name!r}, "
                f"example {rows[0] + 1}."
            )


def _kept(table, numbers, name):
    """The columns to learn; a warning names those that are left out."""
    sparse = [key for key, x in numbers.items() if np.isnan(x).mean() > MOST]
    constant = [
        key for key, x in numbers.items() if key not in sparse and np.ptp(x[~np.isnan(x)]) == 0
    ]
    texts = [key for key in table if key not in numbers]
    indices = [key for key, x in numbers.items() if _counts_rows(x)]
    left_out = (*sparse, *constant, *indices)
    kept = {key: x for key, x in numbers.items() if key not in left_out}
    why = {
        "that are no numbers": texts,
        "that number the rows": indices,
        "that miss most of their values": sparse,
        "of one value": constant,
    }
    reasons = "; ".join(f"{_some(keys)} ({what})" for what, keys in why.items() if keys)
    if not kept:
        raise FileError(f"There is no column of numbers to learn in {name!r}: {reasons}.")
    if reasons:
        warn(f"Columns of {name!r} are left out: {reasons}.")
    return kept


def _counts_rows(x):
    """Whether a column says no more than which row it is: 0, 1, 2, ... or 1, 2, 3, ..."""
    return len(x) >= FEW and x[0] in (0, 1) and bool((np.diff(x) == 1).all())


def _some(names):
    names = [*map(repr, names)]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def standardised(dataset):
    """`dataset` with the columns of a table scaled: by what they know, or by the training part."""
    if dataset.columns is None:
        return dataset
    columns = dataset.columns
    if columns.mean is None:
        mean, std = column_moments(dataset.train)
        columns = Columns(columns.names, tuple(mean.tolist()), tuple(std.tolist()))
    parts = {name: x for name in PARTS if (x := getattr(dataset, name)) is not None}
    scaled = {name: columns.scaled(x) for name, x in parts.items()}
    return dataclasses.replace(dataset, columns=columns, **scaled)
