"""Rows of a table as parameters of a test: some that each run tries, the others for `make slow`.

`make slow` is part of CI, which leaves out what has passed on the same code. So a law of the frame
is tried on a row of each kind while one works, and on all rows when the code they run has changed.
"""

import pytest

__all__ = ["rows"]


def rows(table, quick):
    """`table` as parameters with their names, those that aren't in `quick` marked slow.

    Args:
        table: rows with a `name`, or names.
        quick: names of rows.
    """
    names = [getattr(row, "name", row) for row in table]
    unknown = set(quick) - set(names)
    assert not unknown, f"no such rows: {sorted(unknown)}"
    return [
        pytest.param(row, id=name, marks=() if name in quick else pytest.mark.slow)
        for row, name in zip(table, names, strict=True)
    ]
