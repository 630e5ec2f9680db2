"""Files of named columns: CSV, TSV, Parquet and JSON lines as `{name: list of values}`."""

import collections
import csv
import io
from pathlib import Path

from artifex_keras import endings
from artifex_keras.arguments import shown
from artifex_keras.trust import FileError, is_bomb, read_json_lines, read_text, reading
from artifex_keras.utils import optional

__all__ = ["read_columns"]

CELL = 8  # bytes of a value in memory, at least
HARMLESS = 2**27  # bytes of a table
TRUTH = {"true": True, "false": False}


def read_columns(path):
    """The columns of a file by name; what a row hasn't got is None. CSV holds texts, columns of
    true and false apart.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for another ending, a damaged file, and one without rows.
        ImportError: for Parquet where pyarrow isn't installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise FileError(
            f"A file of rows must end in {', '.join(endings.TABLES)}. Received: {str(path)!r}."
        )
    columns = reader(path)
    if not columns or not len(next(iter(columns.values()))):
        raise FileError(f"There must be at least one row. Received: none in {str(path)!r}.")
    return columns


def _separated(path):
    """The columns of a text whose first line names them; without one they are column_1, ..."""
    text = read_text(path, "a table")
    with reading(path, "a table"):
        rows = csv.reader(io.StringIO(text), delimiter=_separator(text, path), strict=True)
        rows = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    if not rows:
        return {}
    head = [cell.strip() for cell in rows[0][1]]
    if all(map(_is_number, head)):
        head = [f"column_{index + 1}" for index in range(len(head))]
    else:
        rows = rows[1:]
    head = [name or f"column_{index + 1}" for index, name in enumerate(head)]
    twice = [name for name, count in collections.Counter(head).items() if count > 1]
    if twice:
        raise FileError(f"Columns must have different names. Received: {twice[0]!r} twice in "
                        f"{str(path)!r}.")  # fmt: skip
    for line, row in rows:
        if len(row) != len(head):
            raise FileError(
                f"Each line must have a value for each of the {len(head)} columns. Received: "
                f"{len(row)} values in line {line} of {str(path)!r}."
            )
    cells = zip(*(row for _, row in rows), strict=True) if rows else [()] * len(head)
    return {name: _values(list(column)) for name, column in zip(head, cells, strict=True)}


def _separator(text, path):
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = text.lstrip("\n").partition("\n")[0]
    return max(",;\t|", key=first.count)


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


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
        return {name: table.column(name).to_pylist() for name in table.column_names}


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
    return {name: [row.get(name) for row in rows] for name in names}


READERS = {".csv": _separated, ".tsv": _separated, ".parquet": _parquet, ".jsonl": _json_lines}
