"""What the shell knows of each family: a recipe that suits a data set, and how samples look."""

from pathlib import Path

from artifex_keras import pictures
from artifex_keras.shell.recipes import autoregressive, diffusion, energy, flow, gan, rl, vae

__all__ = ["FAMILIES", "TEXTS", "draw_samples", "text_of"]

FAMILIES = {
    "vae": vae.RECIPE,
    "gan": gan.RECIPE,
    "diffusion": diffusion.RECIPE,
    "flow": flow.RECIPE,
    "flow-matching": flow.MATCHING,
    "energy": energy.RECIPE,
    "autoregressive": autoregressive.RECIPE,
    "pixel-autoregressive": autoregressive.PIXELS,
    **rl.RECIPES,
}


TEXTS = ("tokens", "rows")  # kinds of data whose samples are read rather than looked at


def draw_samples(samples, dataset, path, title=None):
    """A picture of samples beside the data they should resemble; None for more than the plane.

    Of tokens a text file, with the name of the picture but for its ending.
    """
    if dataset.kind in TEXTS:
        return pictures.texts(rows_of(samples, dataset), Path(path).with_suffix(".txt"))
    if dataset.kind == "images":
        limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
        return pictures.image_grid(samples, path, title=title, limits=limits)
    if dataset.shape == (2,):
        reference = dataset.train[: max(len(samples), 500)]
        return pictures.scatter(samples, path, reference=reference, title=title)
    return None


def text_of(samples, dataset):
    """Rows of ids as text, with a line between them."""
    return pictures.joined(rows_of(samples, dataset))


def rows_of(samples, dataset):
    """Rows of ids as texts, or as they are where there is no tokenizer; texts as they are."""
    if samples.dtype.kind == "U":
        return samples.tolist()
    return samples if dataset.tokenizer is None else dataset.tokenizer.decode(samples)
