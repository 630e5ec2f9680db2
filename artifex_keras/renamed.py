"""Arguments that have another name now: the old one still works, and says so."""

import functools
import warnings

__all__ = ["renamed"]


def renamed(**names):
    """A decorator: keyword arguments by their old names, `renamed(labels="condition")`.

    An old name warns with the new one, and its value is passed on. Both at once are an error. On a
    class it is about the constructor's arguments.
    """

    def decorated(target):
        if isinstance(target, type):
            target.__init__ = translated(target.__init__, target.__name__, 2)
            return target
        return translated(target, target.__name__, 3)

    def translated(method, owner, stacklevel):
        @functools.wraps(method)
        def call(*args, **kwargs):
            for old in names.keys() & kwargs.keys():
                new, value = names[old], kwargs.pop(old)
                said = f"`{old}` of `{owner}` is called `{new}` now."
                if new in kwargs:
                    raise TypeError(f"{said} Received: both. Leave `{old}` out.")
                warnings.warn(said, FutureWarning, stacklevel=stacklevel)
                kwargs[new] = value
            return method(*args, **kwargs)

        call._old_names = (*names, *getattr(method, "_old_names", ()))
        return call

    return decorated
