"""Functions on the plane: the density, the energy."""

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.kind import Kind
from artifex_keras.callbacks.drawing.view import POINTS

__all__ = ["DENSITY", "ENERGY"]

SIDE = 64  # of the grid of points


def _density(view):
    """``ln p`` on a grid."""
    bounds = view.bounds(view.samples(POINTS) if view.x is None else view.x)
    _, given = view.one_condition()
    options = {"condition": given, "num_steps": 16, "solver": "rk4", "seed": view.seed}
    return view.call("log_prob", pictures.plane_grid(bounds, SIDE), **options)


def _draw_density(view, log_p, path, title):
    _landscape(view, log_p, path, title + view.one_condition()[0])


def _energy(view):
    """The energy over the temperature on a grid, and the score on a coarser one."""
    bounds = view.bounds(view.samples(POINTS) if view.x is None else view.x)
    _, given = view.one_condition()
    energy = view.call("energy", pictures.plane_grid(bounds, SIDE), condition=given)
    score = view.call("score", pictures.arrow_grid(bounds), condition=given)
    return energy / getattr(view.model, "temperature", 1.0), score


def _draw_energy(view, content, path, title):
    energy, score = content
    warm = getattr(view.model, "temperature", 1.0) != 1.0
    options = {"label": "$E/T$ (nats)" if warm else "$E$ (nats)", "low_is_likely": True}
    _landscape(view, energy, path, title + view.one_condition()[0], field=score, **options)


def _landscape(view, values, path, title, **options):
    reference = None if view.x is None else view.subset(300)
    bounds = view.bounds(view.x)
    return pictures.landscape(
        values, path, bounds=bounds, reference=reference, title=title, **options
    )


DENSITY = Kind(
    title="Density",
    needs="`log_prob(x)`, and points in the plane",
    applies=lambda view: view.on_plane("log_prob") and not view.has("energy"),
    content=_density,
    draw=_draw_density,
)

ENERGY = Kind(
    title="Energy, and the way down",
    needs="`energy(x)` and `score(x)`, and points in the plane",
    applies=lambda view: view.on_plane("energy", "score"),
    content=_energy,
    draw=_draw_energy,
)
