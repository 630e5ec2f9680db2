"""Columns of a table as numbers: missing values, decimal commas, thousands, lists."""

import math
import re

import numpy as np

from artifex_keras.datasets.columns import MISSING

__all__ = ["as_numbers", "without_lists"]

# 1,234 and 1,234,567.8; 1.234 and 1.234.567,8; 0,5 and 12,5.
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
DOTTED = re.compile(r"[-+]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?")
DECIMAL = re.compile(r"[-+]?\d*,\d+([eE][-+]?\d+)?")
CERTAIN = re.compile(r".*,.*[,.].*")  # a comma that isn't the last mark is no decimal comma


def as_numbers(values, separators):
    """A column as float64 with NaN where a value is missing; None if it is no column of numbers.

    `separators` are those of the files. Where they are None, as of Parquet and JSON, a text is no
    number. A comma separates thousands where all of a column may be read so, unless the files
    separate their columns otherwise, as they do where it is the decimal point.
    """
    if any(isinstance(value, (list, dict, bytes)) for value in values):
        return None
    if None in separators and any(_is_text(value) for value in values):
        return None
    values = [math.nan if _is_missing(value) else value for value in values]
    try:
        return np.array([_number(value) for value in values])
    except (TypeError, ValueError):
        pass
    texts = [None if isinstance(value, float) else str(value).strip() for value in values]
    return _with_commas(texts, decimal="," not in separators)


def _is_missing(value):
    return value is None or isinstance(value, str) and value.strip().lower() in MISSING


def _is_text(value):
    return isinstance(value, str) and not _is_missing(value)


def _number(value):
    if isinstance(value, str) and "_" in value:  # Python's own way to write a number
        raise ValueError
    return float(value)


def _with_commas(texts, decimal):
    """Texts with commas in them as numbers; None if they are none. `decimal` says what a comma is
    where all could be read either way."""
    marked = [text for text in texts if text is not None and "," in text]
    grouped = bool(marked) and all(THOUSANDS.fullmatch(text) for text in marked)
    if grouped and not (decimal and not any(CERTAIN.fullmatch(text) for text in marked)):
        plain = [text and text.replace(",", "") for text in texts]
    else:
        plain = [text and _decimal_point(text) for text in texts]
    try:
        return np.array([math.nan if text is None else _number(text) for text in plain])
    except ValueError:
        return None


def _decimal_point(text):
    """A number with a decimal comma as Python writes it; a point separates thousands then."""
    if DOTTED.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return text.replace(",", ".") if DECIMAL.fullmatch(text) else text


def without_lists(table):
    """A table with each column of lists of one length as so many columns: x_1, x_2, ..."""
    flat = {}
    for name, values in table.items():
        x = _array_of_lists(values)
        if x is None:
            flat[name] = values
        else:
            columns = {f"{name}_{i + 1}": column for i, column in enumerate(x.T.tolist())}
            flat |= {key: column for key, column in columns.items() if key not in table}
    return flat


def _array_of_lists(values):
    """Lists of numbers of one shape as (N, D), NaN where one is missing; None for anything else."""
    first = next((value for value in values if value is not None), None)
    if not isinstance(first, list) or not first:
        return None
    try:
        x = np.array([value for value in values if value is not None])
        if x.dtype.kind not in "biuf":
            return None
        found = np.full((len(values), int(np.prod(x.shape[1:]))), np.nan)
        found[[value is not None for value in values]] = x.reshape(len(x), -1)
    except (ValueError, TypeError):  # lists of several lengths
        return None
    return found
