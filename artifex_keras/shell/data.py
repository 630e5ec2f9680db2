"""The data of a run: a source, its tokenizer, and the range in which a family learns it."""

import os
from pathlib import Path

import numpy as np

from artifex_keras import datasets, endings
from artifex_keras.arguments import lookup
from artifex_keras.datasets.dataset import rescale
from artifex_keras.datasets.shards import found_files
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.shell.settings import LOADING, read_config, sections_of

__all__ = ["augmented_images", "is_table", "load_data", "load_source", "rescale_for"]


def load_data(recipe, config, source=None, **known):
    """The dataset that a config describes, or that of `source`, in the family's range."""
    return rescale_for(recipe, load_source(recipe, config, source, **known))


def load_source(recipe, config, source=None, **known):
    """The dataset that a config describes, or that of `source`; `known` options
    override the config's."""
    data = config["data"]
    options = {key: data[key] for key in LOADING if data.get(key) is not None} | known
    source = data.get("source") if source is None else source
    if source is None:
        raise ValueError(
            "Training needs data: --data digits, a folder of images, or a file that ends in "
            f"{endings.listed()}."
        )
    if "tokenizer" not in options:
        options |= _tokenizer_of_models(config)
    if _is_image_folder(source):
        options = {"stream": True, "image_size": "auto"} | options
    return recipe.load(source, **options)


def _is_image_folder(source):
    paths = isinstance(source, (str, os.PathLike))
    return paths and Path(source).expanduser().is_dir() and not found_files(source)


def is_table(source):
    """Whether a source is a table in a file or in several."""
    if isinstance(source, list | tuple):
        return bool(source) and is_table(source[0])
    paths = found_files(source) or [source]
    return Path(str(paths[0])).suffix.lower() in endings.TABLES


def _tokenizer_of_models(config):
    """The option `tokenizer` for a model that is trained further, or a teacher, where there is one.

    Raises:
        ValueError: for a teacher whose tokens are others than those of the model that it teaches.
    """
    places = {"from": config["network"].get("from"), "teacher": config["model"].get("teacher")}
    found = [tokenizer_of(place, name) for name, place in places.items() if place is not None]
    if len(found) == 2 and _pieces(found[0]) != _pieces(found[1]):
        raise ValueError(
            "`teacher` must have the tokens of the model that it teaches, in the same order: both "
            "distributions are compared token by token. Received: runs of "
            f"{found[1].vocabulary_size} and {found[0].vocabulary_size} tokens, teacher="
            f"{str(places['teacher'])!r}, from={str(places['from'])!r}. A student of the teacher's "
            "tokens is trained with `train sft --tokenizer`, or from nothing where --from is left "
            "out."
        )
    return {"tokenizer": found[0]} if found else {}


def _pieces(tokenizer):
    """What each id of a tokenizer stands for."""
    return [tokenizer.decode([index]) for index in range(tokenizer.vocabulary_size)]


def tokenizer_of(start, argument="from"):
    """The tokenizer of the run that trained a model, which the setting `argument` names.

    Raises:
        ValueError: for a model that is in no run's folder.
        FileNotFoundError: for a path that doesn't exist.
    """
    if not Path(start).exists():
        raise FileNotFoundError(f"There is no run or model {str(start)!r} for `{argument}`.")
    folder = Path(start) if Path(start).is_dir() else Path(start).parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"`{argument}` must be the folder of a run, or there must be its `tokenizer`, as in "
            f"--tokenizer FILE. Received: {argument}={str(start)!r}."
        )
    config = read_config(folder)
    recipe = lookup(FAMILIES, config.get("family"), "family")
    return load_data(recipe, sections_of(config)).tokenizer


def rescale_for(recipe, dataset):
    """`dataset` in the range of the recipe's family.

    Raises:
        ValueError: for a kind of data that the family doesn't learn.
    """
    if dataset.kind not in recipe.kinds:
        raise ValueError(
            f"{recipe.model.__name__} learns {' or '.join(recipe.kinds)}. "
            f"Received: {dataset.kind} in {dataset.name!r}."
        )
    return rescale(dataset, recipe.scale) if dataset.kind == "images" else dataset


def augmented_images(dataset, config, batch_size):
    """The training images with the augmentations that `data.augment` names."""
    if dataset.kind != "images":
        raise ValueError(f"`augment` is for images. Received: {dataset.kind} in {dataset.name!r}.")
    return datasets.augmented(
        np.asarray(dataset.train),
        layers=config["data"]["augment"],
        batch_size=batch_size,
        shuffle=config["training"]["shuffle"],
        seed=config["training"]["seed"],
        value_range=(-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0),
    )
