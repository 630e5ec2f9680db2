"""What an error says of an argument: the rule, the value received, the nearest name."""

import difflib

__all__ = ["broken_rule", "nearest", "shown", "unknown_name"]

SHOWN = 200  # characters of a value in a message


def broken_rule(name, value, rule, hint=""):
    """The ValueError for the argument `name`, whose `value` must be `rule`."""
    return ValueError(f"`{name}` must be {rule}. Received: {name}={shown(value)}.{hint}")


def shown(value):
    """`value` as a message shows it, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN:  # Python may refuse to print it
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def nearest(name, choices):
    """What a message says of the choices nearest to `name`: " Did you mean ...?", or nothing."""
    initials = [c for c in choices if "".join(part[:1] for part in c.split("_")) == str(name)]
    near = initials or difflib.get_close_matches(str(name), choices, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def unknown_name(name, choices, what):
    """The message for a name that is not among `choices`, with the nearest ones first."""
    choices = sorted({*map(str, choices)})
    return f"Unknown {what} {shown(name)}.{nearest(name, choices)} Choices: {', '.join(choices)}."
