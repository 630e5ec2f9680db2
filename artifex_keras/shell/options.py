"""The settings of a family, as `artifex-keras options FAMILY` lists them."""

import inspect
import re

from artifex_keras.arguments import lookup
from artifex_keras.config import TrainingConfig
from artifex_keras.optimizers import optimizer_arguments
from artifex_keras.schedulers import schedule_arguments
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.shell.settings import candidates, known_keys

__all__ = ["keys_of", "listed_options"]

DATA = {
    "source": "a name, a folder, a file or several: --data",
    "validation": "a share below 1 or a number of examples to validate with",
    "test": "a share below 1 or a number of examples to test with",
    "seed": "decides which examples those are",
    "image_size": "of a folder of images: an integer or [height, width]",
    "channels": "of a folder of images: 1 grey, 3 colour",
    "length": "of a text: tokens in a row",
    "tokenizer": "of a text: a .model or .json file",
    "count": "of a toy: how many points",
    "prompt_key": "what the file calls the prompts",
    "completion_key": "what the file calls the completions",
    "example_key": "what an .npz file calls its examples, where it has a name of its own",
    "columns": "of a table: the names of those to learn, [height, weight]",
    "augment": "names of augmentations of images",
}
TYPES = {"optimizer": optimizer_arguments("adamw"), "scheduler": schedule_arguments("cosine")}
NAMED = {  # sections inside `training`: their keys, those of the type that is the default
    "optimizer": ("type", "learning_rate", *sorted({*TYPES["optimizer"]} - {"name"})),
    "scheduler": ("type", *sorted({*TYPES["scheduler"]} - {"learning_rate"})),
}


def keys_of(name):
    """All keys that `--set` takes for a family, with those of its optimizer and schedule."""
    sections = known_keys(*candidates(lookup(FAMILIES, name, "family")))
    plain = [key for keys in sections.values() for key in keys if key not in NAMED]
    inner = [f"{place}.{key}" for place in NAMED for key in NAMED[place]]
    return sorted({*plain, *inner})


def listed_options(name):
    """The lines of the list: a section, its keys, their defaults and what they are."""
    recipe = lookup(FAMILIES, name, "family")
    yield f"Settings of {name}: --set KEY=VALUE. The others suit the data; config.yaml has them."
    for section, keys in known_keys(*candidates(recipe)).items():
        yield f"\n{section}"
        for key in keys:
            if key in NAMED:
                yield from (_line(f"{key}.{inner}", "", "") for inner in NAMED[key])
            else:
                yield _line(key, *_about(section, key, recipe))


def _line(key, default, text):
    return f"  {key:32} {default:>12}  {text}".rstrip()


def _about(section, key, recipe):
    """`(default, description)` of a key, from the class that takes it."""
    if section == "data":
        return "", DATA.get(key, "")
    cls = {"model": recipe.model, "trainer": recipe.trainer, "training": TrainingConfig}.get(
        section
    )
    if cls is None:
        return "", ""
    parameter = inspect.signature(cls).parameters.get(key)
    default = "" if parameter is None or parameter.default is parameter.empty else parameter.default
    shown = "" if default == "" else str(default)
    return shown if len(shown) <= 12 else "...", _described(cls, key)


def _described(cls, key):
    """What the docstring of a class says of an argument: its first line."""
    for each in cls.__mro__:
        found = re.search(rf"^\s+{re.escape(key)}: (.+)$", each.__doc__ or "", re.MULTILINE)
        if found:
            return found[1].strip()
    return ""
