"""The one door for all that comes from a file: configs, data, models, code.

A saved model, a config, a checkpoint and a data set are often somebody else's. What they hold is
data: names in them are looked up in tables and never walked to, sizes and depths have limits, and
whatever a reader raises over a damaged file becomes one `FileError` with the file's name. Code that
a file names runs only if the command line names it too, or after `--trust`.
"""

from artifex_keras.trust.arrays import is_bomb, read_arrays, read_ranges
from artifex_keras.trust.code import command_line, run_file
from artifex_keras.trust.models import load_model
from artifex_keras.trust.notation import (
    dump_yaml,
    parse_json,
    parse_yaml,
    read_json,
    read_json_lines,
    read_yaml,
)
from artifex_keras.trust.objects import (
    deserialize_callable,
    deserialize_schedule,
    plain_value,
    saved_value,
)
from artifex_keras.trust.pictures import open_image
from artifex_keras.trust.reading import FileError, read_text, reading, reject_links

__all__ = [
    "FileError",
    "command_line",
    "deserialize_callable",
    "deserialize_schedule",
    "dump_yaml",
    "is_bomb",
    "load_model",
    "open_image",
    "parse_json",
    "parse_yaml",
    "plain_value",
    "read_arrays",
    "read_json",
    "read_json_lines",
    "read_ranges",
    "read_text",
    "read_yaml",
    "reading",
    "reject_links",
    "run_file",
    "saved_value",
]
