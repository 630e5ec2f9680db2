"""The data of a run: a source, its tokenizer, and the range in which a family learns it."""

from pathlib import Path

from artifex_keras import datasets
from artifex_keras.arguments import lookup
from artifex_keras.datasets.dataset import rescale
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.shell.settings import LOADING, read_config, sections_of

__all__ = ["augmented_images", "load_data", "load_source", "rescale_for"]


def load_data(family, config, source=None, **known):
    """The dataset that a config describes, or that of `source`, in the family's range."""
    return rescale_for(family, load_source(family, config, source, **known))


def load_source(family, config, source=None, **known):
    """The dataset that a config describes, or that of `source`; options that are `known` already
    stand in place of the config's."""
    data, start = config["data"], config["network"].get("from")
    options = {key: data[key] for key in LOADING if data.get(key) is not None} | known
    source = data.get("source") if source is None else source
    if source is None:
        raise ValueError("Training needs data: --data digits, a file, or a folder of images.")
    if start is not None and "tokenizer" not in options:
        options["tokenizer"] = tokenizer_of(start)
    return family.load(source, **options)


def tokenizer_of(start):
    """The tokenizer that the run of a model has learned with.

    Raises:
        ValueError: for a model outside the folder of a run.
        FileNotFoundError: for what isn't there.
    """
    if not Path(start).exists():
        raise FileNotFoundError(f"There is no run or model {str(start)!r} to start from.")
    folder = Path(start) if Path(start).is_dir() else Path(start).parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"`from` must be the folder of a run, or there must be its `tokenizer`, as in "
            f"--tokenizer FILE. Received: from={str(start)!r}."
        )
    config = read_config(folder)
    family = lookup(FAMILIES, config.get("family"), "family")
    return load_data(family, sections_of(config)).tokenizer


def rescale_for(family, dataset):
    """`dataset` in the range of the family, if that learns data of its kind."""
    if dataset.kind not in family.kinds:
        raise ValueError(
            f"{family.model.__name__} learns {' or '.join(family.kinds)}. "
            f"Received: {dataset.kind} in {dataset.name!r}."
        )
    return rescale(dataset, family.scale) if dataset.kind == "images" else dataset


def augmented_images(dataset, config, batch_size):
    """The images to train on, altered as the key `augment` of the section `data` says."""
    if dataset.kind != "images":
        raise ValueError(f"`augment` is for images. Received: {dataset.kind} in {dataset.name!r}.")
    return datasets.augmented(
        dataset.train,
        layers=config["data"]["augment"],
        batch_size=batch_size,
        shuffle=config["training"]["shuffle"],
        seed=config["training"]["seed"],
        value_range=(-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0),
    )
