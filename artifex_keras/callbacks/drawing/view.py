"""A model at one moment, with the examples and settings that its pictures need."""

import dataclasses
import inspect
import math

import numpy as np

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.arrays import even_indices, to_numpy

__all__ = ["View"]

POINTS = 500  # samples drawn where they are points: a dot is cheap
STEPS = 40  # of a way from noise


@dataclasses.dataclass
class View:
    """A model at one moment, with the examples and settings that its pictures need.

    Attributes:
        model: the model, with its current weights.
        x: examples of the data (N, ...), or None.
        y: their labels or conditions (N, ...), or None.
        history: `{metric: values}` of the `epochs` so far, counted from 0.
        fixed: "limits" and "bounds", found for the first picture and kept for all later ones.

    The other attributes are the arguments of `VisualizationCallback`.
    """

    model: object
    x: object = None
    y: object = None
    history: dict = dataclasses.field(default_factory=dict)
    epochs: list = dataclasses.field(default_factory=list)
    fixed: dict = dataclasses.field(default_factory=dict)
    num_samples: int = 16
    condition: object = None
    tokenizer: object = None
    prompt: object = None
    value_range: tuple | None = None
    image_shape: tuple | None = None
    sampling: dict = dataclasses.field(default_factory=dict)
    units: dict | None = None
    seed: int = 0

    def has(self, *methods):
        """Whether the model has all these methods."""
        return all(callable(getattr(self.model, name, None)) for name in methods)

    def on_plane(self, *methods):
        """Whether examples are points of the plane and the model has all these methods."""
        return self.layout == "plane" and self.has(*methods)

    # The look of an example

    @property
    def shape(self):
        """The shape of an example in the picture, None if unknown."""
        shape = getattr(self.model, "data_shape", None)
        if shape is None and self.x is not None:
            shape = self.x.shape[1:]
        if self.image_shape is not None and shape is not None:
            if math.prod(shape) == math.prod(self.image_shape):
                return tuple(self.image_shape)
        return None if shape is None else tuple(shape)

    @property
    def layout(self):
        """ "images", "plane" (points), "vectors", or None for examples that can't be drawn."""
        shape = self.shape
        if shape is None or self.has("generate"):
            return None
        if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)):
            return "images"
        if len(shape) == 1:
            return "plane" if shape == (2,) else "vectors"
        return None

    def images(self, values):
        """Examples (N, ...) in their `shape` in the picture."""
        values = to_numpy(values)
        return values.reshape(len(values), *self.shape)

    def limits(self, values):
        """The values of black and white, the same in all pictures: (low, high)."""
        if self.fixed.get("limits") is None:
            given = self.value_range
            if given is None:
                known = getattr(self.model, "value_range", None) if self.x is None else None
                given = known or (_limits(self.x) if self.x is not None else _guess_limits(values))
            self.fixed["limits"] = [float(end) for end in given]
        return tuple(self.fixed["limits"])

    def bounds(self, points):
        """The square section of the plane, the same in all pictures: (low, high) of both axes."""
        if self.fixed.get("bounds") is None:
            seen = points if self.x is None else self.x
            self.fixed["bounds"] = list(pictures.bounds_of(to_numpy(seen)))
        return tuple(self.fixed["bounds"])

    # Calling the model

    @property
    def conditional(self):
        return bool(getattr(self.model, "conditional", False))

    def conditions(self, n):
        """`n` conditions, the same in all pictures; None for an unconditional model."""
        if not self.conditional:
            return None
        given = self.condition if self.condition is not None else self.y
        if given is None:
            raise ValueError("the model takes a condition: pass `condition`, or `data` with labels")
        given = np.asarray(given)
        if self.condition is None and _are_classes(given):
            given = np.unique(given)
        return given[np.arange(n) % len(given)] if given.ndim else np.full(n, given)

    def one_condition(self):
        """The one condition of a picture of the plane: a phrase for the title, and its value."""
        chosen = self.conditions(1)
        return ("", None) if chosen is None else (f", given {chosen[0]}", chosen[0])

    def call(self, method, *arguments, condition=None, **options):
        """The result of a method of the model as a NumPy array; drops `options` that it lacks."""
        method = getattr(self.model, method)
        if condition is not None:
            options["condition"] = condition
        accepted = inspect.signature(method).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        return to_numpy(method(*arguments, **options))

    def samples(self, n):
        """`n` samples, from the same noise in all pictures."""
        options, condition = {**self.sampling, "seed": self.seed}, self.conditions(n)
        if condition is not None:
            options["condition"] = condition
        return to_numpy(self.model.sample(n, **options))

    def trajectory(self, n, frames):
        """`n` trajectories from noise to samples, (frames, n, ...)."""
        options = {"condition": self.conditions(n), "seed": self.seed}
        return self.call("denoising", n, frames, STEPS, **options)

    def subset(self, n):
        """`n` of the examples, evenly spaced."""
        return self.x[even_indices(len(self.x), n)]

    def given(self, n):
        """The conditions of `subset(n)`, as a tuple of arguments; empty without."""
        if not self.conditional or self.y is None:
            return ()
        return (self.y[even_indices(len(self.y), n)],)


def _are_classes(labels):
    integers = np.issubdtype(labels.dtype, np.integer)
    return integers and labels.ndim == 1 and len(np.unique(labels)) <= 100


def _limits(x):
    """The probable range of data: [0, 1], [-1, 1], or their least and greatest value."""
    low, high = float(np.min(x)), float(np.max(x))
    for ends in ((0.0, 1.0), (-1.0, 1.0)):
        if ends[0] <= low and high <= ends[1]:
            return ends
    return (min(low, 0.0), high)


def _guess_limits(samples):
    """The probable range of the data, from samples."""
    low, high = float(np.min(samples)), float(np.max(samples))
    if low < -0.3:
        return (-1.0, 1.0)
    return (0.0, 1.0) if high <= 2.0 else (0.0, high)
