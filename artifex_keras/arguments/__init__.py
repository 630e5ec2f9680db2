"""What an argument may be: the one place where the values that a person passes are checked.

Each rule takes an argument's name and its value, and gives the value as a plain Python object.
What breaks it is a ValueError that names the argument, the rule and the value received:

    `beta` must be at least 0.0. Received: beta=-1.0.

A number may be Python's, numpy's, or a tensor or variable without axes. True and False are no
numbers, nor are texts: ``"1"`` is refused where 1 is wanted.

`checked` is given rules by the names of arguments: `boolean`, `share`, `text` and so on are rules
themselves, `bounded`, `count`, `one_of`, `row_of`, `optional` and `instance_of` make some.
"""

from artifex_keras.arguments.choices import (
    boolean,
    choice,
    dictionary,
    file_path,
    folder_path,
    forbid_arguments,
    function,
    instance_of,
    known_name,
    lookup,
    one_of,
    optional,
    row_of,
    text,
)
from artifex_keras.arguments.messages import (
    broken_rule,
    nearest,
    shown,
    unknown_name,
)
from artifex_keras.arguments.numeric import (
    bounded,
    count,
    decay,
    factor,
    integer,
    interval,
    number,
    random_seed,
    share,
    sizes,
)
from artifex_keras.arguments.signatures import (
    UnknownArgument,
    accepted_arguments,
    argument_rules,
    check_keywords,
    checked,
)

__all__ = [
    "UnknownArgument",
    "accepted_arguments",
    "argument_rules",
    "boolean",
    "bounded",
    "broken_rule",
    "check_keywords",
    "checked",
    "choice",
    "count",
    "decay",
    "dictionary",
    "factor",
    "file_path",
    "folder_path",
    "forbid_arguments",
    "function",
    "instance_of",
    "integer",
    "interval",
    "known_name",
    "lookup",
    "nearest",
    "number",
    "one_of",
    "optional",
    "random_seed",
    "row_of",
    "share",
    "shown",
    "sizes",
    "text",
    "unknown_name",
]
