"""Files of named columns: CSV, TSV, Parquet and JSON lines as `{name: list of values}`."""

import collections
import csv
import io
import itertools
import re
from pathlib import Path

from artifex_keras import endings
from artifex_keras.arguments import shown
from artifex_keras.trust import FileError, is_bomb, read_json_lines, read_text, reading
from artifex_keras.utils import optional, warn

__all__ = ["MISSING", "read_columns", "read_table"]

CELL = 8  # bytes of a value in memory, at least
HARMLESS = 2**27  # bytes of a table
TRUTH = {"true": True, "false": False}
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-"}  # how tables write a missing value
NUMERIC = re.compile(r"[-+]?(\d[\d.,]*|[.,]\d+)([eE][-+]?\d+)?")  # by any convention
LOOKED_AT = 20  # lines by which a separator is chosen
YEARS = range(1900, 2101)  # numbers that name columns


def read_columns(path):
    """The columns of a file by name; what a row hasn't got is None. CSV holds texts, columns of
    true and false apart.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for another ending, a damaged file, and one without rows.
        ImportError: for Parquet where pyarrow isn't installed.
    """
    return read_table(path)[0]


def read_table(path):
    """`(columns, separator)`: `read_columns`, and what separates them in a .csv or .tsv file, where
    numbers are texts; None for other files."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FileError(
            f"A file of rows must end in {', '.join(endings.TABLES)}. Received: {str(path)!r}."
        )
    columns, separator = reader(path)
    if not columns or not len(next(iter(columns.values()))):
        raise FileError(f"There must be at least one row. Received: none in {str(path)!r}.")
    return columns, separator


def _separated(path):
    """The columns of a text whose first line names them; where it holds values they are called
    column_1, ..."""
    text = read_text(path, "a table")
    separator = _separator(text, path)
    with reading(path, "a table"):
        rows = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
        rows = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return {}, separator
    head = [cell.strip() for cell in rows[0][1]]
    for line, row in rows:
        if len(row) != len(head):
            raise FileError(
                f"Each line must have a value for each of the {len(head)} columns. Received: "
                f"{len(row)} values in line {line} of {str(path)!r}."
            )
    rows = [row for _, row in rows]
    if _holds_values(head, rows[1:], path):
        head = [""] * len(head)
    else:
        rows = rows[1:]
    head = [name or f"column_{index + 1}" for index, name in enumerate(head)]
    twice = [name for name, count in collections.Counter(head).items() if count > 1]
    if twice:
        raise FileError(f"Columns must have different names. Received: {twice[0]!r} twice in "
                        f"{str(path)!r}.")  # fmt: skip
    cells = zip(*rows, strict=True) if rows else [()] * len(head)
    columns = {name: _values(list(column)) for name, column in zip(head, cells, strict=True)}
    return columns, separator


def _separator(text, path):
    """What divides the first lines of a table into equally many cells, most of them numbers; else
    what is in the first line most often."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = text.lstrip("\n").partition("\n")[0]
    scores = {mark: (_share_of_numbers(text, mark), first.count(mark)) for mark in ",;\t|"}
    return max(scores, key=scores.get)


def _share_of_numbers(text, separator):
    """Of the cells of the first lines; -1 if those have unlike numbers of cells, or one each."""
    lines = csv.reader(io.StringIO(text), delimiter=separator, strict=True)
    try:
        rows = [*itertools.islice(filter(None, lines), LOOKED_AT)]
    except csv.Error:
        return -1
    if len({len(row) for row in rows}) != 1 or len(rows[0]) == 1:
        return -1
    cells = [NUMERIC.fullmatch(cell.strip()) is not None for row in rows for cell in row]
    return sum(cells) / len(cells)


def _holds_values(first, rows, path):
    """Whether the first line of a table holds values, not names; a warning where it holds both
    texts and numbers, or numbers that are names.

    Numbers are names if they are years, or count on where the columns don't hold whole numbers
    alone, as when pandas saves what has no names.
    """
    numbers = [cell for cell in first if NUMERIC.fullmatch(cell)]
    if not numbers or not rows:
        return bool(numbers)
    others = [i for i, cell in enumerate(first) if cell not in numbers]
    texts = [index for index in others if first[index].lower() not in MISSING]
    repeated = any(row[index].strip() == first[index] for index in texts for row in rows)
    values = repeated or not _are_names(numbers, rows, bool(texts))
    if values and texts or not values:
        what = "values, not names" if values else "the names of the columns"
        warn(f"The first line of {path.name!r} is taken for {what}: {','.join(first)[:60]!r}.")
    return values


def _are_names(numbers, rows, among_texts):
    """Whether numbers of a first line count on, or are years."""
    if not all(number.isdecimal() for number in numbers):
        return False
    numbers = [int(number) for number in numbers]
    counting = numbers == [*range(numbers[0], numbers[0] + len(numbers))]
    if among_texts:
        return counting and len(numbers) > 1 or all(number in YEARS for number in numbers)
    cells = (cell.strip() for row in rows for cell in row)
    fractions = any(NUMERIC.fullmatch(cell) and not cell.lstrip("+-").isdecimal() for cell in cells)
    enough = (2 if numbers[0] == 0 else 3) if fractions else 8
    return counting and len(numbers) >= enough


def _values(column):
    """Texts as they are, None where there is none; a column of true and false as booleans."""
    column = [cell if cell.strip() else None for cell in column]
    if all(cell is None or cell.strip().lower() in TRUTH for cell in column):
        return [None if cell is None else TRUTH[cell.strip().lower()] for cell in column]
    return column


def _parquet(path):
    parquet = optional("pyarrow.parquet", "tables")
    with reading(path, "a Parquet file"):
        _check_cells(path, _parquet_cells(parquet.ParquetFile(path)), path.stat().st_size)
        table = parquet.read_table(path)
        return {name: table.column(name).to_pylist() for name in table.column_names}, None


def _parquet_cells(file):
    """How many values the file declares, those inside of lists too."""
    groups = (file.metadata.row_group(i) for i in range(file.metadata.num_row_groups))
    return sum(group.column(i).num_values for group in groups for i in range(group.num_columns))


def _check_cells(path, cells, size):
    """Raises a FileError where a table of so many values is too large for a file of `size` bytes:
    equal values take next to no place in one, and one that is missing takes none."""
    if is_bomb(cells * CELL, size, HARMLESS):
        raise FileError(
            f"{str(path)!r} of {size:,} bytes would be a table of {cells:,} values, most of them "
            "missing or the same. If it is your own, save fewer rows or fewer columns."
        )


def _json_lines(path):
    rows = []
    for number, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise FileError(
                f"Each line must be a JSON object. Received: {shown(row)} in line {number} of "
                f"{str(path)!r}."
            )
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    _check_cells(path, len(names) * len(rows), path.stat().st_size)
    return {name: [row.get(name) for row in rows] for name in names}, None


READERS = {".csv": _separated, ".tsv": _separated, ".parquet": _parquet, ".jsonl": _json_lines}
