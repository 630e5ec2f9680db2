"""Secrets: recognised by their names, taken from the environment alone, never written."""

import os
import re

__all__ = ["SECRET", "forbid_secrets", "scrubbed"]

SECRET = re.compile(
    r"(^|[_.-])(api_?key|password|passwd|secret|credentials|"
    r"(access|api|auth|bearer|session)_?token)$|^token$",
    re.IGNORECASE,
)
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW", re.IGNORECASE)
LOGIN = re.compile(r"://[^/@\s]+:[^/@\s]+@")  # user:password@ in an address


def scrubbed(text):
    """`text` with the secrets of the environment and the passwords of addresses as `***`."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return LOGIN.sub("://***@", text)


def forbid_secrets(tracker, option, value):
    """Raises a ValueError for an option of `tracker`, a class, that holds a secret."""
    if SECRET.search(option) or (isinstance(value, str) and LOGIN.search(value)):
        raise ValueError(
            f"`{option}` of the tracker {tracker.name!r} holds a secret, which belongs into the "
            f"environment: set {tracker.credentials}."
        )
    for name, inner in value.items() if isinstance(value, dict) else ():
        forbid_secrets(tracker, str(name), inner)
