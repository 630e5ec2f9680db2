"""Small things that every layer of the package needs and Keras does not offer."""

import importlib

__all__ = ["optional"]


def optional(module, extra):
    """The optional module called `module`, imported now.

    Raises:
        ImportError: names the extra of this package that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise ImportError(
            f"`{package}` is needed here and not installed: pip install 'artifex-keras[{extra}]'"
        ) from error
