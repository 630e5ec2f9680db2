"""What can be drawn of a model in training, by what the model can do.

A kind of picture is a row of `KINDS`. Models are asked by what they have, not by what they are: one
of the user's own with a `sample(n, seed=...)` is drawn as the families are.
"""

import dataclasses
import inspect
import itertools
import math
import types
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from artifex_keras import pictures

__all__ = ["KINDS", "Kind", "View", "examples"]

POINTS = 500  # samples drawn where they are points: a dot is cheap
EXAMPLES = 1000  # of the data, at most
PAIRS = 20  # of originals and what became of them, at most
FRAMES = 5  # panels of points on their way
STEPS = 40  # of a way from noise
SIDE = 64  # of a grid on which a function of the plane is asked for


@dataclasses.dataclass
class View:
    """A model at one moment, and what its pictures are made with.

    Attributes:
        model: the model, its variables in place.
        x: examples of the data (N, ...), or None.
        y: their labels or conditions (N, ...), or None.
        history: `{metric: values}` of the `epochs` so far, counted from 0.
        fixed: what was found out for the first picture and must hold for all: "limits", "bounds".

    The other attributes are the arguments of `VisualizationCallback`.
    """

    model: object
    x: object = None
    y: object = None
    history: dict = dataclasses.field(default_factory=dict)
    epochs: list = dataclasses.field(default_factory=list)
    fixed: dict = dataclasses.field(default_factory=dict)
    num_samples: int = 16
    labels: object = None
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

    # How an example looks

    @property
    def shape(self):
        """The shape of an example as it is drawn, or None where it isn't known."""
        shape = getattr(self.model, "data_shape", None)
        if shape is None and self.x is not None:
            shape = self.x.shape[1:]
        if self.image_shape is not None and shape is not None:
            if math.prod(shape) == math.prod(self.image_shape):
                return tuple(self.image_shape)
        return None if shape is None else tuple(shape)

    @property
    def layout(self):
        """ "images", "plane", "vectors", or None for what can't be drawn."""
        shape = self.shape
        if shape is None or self.has("generate"):
            return None
        if len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)):
            return "images"
        if len(shape) == 1:
            return "plane" if shape == (2,) else "vectors"
        return None

    def images(self, values):
        """Examples (N, ...) in the shape in which they are drawn."""
        values = numpy(values)
        return values.reshape(len(values), *self.shape)

    def limits(self, values):
        """The values that are black and white, the same for all pictures."""
        if self.fixed.get("limits") is None:
            given = self.value_range
            if given is None:
                known = getattr(self.model, "value_range", None) if self.x is None else None
                given = known or (_limits(self.x) if self.x is not None else _guess(values))
            self.fixed["limits"] = [float(end) for end in given]
        return tuple(self.fixed["limits"])

    def bounds(self, points):
        """The square of the plane that is seen, the same for all pictures."""
        if self.fixed.get("bounds") is None:
            seen = points if self.x is None else self.x
            self.fixed["bounds"] = list(pictures.bounds_of(numpy(seen)))
        return tuple(self.fixed["bounds"])

    # Asking the model

    @property
    def conditional(self):
        return bool(getattr(self.model, "conditional", False))

    def conditions(self, n):
        """`n` conditions, the same each time; None for a model that takes none."""
        if not self.conditional:
            return None
        given = self.labels if self.labels is not None else self.y
        if given is None:
            raise ValueError("the model takes a condition: give `labels`, or `data` with labels")
        given = np.asarray(given)
        if self.labels is None and _are_classes(given):
            given = np.unique(given)
        return given[np.arange(n) % len(given)] if given.ndim else np.full(n, given)

    def condition(self):
        """What a picture of the whole plane is drawn for: `conditions(1)` as a phrase, and it."""
        chosen = self.conditions(1)
        return ("", None) if chosen is None else (f", given {chosen[0]}", chosen[0])

    def asked(self, method, *arguments, condition=None, **options):
        """What a method of the model gives, in numpy, with those `options` that it takes."""
        method = getattr(self.model, method)
        if condition is not None:
            options[_name_of_condition(method)] = condition
        taken = inspect.signature(method).parameters
        options = {name: value for name, value in options.items() if name in taken}
        return numpy(method(*arguments, **options))

    def samples(self, n):
        """`n` samples, from the same noise each time."""
        options, condition = {**self.sampling, "seed": self.seed}, self.conditions(n)
        if condition is not None:
            options[_name_of_condition(self.model.sample)] = condition
        return numpy(self.model.sample(n, **options))

    def way(self, n, frames):
        """`n` examples on their way from noise, (frames, n, ...)."""
        options = {"condition": self.conditions(n), "seed": self.seed}
        return self.asked("denoising", n, frames, STEPS, **options)

    def some(self, n):
        """`n` of the examples, from all over the data."""
        return self.x[_spread(len(self.x), n)]


