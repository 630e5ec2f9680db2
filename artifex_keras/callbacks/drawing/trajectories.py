"""From noise to samples: images in strips, points in panels, with the velocity."""

import numpy as np
from keras import ops

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.arrays import to_numpy
from artifex_keras.callbacks.drawing.examples import EXAMPLES
from artifex_keras.callbacks.drawing.kind import Kind
from artifex_keras.callbacks.drawing.view import POINTS

__all__ = ["DENOISING", "VELOCITY"]

FRAMES = 5  # panels of points


def _trajectory(view):
    return view.trajectory(6, 10) if view.layout == "images" else view.trajectory(POINTS, FRAMES)


def _has_trajectory(view):
    if not view.has("denoising"):
        return False
    return view.layout == "images" or (view.layout == "plane" and not view.has("velocity"))


def _draw_trajectory(view, states, path, title):
    if view.layout == "images":
        states = states.reshape(*states.shape[:2], *view.shape)
        return pictures.strips(states, path, title=title, limits=view.limits(states[-1]))
    percents = [f"{100 * i // (FRAMES - 1)}%" for i in range(FRAMES)]
    return _draw_panels(view, states, path, title, ["noise", *percents[1:-1], "samples"])


def _velocity(view):
    """Points (frames, N, 2) and the velocities on a grid at their times, (frames, G, 2)."""
    states = view.trajectory(POINTS, FRAMES)
    _, condition = view.one_condition()
    grid = pictures.arrow_grid(view.bounds(states[-1]))
    times = np.linspace(0, 1, FRAMES).astype("float32")
    inputs = [np.tile(grid, (FRAMES, 1)), np.repeat(times, len(grid))]
    if condition is not None:
        inputs.append(np.repeat(np.asarray(condition)[None], len(inputs[0]), axis=0))
    velocities = to_numpy(view.model([ops.convert_to_tensor(part) for part in inputs]))
    return states, velocities.reshape(FRAMES, len(grid), 2)


def _draw_velocity(view, content, path, title):
    states, fields = content
    labels = [f"$t$ = {t:g}" for t in np.linspace(0, 1, FRAMES)]
    return _draw_panels(view, states, path, title + view.one_condition()[0], labels, fields)


def _draw_panels(view, states, path, title, labels, fields=None):
    return pictures.flight(
        states,
        path,
        bounds=view.bounds(states[-1]),
        labels=labels,
        fields=fields,
        reference=None if view.x is None else view.subset(EXAMPLES),
        title=title,
    )


DENOISING = Kind(
    title="From noise to samples",
    needs="`denoising(n, frames, num_steps)`, and images or points in the plane",
    applies=_has_trajectory,
    content=_trajectory,
    draw=_draw_trajectory,
)

VELOCITY = Kind(
    title="From noise to samples along the velocity",
    needs="`denoising` and a velocity, and points in the plane",
    applies=lambda view: view.on_plane("denoising", "velocity"),
    content=_velocity,
    draw=_draw_velocity,
)
