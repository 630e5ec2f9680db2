"""Points in the plane, and functions on it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from artifex_keras.aliases import FilePath, Limits, Tensor
from artifex_keras.pictures.grids import ARROWS, arrow_grid, bounds_of, plane_grid, principal_plane
from artifex_keras.pictures.sheet import GREY, TRAINING, VALIDATION, new_figure, save_figure

__all__ = [
    "arrow_grid",
    "bounds_of",
    "density",
    "flight",
    "landscape",
    "latent_map",
    "plane_grid",
    "principal_plane",
    "scatter",
]


def scatter(
    points: Tensor,
    path: FilePath,
    *,
    reference: Tensor = None,
    title: str | None = None,
    labels: Sequence[str] = ("samples", "data"),
    axes_labels: Sequence[str] = ("$x_1$", "$x_2$"),
):
    """Draws points of the plane over a grey reference.

    Args:
        points: (N, 2).
        path: the file to write.
        reference: points (N, 2) in grey, such as the data.
        title: the title of the picture.
        labels: the names of points and reference.
        axes_labels: the names of the axes.

    Returns:
        The path.

    Raises:
        ValueError: for points of another shape.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        pictures.scatter(points, "points.png", reference=points + 0.1)
        ```
    """
    points = _plane(points)
    reference = reference if reference is None else _plane(reference)
    view = _view(points if reference is None else reference)
    with new_figure(_plane_inches(view), title) as figure:
        axes = figure.add_subplot()
        if reference is not None:
            axes.scatter(*reference.T, s=_size(reference), color=GREY, lw=0, label=labels[1])
        axes.scatter(*points.T, s=_size(points), color=TRAINING, alpha=0.6, lw=0, label=labels[0])
        axes.set(aspect="equal", xlabel=axes_labels[0], ylabel=axes_labels[1], **view)
        if reference is not None:
            figure.legend(loc="outside lower center", ncols=2, markerscale=2)
        return save_figure(figure, path)


def density(
    log_prob: Callable[..., Any],
    path: FilePath,
    *,
    bounds: Limits,
    reference: Tensor = None,
    title: str | None = None,
    size: int = 200,
):
    """Draws a probability density over a square of the plane.

    Args:
        log_prob: a function from points (N, 2) to ln p, (N,), up to a constant.
        path: the file to write.
        bounds: (low, high) of both axes.
        reference: points (N, 2) to draw over it.
        title: the title of the picture.
        size: the grid points of each axis.

    Returns:
        The path.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        pictures.density(lambda x: -(x**2).sum(1) / 2, "density.png", bounds=(-3, 3), size=50)
        ```
    """
    low, high = bounds
    values = np.asarray(log_prob(plane_grid(bounds, size)), dtype="float64").reshape(size, size)
    with new_figure((4.6, 4.6), title) as figure:
        axes = figure.add_subplot()
        shade = np.exp(values - values.max())
        axes.imshow(shade, origin="lower", extent=(low, high, low, high), cmap="Blues")
        if reference is not None:
            reference = _plane(reference)
            axes.scatter(*reference.T, s=_size(reference) / 2, color=VALIDATION, alpha=0.5, lw=0)
        axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", xlim=bounds, ylim=bounds)
        axes.grid(False)
        return save_figure(figure, path)


def landscape(
    values: Tensor,
    path: FilePath,
    *,
    bounds: Limits,
    field: Any = None,
    reference: Tensor = None,
    title: str | None = None,
    label: str = "$\\ln p$ (nats)",
    span: float = 8.0,
    low_is_likely: bool = False,
    size: int = 100,
):
    """Draws a function over a square of the plane, with a colour scale, arrows and points.

    Args:
        values: (size²,) at the points of `plane_grid`, in nats; or a function of points (N, 2).
        path: the file to write.
        bounds: (low, high) of both axes.
        field: arrows (N, 2) at the points of `arrow_grid`; or a function of points.
        reference: points (N, 2) to draw over it.
        title: the title of the picture.
        label: the name of the colour scale.
        span: the nats from the likeliest point that the colours cover.
        low_is_likely: whether low values are likely, as those of an energy.
        size: the grid points of each axis, if `values` is a function.

    Returns:
        The path.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        energy, score = lambda x: (x**2).sum(1) / 2, lambda x: -x
        pictures.landscape(energy, "energy.png", bounds=(-3, 3), field=score, low_is_likely=True)
        ```
    """
    low, high = bounds
    heights = values(plane_grid(bounds, size)) if callable(values) else values
    heights = np.asarray(heights, dtype="float64")
    size = round(heights.size**0.5)
    heights = heights.reshape(size, size)
    heights = np.nan_to_num(heights, nan=np.inf if low_is_likely else -np.inf)
    if low_is_likely:
        ends = (heights.min(), heights.min() + span)
    else:
        ends = (heights.max() - span, heights.max())
    with new_figure((5.2, 4.2), title) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(
            np.clip(heights, *ends),
            origin="lower",
            extent=(low, high, low, high),
            cmap="Blues_r" if low_is_likely else "Blues",
            vmin=ends[0],
            vmax=ends[1],
            interpolation="bilinear",
        )
        end = "max" if low_is_likely else "min"
        figure.colorbar(image, ax=axes, label=label, extend=end, shrink=0.9).outline.set_visible(
            False
        )
        if reference is not None:
            reference = _plane(reference)
            axes.scatter(*reference.T, s=_size(reference) / 3, color=VALIDATION, alpha=0.5, lw=0)
        if field is not None:
            _arrows(axes, field, bounds)
        axes.set(aspect="equal", xlabel="$x_1$", ylabel="$x_2$", xlim=bounds, ylim=bounds)
        axes.grid(False)
        return save_figure(figure, path)


def flight(
    states: Tensor,
    path: FilePath,
    *,
    bounds: Limits,
    labels: Sequence[str],
    fields: Any = None,
    reference: Tensor = None,
    title: str | None = None,
):
    """Draws trajectories of points: a panel for each of their states.

    Args:
        states: (frames, N, 2), from the first moment to the last.
        path: the file to write.
        bounds: (low, high) of both axes.
        labels: a title for each panel.
        fields: for each panel arrows (N, 2) at the points of `arrow_grid`, or a function of points,
            such as the velocity.
        reference: points (N, 2) in grey in the last panel, such as the data.
        title: the title of the picture.

    Returns:
        The path.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        states = np.stack([points, points / 2])
        pictures.flight(states, "flight.png", bounds=(-3, 3), labels=["noise", "samples"])
        ```
    """
    frames = len(states)
    with new_figure((2.2 * frames + 0.4, 2.65), title) as figure:
        panels = np.ravel(figure.subplots(1, frames, sharex=True, sharey=True, squeeze=False))
        for number, (axes, points) in enumerate(zip(panels, states, strict=True)):
            points = _plane(points)
            if reference is not None and number == frames - 1:
                axes.scatter(*_plane(reference).T, s=2, color=GREY, lw=0)
            axes.scatter(*points.T, s=_size(points) / 2, color=TRAINING, alpha=0.5, lw=0)
            if fields is not None:
                _arrows(axes, fields[number], bounds)
            axes.set(aspect="equal", xlim=bounds, ylim=bounds, xlabel="$x_1$")
            axes.set_title(labels[number])
        panels[0].set_ylabel("$x_2$")
        return save_figure(figure, path)


def latent_map(
    codes: Tensor,
    path: FilePath,
    *,
    labels: Tensor = None,
    title: str | None = None,
    axes_labels: Sequence[str] = ("$z_1$", "$z_2$"),
):
    """Draws latent codes, coloured by their labels.

    Args:
        codes: (N, 2).
        path: the file to write.
        labels: (N,); integers of at most 20 values are classes, other numbers a colour scale.
        title: the title of the picture.
        axes_labels: the names of the axes.

    Returns:
        The path.

    Example:

        ```python
        import numpy as np
        from artifex_keras import pictures

        points = np.random.default_rng(0).normal(size=(100, 2))
        pictures.latent_map(points, "codes.png", labels=np.arange(100) % 3)
        ```
    """
    codes = _plane(codes)
    with new_figure((4.9 if labels is not None else 4.4, 4.2), title) as figure:
        axes = figure.add_subplot()
        options = {"s": _size(codes) * 1.5, "alpha": 0.75, "lw": 0}
        labels = None if labels is None else np.asarray(labels)
        if labels is None:
            axes.scatter(*codes.T, color=TRAINING, **options)
        elif np.issubdtype(labels.dtype, np.integer) and len(np.unique(labels)) <= 20:
            _by_class(figure, axes, codes, labels, options)
        else:
            image = axes.scatter(*codes.T, c=labels, cmap="viridis", **options)
            figure.colorbar(image, ax=axes, label="label").outline.set_visible(False)
        axes.set(xlabel=axes_labels[0], ylabel=axes_labels[1])
        axes.set_aspect("equal", adjustable="datalim")
        return save_figure(figure, path)


def _by_class(figure, axes, codes, labels, options):
    from matplotlib import colormaps

    classes = np.unique(labels)
    colours = colormaps["tab10" if len(classes) <= 10 else "tab20"].colors
    for colour, name in zip(colours, classes, strict=False):
        axes.scatter(*codes[labels == name].T, color=colour, label=str(name), **options)
    figure.legend(loc="outside right center", markerscale=2, handletextpad=0.2)


def _arrows(axes, field, bounds):
    """Draws arrows, the longest fifth of them cut to one length."""
    points = arrow_grid(bounds)
    arrows = np.asarray(field(points) if callable(field) else field, dtype="float64")
    length = np.linalg.norm(arrows, axis=1, keepdims=True)
    # A few arrows are very long in most fields: the longest fifth is cut.
    scale = max(float(np.nanquantile(length, 0.8)), 1e-12)
    arrows = arrows / np.maximum(length, scale)
    cell = (bounds[1] - bounds[0]) / ARROWS
    axes.quiver(
        *points.T,
        *(0.9 * cell * arrows).T,
        angles="xy",
        scale_units="xy",
        scale=1,
        width=0.0035,
        color="#333333",
        alpha=0.7,
    )


def _plane(points):
    points = np.asarray(points, dtype="float32")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"Points must have the shape (N, 2). Received: shape {points.shape}.")
    return points


def _size(points):
    """The area of a dot in square points, smaller for many points."""
    return float(np.clip(4000 / max(len(points), 1), 2, 20))


def _view(points):
    """Limits a little wider than the data, so that an outlier doesn't shrink the picture."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.15 * (high - low).max() or 1.0
    low, high = low - margin, high + margin
    return {"xlim": (low[0], high[0]), "ylim": (low[1], high[1])}


def _plane_inches(view):
    """A size in inches with one scale for both axes, the longer one of 4 inches."""
    extents = np.array([view["xlim"][1] - view["xlim"][0], view["ylim"][1] - view["ylim"][0]])
    width, height = 4.0 * extents / extents.max()
    return max(width, 2.0) + 0.6, max(height, 1.5) + 0.8
