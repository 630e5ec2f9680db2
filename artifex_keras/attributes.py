"""A mistyped attribute is refused: ``vae.bta = 3`` would change nothing, and say nothing.

People hang things of their own on models, trainers and callbacks. So a name is refused only where
it is near to one that the object knows, and only in the code of somebody who uses the object: a
class sets what it likes in its own methods.
"""

import difflib
import sys

import keras

from artifex_keras.arguments import accepted_arguments, shown

__all__ = ["Spelled", "UnknownAttribute"]

# Of `difflib`'s ratio: a letter more, less or wrong, or a short word left out. Short names must be
# nearer: `best` has three of the four letters of `beta`.
NEAR, SHORT, NEAR_IF_SHORT = 0.75, 6, 0.8
OURS = ("artifex_keras", "keras")


class UnknownAttribute(AttributeError, ValueError):
    """An attribute that there isn't, near to one that there is."""


class Spelled:
    """The part of a class that refuses mistyped attributes.

    Allowed are attributes that there are, private names, names that are near to none of
    `known_attributes`, one of these with a word or a number behind it, layers, functions under a
    name that isn't near to a function's, and all that the object's own methods set.
    """

    def __setattr__(self, name, value):
        if name[0] != "_" and name not in vars(self):
            self._check_spelling(name, value)
        super().__setattr__(name, value)

    def known_attributes(self):
        """What a person may set, a dict from names to where: "" is this object, "optimizer" one
        inside, None nowhere once the object is made."""
        properties = [n for n in dir(type(self)) if getattr(getattr(type(self), n), "fset", None)]
        accepted = {n: "" if hasattr(self, n) else None for n in accepted_arguments(type(self))}
        known = accepted | dict.fromkeys([n for n in properties if n[0] != "_"], "")
        return {name: place for name, place in known.items() if name != "name"}

    def _check_spelling(self, name, value):
        if hasattr(type(self), name):
            return
        frame = sys._getframe(2)
        while frame.f_code.co_name == "__setattr__":  # of derived classes
            frame = frame.f_back
        if _is_own(frame, self) or isinstance(value, keras.Layer) or hasattr(self, name):
            return
        known = self.known_attributes()
        near = _near(name, known)
        if near is None or (callable(value) and not callable(getattr(self, near, None))):
            return
        place = f"{known[near]}.{near}" if known[near] else near
        hint = f"Did you mean `{place}`?"
        if near == name:
            hint = f"Set `{place}`." if known[near] else "It is given where the object is made."
        raise UnknownAttribute(
            f"{type(self).__name__} has no attribute `{name}`: setting it would change nothing. "
            f"{hint} Received: {name}={shown(value)}. Names of your own may begin with `_`."
        )


def _is_own(frame, instance):
    """Whether a frame is in Keras, in this package, or in a method of that object."""
    if frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        return True
    first = frame.f_code.co_varnames[: frame.f_code.co_argcount][:1]
    return bool(first) and frame.f_locals.get(first[0]) is instance


def _near(name, known):
    """The known name that this one probably is; None if there is none."""
    if name in known:
        return name
    if name == "lr" and "learning_rate" in known:
        return "learning_rate"
    short = [each for each in known if len(each) <= SHORT]
    near = difflib.get_close_matches(name, known.keys() - set(short), n=1, cutoff=NEAR)
    near = near or difflib.get_close_matches(name, short, n=1, cutoff=NEAR_IF_SHORT)
    return near[0] if near and not _adds_to(name, near[0]) else None


def _adds_to(name, known):
    """Whether a name is a known one with a word or a number behind it, as people make their own."""
    rest = name.removeprefix(known)
    return rest != name and (rest.isdigit() or (rest[:1] == "_" and len(rest) > 1))
