"""Files as bytes and text, and one error for all that can be wrong with one."""

import codecs
import contextlib
from pathlib import Path

from artifex_keras.remote import RemoteError, RemotePath, local_path

__all__ = ["FileError", "read_text", "reading", "reject_links", "utf8"]

SHOWN = 200  # characters of another library's message
FOREIGN_MARKS = {  # the longer ones first: UTF-32 begins like UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
OTHER_MARKS = {  # of files that people call .csv or .txt
    b"\x1f\x8b": "it is packed by gzip. Unpack it first",
    b"BZh": "it is packed by bzip2. Unpack it first",
    b"\xfd7zXZ": "it is packed by xz. Unpack it first",
    b"(\xb5/\xfd": "it is packed by zstd. Unpack it first",
    b"PK\x03\x04": "it is a zip archive or a spreadsheet. Unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "it is a spreadsheet. Save it as CSV",
    b"PAR1": "it is a Parquet file. Let its name end in .parquet",
}


class FileError(ValueError):
    """A file that can't be used: its name, and what is wrong with it."""


@contextlib.contextmanager
def reading(path, what):
    """Inside, whatever is raised over the file at `path` becomes a `FileError` with its name.

    Args:
        path: the file.
        what: what it should be, with its article: "an image".

    Raises:
        FileError: instead of any other exception. FileNotFoundError, ImportError and RemoteError,
            which say nothing of the file, stay.
    """
    try:
        yield
    except (FileError, FileNotFoundError, ImportError, RemoteError):
        raise
    except BaseException as error:  # a damaged file can raise anything, a panic of Rust too
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise FileError(
            f"{str(path)!r} is not {what} that can be read: {_reason(error)}."
        ) from error


def _reason(error):
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[0] if len(lines) == 1 or not lines[0].endswith(":") else " ".join(lines)
    return " ".join(said.split())[: 2 * SHOWN if said is not lines[0] else SHOWN].rstrip(". ")


def existing(path, what):
    """`path` as a `pathlib.Path`, if an ordinary file is there; raises as `read_bytes` does. A
    `RemotePath` stays one."""
    path = path if isinstance(path, RemotePath) else local_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if not isinstance(path, RemotePath) and not path.is_file():
        kind = "a folder" if path.is_dir() else "no ordinary file"
        raise FileError(f"{str(path)!r} is {kind}, where there should be {what}.")
    return path


def reject_links(folder):
    """Raises a FileError if a file in `folder` is a link to one outside, which a program that
    writes into the folder would write over. Links between folders are left alone."""
    inside = Path(folder).resolve()
    for path in inside.iterdir():
        target = path.resolve() if path.is_symlink() and not path.is_dir() else inside
        if not target.is_relative_to(inside):
            raise FileError(
                f"{path.name!r} in the folder {str(folder)!r} is a link to {str(target)!r}, which "
                "would be written over. Put a copy of that file in its place, or delete the link."
            )


def read_bytes(path, what, limit=None):
    """The bytes of a file.

    Raises:
        FileNotFoundError: if there is none.
        FileError: for a folder, a device, and more than `limit` bytes.
    """
    path = existing(path, what)
    with reading(path, what), path.open("rb") as file:
        content = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(content) > limit:
        raise FileError(f"{str(path)!r} is too large for {what}: it has more than {limit:,} bytes.")
    return content


def read_text(path, what="a text", limit=None):
    """The UTF-8 text of a file, with "\\n" at the ends of lines.

    Raises:
        FileNotFoundError: if there is none.
        FileError: for a folder, another encoding, NUL, and more than `limit` bytes.
    """
    text = utf8(read_bytes(path, what, limit), path)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def utf8(content, path, line=None):
    """Bytes of the file at `path` as text; `line` is their number, if they are one line of it.

    Raises:
        FileError: for another encoding, and for NUL.
    """
    for mark, name in FOREIGN_MARKS.items():
        if content.startswith(mark):
            raise FileError(f"{str(path)!r} is not UTF-8 text: it is {name}. Save it as UTF-8.")
    for mark, problem in OTHER_MARKS.items():
        if line is None and content.startswith(mark):
            raise FileError(f"{str(path)!r} is no text: {problem}.")
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        line = line or content.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{str(path)!r} is not UTF-8 text: {error.reason} in line {line}. Save it as UTF-8."
        ) from error
    if "\0" in text:
        line = line or text.count("\n", 0, text.index("\0")) + 1
        raise FileError(f"{str(path)!r} is not text: there is a NUL in line {line}.")
    return text
