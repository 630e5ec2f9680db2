"""Which paths are addresses, and one error for those where only a local path will do.

`pathlib` takes "gs://bucket/run" for the folder `run` in the folder `bucket` in the folder `gs:`.
"""

import os
import re
from pathlib import Path

__all__ = ["is_address", "is_mangled", "local_path", "scheme_of"]

ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# What `pathlib` leaves of one: the second slash is gone.
SCHEMES = "abfss?|adl|az|file|ftp|gcs|gs|hdfs|hf|https?|memory|oci|r2|s3a?|sftp|webhdfs"
MANGLED = re.compile(rf"({SCHEMES}):/(?!/)")


def scheme_of(path):
    """The scheme of an address, such as "gs" of "gs://bucket/run"; None for a local path."""
    found = ADDRESS.match(str(path))
    return found and found[1].lower()


def is_address(path):
    """Whether a path is an address such as "gs://bucket/run"."""
    return scheme_of(path) is not None


def local_path(path, name=None):
    """`path` as a `pathlib.Path`, if it is a local one.

    Args:
        path: a text or a `Path`.
        name: of the argument, for the error.

    Raises:
        ValueError: for an address, and for what `pathlib` makes of one.

    Example:

        ```python
        from artifex_keras.remote import local_path

        try:
            local_path("gs://bucket/pictures", "save_dir")
        except ValueError as error:
            print(error)  # `save_dir` must be a local path. Received: 'gs://bucket/pictures'. ...
        ```
    """
    if not is_address(path) and not is_mangled(path):
        return Path(path)
    raise ValueError(
        f"{f'`{name}`' if name else 'This'} must be a local path. Received: {str(path)!r}. "
        "Checkpoints alone go to an address (`checkpoint_dir`, `CheckpointCallback`). Other files "
        "are read and written here: copy them from or to the address, as by `gcloud storage cp`."
    )


def is_mangled(path):
    """Whether it is what `pathlib` makes of an address, as "gs:/bucket/run" of "gs://bucket/run".

    A local file that really has such a name counts as one.
    """
    return MANGLED.match(str(path)) is not None and not os.path.lexists(path)
