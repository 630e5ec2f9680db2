"""Arguments that have another name now: the old one still works, and says so."""

import functools
import warnings

__all__ = ["renamed"]


def renamed(**names):
    """A decorator: keyword arguments by their old names, `renamed(labels="condition")`.

    An old name warns with the new one, and its value is passed on. Both at once are an error.
    """

    def decorated(method):
        @functools.wraps(method)
        def call(*args, **kwargs):
            for old in names.keys() & kwargs.keys():
                new, value = names[old], kwargs.pop(old)
                said = f"`{old}` of `{method.__name__}` is called `{new}` now."
                if new in kwargs:
                    raise TypeError(f"{said} Received: both. Leave `{old}` out.")
                warnings.warn(said, FutureWarning, stacklevel=3)
                kwargs[new] = value
            return method(*args, **kwargs)

        return call

    return decorated
