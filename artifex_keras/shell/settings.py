"""The settings of a run: its sections, their keys, and how defaults and requests combine."""

from pathlib import Path

from artifex_keras.arguments import unknown_name
from artifex_keras.config import RULES, parse_yaml
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.tracking import TRACKERS

__all__ = [
    "LOADING",
    "SECTIONS",
    "candidates",
    "known_keys",
    "merge",
    "read_config",
    "sections_of",
    "set_value",
    "validate",
]

SECTIONS = ("data", "network", "model", "trainer", "training", "tracking")
LOADING = (
    *("validation", "test", "seed", "image_size", "channels"),
    *("length", "tokenizer", "count", "prompt_key", "completion_key"),
)
DATA_KEYS = ("source", *LOADING, "augment")
AT_THE_TOP = {"reward": "model"}  # keys that may stand outside of their section
TRAINER_KEYS = ("gradient_accumulation_steps", "mixed_precision")


def known_keys(*families):
    """The keys of a config by section; of several families all that one of them has."""
    keys = {"data": DATA_KEYS, "training": tuple(RULES), "tracking": tuple(TRACKERS)}
    for family in families:
        options = [name for name in family.model.options if name not in ("seed", "latent_dim")]
        own = {
            "network": family.network_keys,
            "model": (*family.made_of, *options),
            "trainer": (*family.trainer.own_options, *TRAINER_KEYS),
        }
        for section, names in own.items():
            keys[section] = tuple(dict.fromkeys((*keys.get(section, ()), *names)))
    return keys


def candidates(family):
    """The family and those that learn data of other kinds in its place."""
    return (family, *(FAMILIES[name] for name in family.instead.values()))


def validate(asked, *families):
    """`asked`, `{section: {key: value}}`, with all sections there.

    Raises:
        ValueError: for a section or key that there isn't, with the nearest ones.
    """
    keys = known_keys(*families)
    asked = _in_sections(asked)
    for section, values in asked.items():
        if section not in SECTIONS:
            raise ValueError(unknown_name(section, (*SECTIONS, "family"), "section of the config"))
        if values is not None and not isinstance(values, dict):
            raise ValueError(f"`{section}` must be a section of keys. Received: {values!r}.")
        for key in values or {}:
            if key not in keys[section]:
                raise ValueError(unknown_name(key, keys[section], f"key of `{section}`"))
    return {section: dict(asked.get(section) or {}) for section in SECTIONS}


def sections_of(config):
    """A config by section, with all of them there."""
    return {section: config.get(section) or {} for section in SECTIONS}


def read_config(folder):
    """The config of the run that fills `folder`.

    Raises:
        ValueError: if there is none.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} is not the folder of a run: no config.yaml in it.")
    return parse_yaml(path.read_text(encoding="utf-8"))


def _in_sections(asked):
    """`asked` with keys of the top in their sections."""
    inside = {name: value for name, value in asked.items() if name not in AT_THE_TOP}
    for name in asked.keys() & AT_THE_TOP.keys():
        section = AT_THE_TOP[name]
        inside[section] = {name: asked[name], **(inside.get(section) or {})}
    return inside


def set_value(family, asked, key, value):
    """Puts a value into the section of `asked` that its key belongs to.

    "section.key" and "optimizer.beta1" name a place; a bare key is looked for.
    """
    keys = known_keys(*candidates(family))
    section, *path = key.split(".")
    if section not in SECTIONS:
        found = [s for s in reversed(SECTIONS) if section in keys[s]]
        if not found:
            known = {name for names in keys.values() for name in names}
            raise ValueError(unknown_name(section, known, "key"))
        section, path = found[0], [section, *path]
    if not path:
        raise ValueError(f"{key!r} is a section: say which key, as in {key}.{keys[section][0]}.")
    values = asked.setdefault(section, {})
    for name in path[:-1]:
        inner = values.get(name)
        values[name] = {"type": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[name]
    values[path[-1]] = value


def merge(defaults, asked):
    """`defaults` with what was asked for in their place, key by key."""
    result = dict(defaults)
    for key, value in asked.items():
        inner = result.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        # Another type of optimizer or scheduler has other arguments.
        alike = both and value.get("type", inner.get("type")) == inner.get("type")
        result[key] = merge(inner, value) if alike else value
    return result
