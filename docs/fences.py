"""For the site: an "Example:" of a docstring as a heading and a block that can be copied.

In a docstring the block is indented under its heading, which Markdown would show as plain text.
"""

import re
import textwrap

from griffe import Extension

EXAMPLE = re.compile(r"^(Example|Examples):\n\n((?:    .*\n|\n)+)", re.MULTILINE)


class Fences(Extension):
    """Takes the indentation from the blocks of examples."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(shown, obj.docstring.value + "\n").rstrip("\n")


def shown(found):
    return f"**{found[1]}**\n\n{textwrap.dedent(found[2])}\n"