class Kind(NamedTuple):
    """A kind of picture.

    Attributes:
        title: what stands above it.
        needs: what it needs, in words.
        applies: whether a view has that.
        made: from a view what there is to see; asks the model.
        drawn: from the view, that, a path and a title to a picture in the file.
        animated: whether the pictures make an animation.
        suffix: of the file.
    """

    title: str
    needs: str
    applies: Callable
    made: Callable
    drawn: Callable
    animated: bool = True
    suffix: str = ".png"


# Samples


def _samples(view):
    n = view.num_samples
    return view.samples(n if view.layout == "images" else max(n, POINTS))


def _has_samples(view):
    seeded = view.has("sample") and "seed" in inspect.signature(view.model.sample).parameters
    flat = view.layout == "vectors" and view.x is None
    return seeded and view.layout is not None and not flat


def _draw_samples(view, samples, path, title):
    if view.layout == "images":
        classes = view.conditions(len(samples))
        columns = None if classes is None else len(np.unique(classes, axis=0))
        columns = columns if columns in range(2, 13) else None
        images, limits = view.images(samples), view.limits(samples)
        return pictures.image_grid(images, path, title=title, columns=columns, limits=limits)
    if view.layout == "plane":
        reference = None if view.x is None else view.some(EXAMPLES)
        return pictures.scatter(samples, path, reference=reference, title=title)
    flat = pictures.principal_plane(view.x)
    names = ("first principal component", "second")
    reference = flat(view.x)
    return pictures.scatter(
        flat(samples), path, reference=reference, title=title, axes_labels=names
    )


# Examples and what becomes of them


def _pairs(view, rebuilt):
    """`(originals, what became of them)`."""
    originals = view.some(min(view.num_samples, PAIRS))
    return originals, numpy(rebuilt(originals))


