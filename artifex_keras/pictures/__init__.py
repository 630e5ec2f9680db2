"""Pictures as files: samples, reconstructions, loss curves, points in the plane, animations.

Each function writes one file, in the format of its suffix (PNG, SVG, PDF), and returns its path.
No window opens, and matplotlib's global state stays the same.
"""

from artifex_keras.pictures.curves import loss_curves
from artifex_keras.pictures.grids import arrow_grid, bounds_of, plane_grid, principal_plane
from artifex_keras.pictures.images import image_grid, reconstructions, strips
from artifex_keras.pictures.motion import animation
from artifex_keras.pictures.plane import density, flight, landscape, latent_map, scatter
from artifex_keras.pictures.text import joined, texts

__all__ = [
    "animation",
    "arrow_grid",
    "bounds_of",
    "density",
    "flight",
    "image_grid",
    "joined",
    "landscape",
    "latent_map",
    "loss_curves",
    "plane_grid",
    "principal_plane",
    "reconstructions",
    "scatter",
    "strips",
    "texts",
]
