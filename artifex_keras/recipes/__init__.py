"""What the shell knows of each family: a recipe that suits a data set, and how samples look."""

from artifex_keras import pictures
from artifex_keras.recipes import diffusion, gan, vae

__all__ = ["FAMILIES", "draw_samples"]

FAMILIES = {
    "vae": vae.RECIPE,
    "gan": gan.RECIPE,
    "diffusion": diffusion.RECIPE,
}


def draw_samples(samples, dataset, path, title=None):
    """A picture of samples beside the data they should resemble; None for more than the plane."""
    if dataset.kind == "images":
        limits = (-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0)
        return pictures.image_grid(samples, path, title=title, limits=limits)
    if dataset.shape == (2,):
        reference = dataset.train[: max(len(samples), 500)]
        return pictures.scatter(samples, path, reference=reference, title=title)
    return None