def _draw_pairs(labels):
    def draw(view, pair, path, title):
        originals, rebuilt = map(view.images, pair)
        rows = -(-len(originals) // 10)
        return pictures.reconstructions(
            originals,
            rebuilt,
            path,
            title=title,
            columns=-(-len(originals) // rows),
            limits=view.limits(originals),
            labels=labels,
        )

    return draw


def _completed(images, view):
    return view.model.complete(images, view.shape[0] // 2, seed=view.seed)


# Codes


def _codes(view):
    mean = view.model.encode(view.x)[0]
    return numpy(mean).reshape(len(view.x), -1)


def _has_codes(view):
    if view.x is None or len(view.x) < 3 or not view.has("encode", "decode", "reconstruct"):
        return False
    return math.prod(getattr(view.model, "latent_shape", (0,))) >= 2


def _draw_codes(view, codes, path, title):
    names = ("$z_1$", "$z_2$")
    if codes.shape[1] > 2:
        codes = pictures.principal_plane(codes)(codes)
        names = ("first principal component", "second")
    labels = None if view.y is None else _one_number(view.y)
    return pictures.latent_map(codes, path, labels=labels, title=title, axes_labels=names)


# From noise


def _way(view):
    return view.way(6, 10) if view.layout == "images" else view.way(POINTS, FRAMES)


def _goes_from_noise(view):
    if not view.has("denoising"):
        return False
    return view.layout == "images" or (view.layout == "plane" and not view.has("velocity"))


def _draw_way(view, states, path, title):
    if view.layout == "images":
        states = states.reshape(*states.shape[:2], *view.shape)
        return pictures.strips(states, path, title=title, limits=view.limits(states[-1]))
    shares = [f"{100 * i // (FRAMES - 1)}%" for i in range(FRAMES)]
    return _draw_flight(view, states, path, title, ["noise", *shares[1:-1], "samples"])


def _velocity(view):
    """Points on their way, and the velocities on a grid at those times, (frames, G, 2)."""
    states = view.way(POINTS, FRAMES)
    _, condition = view.condition()
    grid = pictures.arrow_grid(view.bounds(states[-1]))
    times = np.linspace(0, 1, FRAMES).astype("float32")
    inputs = [np.tile(grid, (FRAMES, 1)), np.repeat(times, len(grid))]
    if condition is not None:
        inputs.append(np.repeat(np.asarray(condition)[None], len(inputs[0]), axis=0))
    found = numpy(view.model([ops.convert_to_tensor(part) for part in inputs]))
    return states, found.reshape(FRAMES, len(grid), 2)


def _draw_velocity(view, content, path, title):
    states, fields = content
    labels = [f"$t$ = {t:g}" for t in np.linspace(0, 1, FRAMES)]
    return _draw_flight(view, states, path, title + view.condition()[0], labels, fields)


def _draw_flight(view, states, path, title, labels, fields=None):
    return pictures.flight(
        states,
        path,
        bounds=view.bounds(states[-1]),
        labels=labels,
        fields=fields,
        reference=None if view.x is None else view.some(EXAMPLES),
        title=title,
    )


# Functions on the plane


def _on_the_plane(view, *methods):
    return view.layout == "plane" and view.has(*methods)


def _density(view):
    """``ln p`` on a grid."""
    bounds = view.bounds(view.samples(POINTS) if view.x is None else view.x)
    _, given = view.condition()
    options = {"condition": given, "num_steps": 16, "solver": "rk4", "seed": view.seed}
    return view.asked("log_prob", pictures.plane_grid(bounds, SIDE), **options)


def _draw_density(view, log_p, path, title):
    _landscape(view, log_p, path, title + view.condition()[0])


def _energy(view):
    """The energy on a grid, in units of the temperature, and its slope downwards on another."""
    bounds = view.bounds(view.samples(POINTS) if view.x is None else view.x)
    _, given = view.condition()
    energy = view.asked("energy", pictures.plane_grid(bounds, SIDE), condition=given)
    score = view.asked("score", pictures.arrow_grid(bounds), condition=given)
    return energy / getattr(view.model, "temperature", 1.0), score


def _draw_energy(view, content, path, title):
    energy, score = content
    warm = getattr(view.model, "temperature", 1.0) != 1.0
    options = {"label": "$E/T$ (nats)" if warm else "$E$ (nats)", "low_is_likely": True}
    _landscape(view, energy, path, title + view.condition()[0], field=score, **options)


def _landscape(view, values, path, title, **options):
    reference = None if view.x is None else view.some(300)
    bounds = view.bounds(view.x)
    return pictures.landscape(
        values, path, bounds=bounds, reference=reference, title=title, **options
    )


# Texts


def _texts(view):
    """Rows of tokens as texts, or as ids where there is no tokenizer."""
    n, prompt = view.num_samples, view.prompt
    if prompt is None:
        rows = view.samples(n)
    else:
        prompt = np.asarray(view.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        options = {"max_new_tokens": view.model.max_length - len(prompt), **view.sampling}
        made = view.model.generate(np.tile(prompt, (n, 1)), seed=view.seed, **options)
        rows = np.concatenate([np.tile(prompt, (n, 1)), numpy(made)], axis=1)
    return rows if view.tokenizer is None else view.tokenizer.decode(rows)


def _answers(view):
    """Completions with their rewards, as the model's `table` has them."""
    return [_told(row) for row in view.model.table(count=view.num_samples, seed=view.seed)]


def _told(row):
    parts = [f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float)]
    return f"{row['prompt']}\n> {row['completion']}\n{', '.join(parts)}"


# Losses


def _losses(view):
    return types.SimpleNamespace(history=view.history, epoch=view.epochs)


def _draw_losses(view, history, path, title):
    return pictures.loss_curves(history, path, title=title, units=view.units)


KINDS = {
    "samples": Kind(
        "Samples",
        "`sample(n, seed=...)`, and images or points; for points of more than two dimensions data",
        _has_samples,
        _samples,
        _draw_samples,
    ),
    "reconstructions": Kind(
        "Reconstructions",
        "`reconstruct(x)`, and images as data",
        lambda view: view.has("reconstruct") and view.x is not None and view.layout == "images",
        lambda view: _pairs(view, view.model.reconstruct),
        _draw_pairs(("original", "rebuilt")),
    ),
    "completions": Kind(
        "Upper halves, completed",
        "`complete(x, rows, seed=...)`, and images as data",
        lambda view: view.has("complete") and view.x is not None and view.layout == "images",
        lambda view: _pairs(view, lambda images: _completed(images, view)),
        _draw_pairs(("original", "completed")),
    ),
    "latent": Kind(
        "Codes of the data",
        "`encode` and `decode` with codes of two dimensions or more, and data",
        _has_codes,
        _codes,
        _draw_codes,
    ),
    "denoising": Kind(
        "From noise to samples",
        "`denoising(n, frames, num_steps)`, and images or points in the plane",
        _goes_from_noise,
        _way,
        _draw_way,
    ),
    "velocity": Kind(
        "From noise to samples along the velocity",
        "`denoising` and a velocity, and points in the plane",
        lambda view: _on_the_plane(view, "denoising", "velocity"),
        _velocity,
        _draw_velocity,
    ),
    "density": Kind(
        "Density",
        "`log_prob(x)`, and points in the plane",
        lambda view: _on_the_plane(view, "log_prob") and not view.has("energy"),
        _density,
        _draw_density,
    ),
    "energy": Kind(
        "Energy, and the way down",
        "`energy(x)` and `score(x)`, and points in the plane",
        lambda view: _on_the_plane(view, "energy", "score"),
        _energy,
        _draw_energy,
    ),
    "text": Kind(
        "Texts",
        "`generate`",
        lambda view: view.has("generate", "sample"),
        _texts,
        lambda view, rows, path, title: pictures.texts(rows, path),
        animated=False,
        suffix=".txt",
    ),
    "answers": Kind(
        "Answers",
        "a `table()` of a model that learns from rewards of texts or tokens",
        lambda view: view.has("table") and getattr(view.model, "tabulates", True),
        _answers,
        lambda view, rows, path, title: pictures.texts(rows, path),
        animated=False,
        suffix=".txt",
    ),
    "losses": Kind(
        "Losses",
        "an epoch that is over",
        lambda view: bool(view.epochs),
        _losses,
        _draw_losses,
        animated=False,
    ),
}


# Data


def examples(source, count=EXAMPLES):
    """`(x, y)`, up to `count` examples of a dataset in numpy, y None where there are no targets.

    Of arrays they are from all over, of batches the first ones. A torch DataLoader is asked for its
    dataset's first examples: to begin a pass over it would draw from torch's random numbers.
    """
    if source is None:
        return None, None
    if _is_arrays(source):
        rows = _spread(len(keras.tree.flatten(source)[0]), count)
        parts = keras.tree.map_structure(lambda leaf: numpy(leaf)[rows], source)
        return _x_and_y(parts)
    seen, total = [], 0
    for batch in _batches(source, count):
        batch = keras.tree.map_structure(numpy, batch)
        seen.append(_x_and_y(batch))
        total += len(seen[-1][0])
        if total >= count:
            break
    if not seen:
        raise ValueError("`data` must hold a batch. Received: none.")
    x, y = zip(*seen, strict=True)
    targets = None if any(part is None for part in y) else np.concatenate(y)[:count]
    return np.concatenate(x)[:count], targets


def _is_arrays(source):
    leaves = [leaf for leaf in keras.tree.flatten(source) if leaf is not None]
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def _batches(source, count):
    if isinstance(source, keras.utils.PyDataset):
        return (source[index] for index in range(source.num_batches))
    if hasattr(source, "collate_fn") and hasattr(source, "dataset"):
        rows = range(min(count, len(source.dataset)))
        return [source.collate_fn([source.dataset[row] for row in rows])]
    return itertools.islice(source, count)


def _x_and_y(batch):
    batch = tuple(batch) if isinstance(batch, list) else batch
    x, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
    x = keras.tree.flatten(x)[0]
    y = None if y is None else keras.tree.flatten(y)[0]
    if y is not None and (y.shape[1:] == (0,) or len(y) != len(x)):
        y = None
    return x, y[:, 0] if y is not None and y.shape[1:] == (1,) else y


def _spread(length, count):
    """The numbers of `count` of so many rows, at equal distances, or of all."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(int)


# Small things


def numpy(values):
    return np.asarray(ops.convert_to_numpy(values))


def _are_classes(labels):
    whole = np.issubdtype(labels.dtype, np.integer)
    return whole and labels.ndim == 1 and len(np.unique(labels)) <= 100


def _one_number(labels):
    """Labels as one number each: the class of one-hot rows; None for other rows."""
    if labels.ndim == 1:
        return labels
    flat = labels.reshape(len(labels), -1)
    one_hot = np.isin(flat, (0, 1)).all() and (flat.sum(axis=1) == 1).all()
    return flat.argmax(axis=1) if one_hot else None


def _name_of_condition(method):
    return "labels" if "labels" in inspect.signature(method).parameters else "condition"


def _limits(x):
    """The range that data are likely to have: [0, 1], [-1, 1], or from their least to greatest."""
    low, high = float(np.min(x)), float(np.max(x))
    for ends in ((0.0, 1.0), (-1.0, 1.0)):
        if ends[0] <= low and high <= ends[1]:
            return ends
    return (min(low, 0.0), high)


def _guess(samples):
    """The range of the data that such samples stand for."""
    low, high = float(np.min(samples)), float(np.max(samples))
    if low < -0.3:
        return (-1.0, 1.0)
    return (0.0, 1.0) if high <= 2.0 else (0.0, high)
