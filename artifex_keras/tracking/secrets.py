"""Secrets: recognised by name and by shape, taken from the environment alone, never written."""

import os
import re

__all__ = ["find_secret", "forbid_secrets", "is_secret_name", "scrubbed"]

# The words of a name ("wandb_api_key", "apiKey", "X-Api-Key") are compared in lower case.
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
SECRET_WORDS = {
    *("password", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials"),
    *("apikey", "authtoken", "accesstoken", "authorization", "bearer", "token", "cookie"),
}
SECRET_KEYS = {"api", "access", "secret", "private", "auth", "encryption", "signing", "account"}
# What comes before "token" where it is a piece of text: `end_token`, `image_token`.
PIECES = set(
    "end start begin bos eos sot eot sep cls class mask pad padding unk unknown stop null special "
    "image audio text time latent condition prompt think oov added extra register sink target "
    "per by each every one new next first last num max min".split()
)

SHAPES = re.compile(
    r"\b(?:hf|api_org)_(?=\w*[0-9A-Z])\w{16,}|\bhf_[a-z]{30,}"  # Hugging Face
    r"|\bsk-(?:[a-z]+[0-9]*-){0,3}(?=[\w-]*[0-9])\w{16,}"  # OpenAI, Anthropic
    r"|\b[sr]k_(?:live|test)_\w{10,}"  # Stripe
    r"|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"  # GitHub, GitLab
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"  # AWS, Google
    r"|\bxox[abeoprs]-[\w-]{10,}|\bwandb_v\d_\w{16,}|\bpypi-\w{16,}|\bnpm_\w{30,}"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*"  # a JSON web token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HEADER = re.compile(
    r"\b((?i:authorization)[\"']?\s*:|(?i:bearer|basic)(?=\s+\S*[0-9A-Z]))"
    r"\s*(?i:bearer\s|basic\s)?\s*[\w.~+/=-]{6,}"
)
LOGIN = re.compile(  # of an address: user:password@, and on the web any user, who may be a token
    r"(?i:(https?|wss?|ftps?):/{1,2}[^/@\s?#]+@)|:/{1,2}[^/@\s?#]*:[^/@\s]+@"
)
ASSIGNED = re.compile(r"([\w.-]+)=([^\s&;,'\"]+)")  # `api_key=...` in an address or a text
NETRC = re.compile(r"\b(machine\s+\S+\s+login\s+\S+\s+password)\s+\S+")
SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
SIGNATURES = {"sig", "signature", "key"}  # of addresses, where the value is long
LONG = 16


def is_secret_name(name):
    """Whether a value of that name is a secret: `api_key`, `hf_token`, `Authorization`; not
    `pad_token_id`, `tokenizer`, `end_token`."""
    words = [word.lower() for word in WORD.findall(str(name))]
    last, before = (["", ""] + words)[-1], (["", ""] + words)[-2]
    if last == "token":
        return before not in PIECES
    if last in ("key", "keys"):
        return before in SECRET_KEYS
    return last in SECRET_WORDS


def find_secret(values, place=""):
    """The place of the first secret in nested dicts and lists, as "section.key"; None without one.

    A secret is a value with the name of one, a text in the shape of one (a login in an address,
    `api_key=...`, a bearer header, a key of a well-known service), or the value of an environment
    variable that holds one. A number under `..._token`, None and "" are none.
    """
    if isinstance(values, dict):
        for name, value in values.items():
            inside = f"{place}.{name}" if place else str(name)
            if is_secret_name(name) and _is_given(name, value):
                return inside
            if _in_text(str(name)):
                return place or "it"
            if found := find_secret(value, inside):
                return found
        return None
    if isinstance(values, list | tuple | set | frozenset):
        places = (find_secret(value, place) for value in values)
        return next((found for found in places if found), None)
    return place or "it" if isinstance(values, str | bytes) and _in_text(values) else None


def _is_given(name, value):
    if value is None or isinstance(value, bool) or isinstance(value, str) and not value:
        return False
    return not (isinstance(value, int | float) and str(name).lower().endswith("token"))


def _in_text(text):
    """Whether there is a secret in a text."""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    own = [value for name, value in os.environ.items() if _holds_secret(name, value)]
    return any(value in text for value in own) or _without_shapes(text) != text


def _holds_secret(name, value):
    """Whether a variable of the environment is a secret: not the working folder, which shells keep
    in `PWD`, and not the place of a file, as `GOOGLE_APPLICATION_CREDENTIALS` is."""
    place = name == "PWD" or os.path.isabs(value) and os.path.exists(value)
    return len(value) >= 8 and is_secret_name(name) and not place


def scrubbed(text):
    """`text` with all secrets in it, and those of the environment, as `***`."""
    for name, value in os.environ.items():
        if len(value) >= 8 and SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    return _without_shapes(text)


def _without_shapes(text):
    text = LOGIN.sub(lambda found: f"{(found[1] or '')}://***@", text)
    text = NETRC.sub(r"\1 ***", ASSIGNED.sub(_assignment, text))
    return HEADER.sub(r"\1 ***", SHAPES.sub("***", text))


def _assignment(found):
    name, value = found[1], found[2]
    signature = name.lower().split("-")[-1] in SIGNATURES and len(value) >= LONG
    return f"{name}=***" if signature or is_secret_name(name) else found[0]


def forbid_secrets(values, what, variables=None):
    """Raises a ValueError, which doesn't repeat it, if there is a secret in `values`.

    Args:
        values: a dict.
        what: whose they are, for the error.
        variables: the variables of the environment that the secret belongs into.
    """
    place = find_secret(values)
    if place is not None:
        hint = f": set {variables}" if variables else ""
        raise ValueError(
            f"`{place}` of {what} holds a secret, which belongs into the environment{hint}."
        )
