"""The `Recipe` of a family for the shell, and settings that several recipes share."""

import dataclasses
from collections.abc import Callable

import numpy as np

from artifex_keras import datasets
from artifex_keras.arguments import lookup

__all__ = [
    "Recipe",
    "network_arguments",
    "network_settings",
    "reject_unused",
    "training_settings",
]

SMALL = 16  # images up to that many pixels a side are learned by fully connected networks
KINDS = {"mlp": "units", "conv": "filters"}  # kinds of networks, and what says how wide they are


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the shell trains a family: networks and settings that suit a data set, and pictures.

    Attributes:
        model: the family's class.
        trainer: its trainer's class.
        defaults: from a dataset and the requested settings to all settings, by section.
        networks: from a dataset and the sections `network` and `model` to the first arguments of
            the model, and to those that a config only names.
        network_keys: the keys of the section `network`.
        kinds: the kinds of datasets that it learns.
        load: from a source and options to a dataset.
        scale: the range of images that it learns, a row of `datasets.dataset.SCALES`.
        model_keys: keys of the section `model` that `networks` reads, beside the model's options.
        restore: from a loaded model and the section `model` to the model as it was trained, with
            what a file doesn't hold.
        sample: from a model, a dataset, a number and a seed to so many samples; its further
            arguments are options of `artifex-keras sample`.
        fallbacks: {kind of data: name of the family that learns it in this one's place}.
        draw: from a model, a dataset and a folder to the paths of the pictures that only this
            family has.
        progress_metrics: the metrics of a progress bar.
        units: of the metrics that have one.
        note: from a config and a dataset to a line about the numbers to come, or None.
        context: the key of the config that `--context` sets, where the model has a context.
        attention: from a config and a dataset to `(rows, tokens)` that a step attends over.
    """

    model: type
    trainer: type
    defaults: Callable
    networks: Callable
    network_keys: tuple
    kinds: tuple = ("images", "vectors")
    load: Callable = datasets.load
    scale: str = "symmetric"
    model_keys: tuple = ()
    restore: Callable = lambda model, settings: model
    sample: Callable = lambda model, dataset, count, seed: model.sample(count, seed=seed)
    fallbacks: dict = dataclasses.field(default_factory=dict)
    draw: Callable = lambda model, dataset, folder: []
    progress_metrics: tuple = ("loss", "val_loss")
    units: dict = dataclasses.field(default_factory=dict)
    note: Callable = lambda config, dataset: None
    context: str | None = None
    attention: Callable | None = None


def network_settings(dataset, requested, latent_dim, widths):
    """The section `network`: the requested kind, or one that suits the data, with its width."""
    small = dataset.kind != "images" or max(dataset.shape[:2]) <= SMALL
    kind = requested.get("kind", "mlp" if small else "conv")
    width = lookup(KINDS, kind, "kind of network")
    return {"kind": kind, "latent_dim": latent_dim[kind], width: widths[kind]}


def network_arguments(network):
    """`(kind, latent_dim, widths)` of a section `network`; an unused key raises."""
    width = lookup(KINDS, network["kind"], "kind of network")
    reject_unused(network, ("latent_dim", width))
    return network["kind"], network["latent_dim"], network[width]


def reject_unused(network, accepted):
    """Raises for keys of the section `network` that its kind has no use for."""
    for name in network:
        if name not in ("kind", *accepted):
            raise ValueError(
                f"`{name}` is of no use to networks of kind {network['kind']!r}, which have "
                f"{' and '.join(f'`{key}`' for key in accepted)}. "
                f"Received: {name}={network[name]!r}."
            )


def training_settings(dataset, requested, *, steps, batch_size, optimizer):
    """The section `training`: about so many steps, with a cosine schedule."""
    batch_size = min(batch_size, len(dataset.train))
    return {
        "batch_size": batch_size,
        "num_epochs": requested["training"].get("num_epochs")
        or _epochs(dataset, steps, batch_size),
        "optimizer": optimizer,
        "scheduler": {"type": "cosine"},
    }


def _epochs(dataset, steps, batch_size):
    """Epochs that make about so many steps, from 10 to 500."""
    return int(np.clip(round(steps * batch_size / len(dataset.train)), 10, 500))
