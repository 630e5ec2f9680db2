"""The settings of a run: its sections, their keys, and how defaults and requests combine."""

from artifex_keras.arguments import nearest, shown, unknown_name
from artifex_keras.config import RULES
from artifex_keras.optimizers import optimizer_arguments
from artifex_keras.sharing.places import CONFIG, find_run
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.tracking import TRACKERS
from artifex_keras.tracking.secrets import forbid_secrets
from artifex_keras.trust import FileError, read_yaml

__all__ = [
    "LOADING",
    "SECTIONS",
    "candidates",
    "known_keys",
    "merge",
    "read_config",
    "read_settings",
    "sections_of",
    "set_value",
    "validate",
]

SECTIONS = ("data", "network", "model", "trainer", "training", "tracking")
LOADING = (
    *("validation", "test", "seed", "image_size", "channels"),
    *("length", "tokenizer", "count", "prompt_key", "completion_key", "example_key", "columns"),
)
DATA_KEYS = ("source", *LOADING, "augment")
AT_THE_TOP = {"reward": "model", "teacher": "model"}  # keys that may stand outside of their section
CONTEXT = "text.context"
TRAINER_KEYS = ("gradient_accumulation_steps", "mixed_precision")


def known_keys(*recipes):
    """The keys of a config by section, joined over the recipes."""
    keys = {"data": DATA_KEYS, "training": tuple(RULES), "tracking": tuple(TRACKERS)}
    for recipe in recipes:
        options = [name for name in recipe.model.options if name not in ("seed", "latent_dim")]
        own = {
            "network": recipe.network_keys,
            "model": (*recipe.model_keys, *options),
            "trainer": (*recipe.trainer.own_options, *TRAINER_KEYS),
        }
        for section, names in own.items():
            keys[section] = tuple(dict.fromkeys((*keys.get(section, ()), *names)))
    return keys


def candidates(recipe):
    """The recipe, and those that replace it for data of other kinds."""
    return (recipe, *(FAMILIES[name] for name in recipe.fallbacks.values()))


def validate(requested, *recipes):
    """`requested`, `{section: {key: value}}`, with an entry for each section.

    Raises:
        ValueError: for an unknown section or key, with the nearest names, and for a secret, which
            the config of the run would keep.
    """
    forbid_secrets(requested, "the config")
    keys = known_keys(*recipes)
    requested = _in_sections(requested)
    for section, values in requested.items():
        if section not in SECTIONS:
            raise ValueError(unknown_name(section, (*SECTIONS, "family"), "section of the config"))
        if values is not None and not isinstance(values, dict):
            raise ValueError(f"`{section}` must be a section of keys. Received: {values!r}.")
        for key in values or {}:
            if key not in keys[section]:
                raise ValueError(unknown_name(key, keys[section], f"key of `{section}`"))
    return {section: dict(requested.get(section) or {}) for section in SECTIONS}


def sections_of(config):
    """A config by section, with an entry for each section."""
    return {section: config.get(section) or {} for section in SECTIONS}


def read_config(folder):
    """The config of the run that fills `folder`.

    Raises:
        ValueError: if there is none, with the nearest name, or what is wrong with it.
    """
    return read_settings(find_run(folder) / CONFIG)


def read_settings(path):
    """The family and the sections in a YAML file.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: for a file that holds no settings.
    """
    found = read_yaml(path, "a config")
    if not found:
        raise FileError(f"{str(path)!r} holds no settings.")
    for section in SECTIONS:
        if not isinstance(found.get(section), dict | None):
            raise FileError(
                f"`{section}` must be a section of keys. Received: {shown(found[section])}, in "
                f"{str(path)!r}."
            )
    return found


def _in_sections(requested):
    """`requested` with keys of the top in their sections."""
    inside = {name: value for name, value in requested.items() if name not in AT_THE_TOP}
    for name in requested.keys() & AT_THE_TOP.keys():
        section = AT_THE_TOP[name]
        inside[section] = {name: requested[name], **(inside.get(section) or {})}
    return inside


def set_value(recipe, requested, key, value):
    """Puts a value into the section of `requested` that its key belongs to.

    "section.key" and "optimizer.beta1" are places; a bare key is looked up in all sections.
    "context" is what a model of text calls the tokens that it sees.
    """
    if key in ("context", CONTEXT):
        if recipe.context is None:
            raise ValueError(
                f"`--context` is of no use to {recipe.model.__name__}, which sees no tokens."
            )
        key = recipe.context
    keys = known_keys(*candidates(recipe))
    section, *path = key.split(".")
    if section not in SECTIONS:
        found = [s for s in reversed(SECTIONS) if section in keys[s]]
        if not found:
            known = {name for names in keys.values() for name in names}
            known |= set(SECTIONS if path else ())
            inner = nearest(section, ["learning_rate", *optimizer_arguments("adamw")])
            hint = f" As in --set optimizer.KEY=VALUE:{inner}" if inner else ""
            raise ValueError(f"{unknown_name(section, known, 'key')}{hint}")
        section, path = found[0], [section, *path]
    if not path:
        raise ValueError(f"{key!r} is a section: say which key, as in {key}.{keys[section][0]}.")
    values = requested.setdefault(section, {})
    for name in path[:-1]:
        inner = values.get(name)
        values[name] = {"type": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[name]
    values[path[-1]] = value


def merge(defaults, requested):
    """`defaults`, overridden by `requested` key by key."""
    result = dict(defaults)
    for key, value in requested.items():
        inner = result.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        # Another type of optimizer or scheduler has other arguments.
        alike = both and value.get("type", inner.get("type")) == inner.get("type")
        result[key] = merge(inner, value) if alike else value
    return result
