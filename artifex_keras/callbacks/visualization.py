"""The callback that draws pictures of a model in training, from fixed noise and examples."""

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from artifex_keras import pictures, tracking
from artifex_keras.aliases import Data, FilePath, Limits, Tensor
from artifex_keras.arguments import (
    boolean,
    broken_rule,
    checked,
    count,
    dictionary,
    file_path,
    integer,
    number,
    optional,
    random_seed,
    sizes,
    unknown_name,
)
from artifex_keras.atomic import user_path
from artifex_keras.backend import processes
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.drawing import KINDS, View, examples
from artifex_keras.renamed import renamed

__all__ = ["VisualizationCallback"]

ANIMATED = [name for name, kind in KINDS.items() if kind.animated]


def _decodes(name, value):
    if not hasattr(value, "decode") or isinstance(value, bytes):
        raise broken_rule(name, value, "an object with `decode`")
    return value


def _range(name, value):
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise broken_rule(name, value, "(low, high)")
    low, high = (number(name, end) for end in value)
    if not low < high:
        raise broken_rule(name, value, "(low, high) with low below high")
    return low, high


@renamed(labels="condition")
@checked(
    save_dir=file_path,
    every_n_epochs=count(optional=True),
    num_samples=count(),
    every_n_steps=count(optional=True),
    tokenizer=optional(_decodes),
    value_range=optional(_range),
    image_shape=optional(sizes),
    sampling=optional(dictionary),
    units=optional(dictionary),
    animate=boolean,
    seed=random_seed,
)
class VisualizationCallback(BaseCallback):
    """Draws samples, reconstructions and more every few epochs: PNG files, GIFs, for trackers too.

    After epoch 5 it writes `epoch-0005-samples.png` and the like; the names sort by time. Noise,
    examples, grey levels and the section of the plane stay the same, so pictures can be compared. A
    GIF of each kind grows with the run. The run itself doesn't change: sampling starts from `seed`
    and leaves the model's own seeds as they were. Of several processes the first one writes.

    The pictures are those that the model can give, rows of `callbacks.drawing.KINDS`: "samples";
    "reconstructions" and the "latent" map of a VAE; "completions" of pixel models; "denoising", the
    trajectory from noise; in the plane "velocity", "density", "energy"; "text"; "answers", the
    prompts and completions of a model that learns from rewards, with their rewards; "losses". Any
    other Keras model gets its losses. A picture that fails warns once and never ends a run.

    Args:
        save_dir: the folder. A resumed run continues in it and overwrites what it draws again; a
            new run should have a folder of its own.
        every_n_epochs: epochs between pictures; None for none, with `every_n_steps`.
        num_samples: samples, reconstructions and texts in a picture; at least 500 for points.
        every_n_steps: batches between pictures within epochs. `epoch-0005_step-00001200-...` is
            after 5 epochs and 1200 batches in all.
        kinds: names of `KINDS`; None for all that apply.
        data: examples for the kinds that need them: arrays x or (x, y), or a dataset, whose first
            batches are read at once. By default the trainer's `val_dataset`, else its training
            arrays. A plain `fit` shows its data to no callback, so without `data` these kinds are
            left out.
        condition: one or more labels or other conditions to sample with, in turn; by default the
            classes in `data`. Its old name, `labels`, still works, with a warning.
        tokenizer: an object with `decode(ids)`, for texts; without one, ids are written.
        prompt: a text or ids with which all texts begin.
        value_range: (low, high), the values of black and white; by default those of `data`.
        image_shape: the shape of images that the model sees as vectors, such as (28, 28).
        sampling: further arguments of `model.sample`, such as `{"num_steps": 20}`.
        units: a dict of units by metric, for the loss curves.
        animate: whether to write GIFs.
        seed: the seed of the noise.

    Raises:
        ValueError: for an unknown kind, numbers below 1, or neither epochs nor steps.
        ImportError: if matplotlib or Pillow isn't installed.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak
        from artifex_keras import networks

        x = np.random.default_rng(0).uniform(size=(16, 4, 4, 1)).astype("float32")
        shape, hidden = (4, 4, 1), (8,)
        encoder = networks.mlp_encoder(shape, 2, hidden)
        vae = ak.VAE(encoder, networks.mlp_decoder(2, shape, hidden))
        vae.compile("adam")
        draw = ak.callbacks.VisualizationCallback("pictures", data=x, kinds=["samples"])
        vae.fit(x, verbose=0, callbacks=[draw])
        assert (draw.save_dir / "epoch-0001-samples.png").exists()
        ```
    """

    def __init__(
        self,
        save_dir: FilePath,
        every_n_epochs: int = 1,
        num_samples: int = 16,
        *,
        every_n_steps: int | None = None,
        kinds: Sequence[str] | None = None,
        data: Data = None,
        condition: Tensor = None,
        tokenizer: Any = None,
        prompt: Any = None,
        value_range: Limits | None = None,
        image_shape: tuple[int, ...] | None = None,
        sampling: Mapping[str, Any] | None = None,
        units: Mapping[str, str] | None = None,
        animate: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        _check_installed()
        self.every_n_epochs = integer("every_n_epochs", every_n_epochs, minimum=1, optional=True)
        self.every_n_steps = integer("every_n_steps", every_n_steps, minimum=1, optional=True)
        if every_n_epochs is None and every_n_steps is None:
            raise ValueError("One of `every_n_epochs` and `every_n_steps` must be a number.")
        self.kinds = _checked_kinds(kinds)
        self.save_dir = user_path(save_dir)
        self.animate = animate
        self.data = None if data is None else examples(data)
        self.settings = {
            "num_samples": integer("num_samples", num_samples, minimum=1),
            "condition": condition,
            "tokenizer": tokenizer,
            "prompt": prompt,
            "value_range": value_range,
            "image_shape": image_shape,
            "sampling": dict(sampling or {}),
            "units": units,
            "seed": seed,
        }
        self._reset()

    def _reset(self):
        self._epochs, self._history = [], {}
        self._fixed = {"limits": None, "bounds": None}
        self._epoch = self._epoch_start = self._steps = 0
        self._examples = None
        self._warned = set()
        self._last_stamp = None  # the stamp of the last pictures

    # Schedule

    def on_train_begin(self, logs=None):
        self._reset()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        known = (self.params or {}).get("steps")
        if known:
            self._epoch_start = epoch * known
            self._steps = max(self._steps, self._epoch_start)

    def on_train_batch_begin(self, batch, logs=None):
        self._advance(self._epoch_start + batch)

    def on_epoch_end(self, epoch, logs=None):
        steps = self._steps + getattr(self.running_model, "steps_per_execution", 1)
        known = (self.params or {}).get("steps")
        if known:  # the last execution may have been shorter, and the epoch not a whole one
            steps = min(steps, self._epoch_start + known)
        self._epoch, self._epoch_start = epoch + 1, steps
        self._add_to_history(epoch, logs or {})
        if self.every_n_epochs and (epoch + 1) % self.every_n_epochs == 0:
            self._steps = steps
            self._draw(f"epoch-{epoch + 1:04d}", f"epoch {epoch + 1}")
        else:
            self._advance(steps)

    def _advance(self, steps):
        before, self._steps = self._steps, steps
        every = self.every_n_steps
        if every and steps // every > before // every:
            self._draw(f"epoch-{self._epoch:04d}_step-{steps:08d}", f"step {steps}")

    def on_train_end(self, logs=None):
        for path in self._animations() if self._last_stamp else ():
            moving = f"{path.stem}_animated"
            self._track(lambda tracker, p=path, n=moving: tracker.picture(n, p, self._steps))

    def _add_to_history(self, epoch, logs):
        """Adds a row to the history, NaN for metrics that it lacks.

        Drops earlier rows of this epoch and later ones, of a run that was stopped within it.
        """
        kept = sum(earlier < epoch for earlier in self._epochs)
        self._epochs = [*self._epochs[:kept], epoch]
        for name in {**self._history, **logs}:
            values = self._history.get(name, [float("nan")] * kept)
            self._history[name] = [*values[:kept], float(logs.get(name, "nan"))]

    # Pictures

    def _draw(self, stamp, moment):
        view = self._view()
        chosen = self.kinds or list(KINDS)
        for name in chosen:
            kind = KINDS[name]
            if self._try(name, lambda kind=kind: kind.applies(view)):
                self._try(name, lambda kind=kind, name=name: self._draw_kind(
                    view, name, kind, stamp, moment))  # fmt: skip
            elif self.kinds and self._epochs:  # the losses wait for the first epoch
                self._warn(name, f"is left out: it needs {kind.needs}.")
        self._last_stamp = stamp
        frames = max(len(self._pictures(name)) for name in ANIMATED)
        if frames & (frames - 1) == 0:  # 2, 4, 8, ..., so that a run that is killed has them too
            self._animations()

    def _draw_kind(self, view, name, kind, stamp, moment):
        content = kind.content(view)  # on every process: a distributed model needs them all
        if processes.index():
            return
        path = self.save_dir / f"{stamp}-{name}{kind.suffix}"
        kind.draw(view, content, path, f"{kind.title}, {moment}")
        if kind.suffix == ".txt":
            self._track(lambda tracker: tracker.text(name, list(map(str, content)), self._steps))
        else:
            self._track(lambda tracker: tracker.picture(name, path, self._steps))

    def _view(self):
        model = self.model  # fetches what a compiled run holds
        if self._examples is None:
            self._examples = self._try("data", self._find_examples) or (None, None)
        x, y = self._examples
        return View(
            model, x, y, history=self._history, epochs=self._epochs, fixed=self._fixed,
            **self.settings,
        )  # fmt: skip

    def _find_examples(self):
        if self.data is not None:
            return self.data
        given = getattr(self.trainer, "val_dataset", None)
        if given is None:
            given = getattr(getattr(self.trainer, "train_dataset", None), "arrays", None)
        return examples(given)

    def _pictures(self, name):
        """The files of a kind up to the last pictures drawn, in the order of time."""
        found = {_parse_stamp(path.name, name): path for path in self.save_dir.glob("epoch-*.png")}
        last = _parse_stamp(f"{self._last_stamp}-{name}.png", name)
        return [found[when] for when in sorted(filter(None, found)) if when <= last]

    def _animations(self):
        """Writes a GIF for each kind with several pictures. Returns the paths."""
        if processes.index() or not self.animate:
            return []
        written = []
        for name in ANIMATED:
            files = self._pictures(name)
            if len(files) > 1:
                path = self.save_dir / f"{name}.gif"
                written.append(self._try(name, lambda f=files, p=path: pictures.animation(f, p)))
        return [path for path in written if path is not None]

    def _track(self, send):
        for tracker in tracking.active(self.running_model):
            send(tracker)

    # Failures

    def _try(self, name, work):
        """The result of `work()`, or None and a warning: a picture must not end a run."""
        try:
            return work()
        except Exception as error:
            self._warn(name, f"could not be drawn: {type(error).__name__}: {error}")
            return None

    def _warn(self, name, what):
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"VisualizationCallback: {name!r} {what}", stacklevel=2)

    # Resuming

    def get_state(self):
        return {
            "epochs": list(self._epochs),
            "history": {name: list(values) for name, values in self._history.items()},
            "steps": self._steps,
            "epoch_start": self._epoch_start,
            "drawn": self._last_stamp,
            **self._fixed,
        }

    def set_state(self, state):
        """Continues from a state of `get_state`: scales, count of steps, curves."""
        self._epochs = [int(epoch) for epoch in state["epochs"]]
        self._history = {name: list(values) for name, values in state["history"].items()}
        self._steps, self._last_stamp = int(state["steps"]), state["drawn"]
        self._epoch_start = int(state["epoch_start"])
        self._fixed = {name: state[name] for name in ("limits", "bounds")}


def _parse_stamp(file, name):
    """`(epochs, steps)` of a picture of the kind, from its file name; None for other files."""
    found = re.fullmatch(rf"epoch-(\d+)(?:_step-(\d+))?-{name}\.png", file)
    return found and (int(found[1]), int(found[2] or 0))


def _check_installed():
    for module, package in (("matplotlib", "matplotlib"), ("PIL", "pillow")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(
                f"`{module}` is needed for pictures and not installed: pip install {package}"
            ) from error


def _checked_kinds(kinds):
    if kinds is None:
        return None
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list | tuple):
        raise broken_rule("kinds", kinds, "a list of kinds of pictures or None")
    for name in kinds:
        if name not in KINDS:
            raise ValueError(unknown_name(name, KINDS, "kind of picture"))
    return list(kinds)
