"""A run from the shell: what it is asked for, and the folder that it fills."""

import csv
import dataclasses
import math
import os
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

from artifex_keras import datasets, pictures
from artifex_keras.backend import processes
from artifex_keras.callbacks import BaseCallback
from artifex_keras.config import RULES, TrainingConfig, dump_yaml, parse_yaml
from artifex_keras.datasets.dataset import rescale
from artifex_keras.distributed.launcher import note_run
from artifex_keras.shell.recipes import FAMILIES, draw_samples
from artifex_keras.tracking import TRACKERS
from artifex_keras.utils import lookup, unknown_name

__all__ = ["Run", "free_folder", "numbered_folder", "place", "prepare", "resume", "train"]

SECTIONS = ("data", "network", "model", "trainer", "training", "tracking")
LOADING = (
    *("validation", "test", "seed", "image_size", "channels"),
    *("length", "tokenizer", "count", "prompt_key", "completion_key"),
)
DATA_KEYS = ("source", *LOADING, "augment")
AT_THE_TOP = {"reward": "model"}  # keys that may stand outside of their section
PLACES = (  # what may be the path of a file
    ("data", "source"),
    ("data", "tokenizer"),
    ("network", "from"),
    ("model", "reward"),
)
TRAINER_KEYS = ("gradient_accumulation_steps", "mixed_precision")
SHORT = 100  # an epoch of fewer steps is one tick of a progress bar
LOG_SECONDS = 5.0  # between two lines of progress where nobody sees a bar move


# What a run is asked for


def keys_of(*families):
    """The keys of a config by section; of several families all that one of them has."""
    keys = {"data": DATA_KEYS, "training": tuple(RULES), "tracking": tuple(TRACKERS)}
    for family in families:
        options = [name for name in family.model.options if name not in ("seed", "latent_dim")]
        own = {
            "network": family.network_keys,
            "model": (*family.made_of, *options),
            "trainer": (*family.knobs, *TRAINER_KEYS),
        }
        for section, names in own.items():
            keys[section] = tuple(dict.fromkeys((*keys.get(section, ()), *names)))
    return keys


def candidates(family):
    """The family and those that learn data of other kinds in its place."""
    return (family, *(FAMILIES[name] for name in family.instead.values()))


def checked(asked, *families):
    """`asked`, `{section: {key: value}}`, with all sections there.

    Raises:
        ValueError: for a section or key that there isn't, with the nearest ones.
    """
    keys = keys_of(*families)
    asked = _at_home(asked)
    for section, values in asked.items():
        if section not in SECTIONS:
            raise ValueError(unknown_name(section, (*SECTIONS, "family"), "section of the config"))
        if values is not None and not isinstance(values, dict):
            raise ValueError(f"`{section}` must be a section of keys. Received: {values!r}.")
        for key in values or {}:
            if key not in keys[section]:
                raise ValueError(unknown_name(key, keys[section], f"key of `{section}`"))
    return {section: dict(asked.get(section) or {}) for section in SECTIONS}


def _at_home(asked):
    """`asked` with keys of the top in their sections."""
    inside = {name: value for name, value in asked.items() if name not in AT_THE_TOP}
    for name in asked.keys() & AT_THE_TOP.keys():
        section = AT_THE_TOP[name]
        inside[section] = {name: asked[name], **(inside.get(section) or {})}
    return inside


def place(family, asked, key, value):
    """Puts a value into the section of `asked` that its key belongs to.

    "section.key" and "optimizer.beta1" name a place; a bare key is looked for.
    """
    keys = keys_of(*candidates(family))
    section, *path = key.split(".")
    if section not in SECTIONS:
        found = [s for s in reversed(SECTIONS) if section in keys[s]]
        if not found:
            known = {name for names in keys.values() for name in names}
            raise ValueError(unknown_name(section, known, "key"))
        section, path = found[0], [section, *path]
    if not path:
        raise ValueError(f"{key!r} is a section: say which key, as in {key}.{keys[section][0]}.")
    values = asked.setdefault(section, {})
    for name in path[:-1]:
        inner = values.get(name)
        values[name] = {"type": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[name]
    values[path[-1]] = value


def merged(defaults, asked):
    """`defaults` with what was asked for in their place, key by key."""
    result = dict(defaults)
    for key, value in asked.items():
        inner = result.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        # Another type of optimizer or scheduler has other arguments.
        alike = both and value.get("type", inner.get("type")) == inner.get("type")
        result[key] = merged(inner, value) if alike else value
    return result


def load_data(family, config, source=None, **known):
    """The dataset that a config describes, or that of `source`, in the family's range."""
    return suited(family, loaded(family, config, source, **known))


def loaded(family, config, source=None, **known):
    """The dataset that a config describes, or that of `source`; options that are `known` already
    stand in place of the config's."""
    data, start = config["data"], config["network"].get("from")
    options = {key: data[key] for key in LOADING if data.get(key) is not None} | known
    source = data.get("source") if source is None else source
    if source is None:
        raise ValueError("Training needs data: --data digits, a file, or a folder of images.")
    if start is not None and "tokenizer" not in options:
        options["tokenizer"] = tokenizer_of(start)
    return family.load(source, **options)


def tokenizer_of(start):
    """The tokenizer that the run of a model has learned with.

    Raises:
        ValueError: for a model outside the folder of a run.
        FileNotFoundError: for what isn't there.
    """
    if not Path(start).exists():
        raise FileNotFoundError(f"There is no run or model {str(start)!r} to start from.")
    folder = Path(start) if Path(start).is_dir() else Path(start).parent
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"`from` must be the folder of a run, or there must be its `tokenizer`, as in "
            f"--tokenizer FILE. Received: from={str(start)!r}."
        )
    return Run.at(folder).dataset().tokenizer


def suited(family, dataset):
    """`dataset` in the range of the family, if that learns data of its kind."""
    if dataset.kind not in family.kinds:
        raise ValueError(
            f"{family.model.__name__} learns {' or '.join(family.kinds)}. "
            f"Received: {dataset.kind} in {dataset.name!r}."
        )
    return rescale(dataset, family.scale) if dataset.kind == "images" else dataset


def prepare(name, asked):
    """`(config, dataset, trainer)` of a run: the whole config, and all made that it describes.

    Data of a kind that another family learns in this one's place are left to that one.
    """
    family = lookup(FAMILIES, name, "family")
    asked = checked(asked, *candidates(family))
    dataset = loaded(family, asked)
    name = family.instead.get(dataset.kind, name)
    family = FAMILIES[name]
    asked = checked(asked, family)
    dataset = suited(family, dataset)
    config = merged(family.defaults(dataset, asked), asked)
    config = {"family": name, **{section: config[section] for section in SECTIONS}}
    for section, key in PLACES:
        if config[section].get(key) is not None:
            config[section][key] = _whole_path(config[section][key])
    if config["training"].get("seed") is None:
        drawn = processes.of_the_first(lambda: np.random.default_rng().integers(2**31 - 1))
        config["training"]["seed"] = int(drawn)
    if not any(key.startswith("save_") for key in config["training"]):
        config["training"] |= {"save_frequency": None, "save_every_n_minutes": 1.0}
    training = TrainingConfig.from_dict(config["training"])
    config["training"] = training.to_dict()
    keras.utils.set_random_seed(training.seed)
    made = family.networks(dataset, config["network"], config["model"])
    settings = {key: v for key, v in config["model"].items() if key not in family.made_of}
    trainer = family.trainer(
        family.model(**{**settings, **made}),
        training,
        dataset.given("train"),
        dataset.given("validation"),
        tracking=config["tracking"] or None,
        **config["trainer"],
    )
    trainer.check_data()
    if config["data"].get("augment"):
        trainer.train_dataset = augmented_images(dataset, config, trainer.batch_size)
    return config, dataset, trainer


def _whole_path(said):
    """Paths of files that are there from the root on, `file.py:function` among them; all else as it
    is said."""
    if isinstance(said, list):
        return [_whole_path(each) for each in said]
    path, python, function = str(said).partition(".py:")
    path = Path(path + python.rstrip(":"))
    return f"{path.resolve()}{':' * bool(function)}{function}" if path.exists() else said


def augmented_images(dataset, config, batch_size):
    """The images to train on, altered as the key `augment` of the section `data` says."""
    if dataset.kind != "images":
        raise ValueError(f"`augment` is for images. Received: {dataset.kind} in {dataset.name!r}.")
    return datasets.augmented(
        dataset.train,
        layers=config["data"]["augment"],
        batch_size=batch_size,
        shuffle=config["training"]["shuffle"],
        seed=config["training"]["seed"],
        value_range=(-1.0, 1.0) if dataset.scale == "symmetric" else (0.0, 1.0),
    )


# The folder


@dataclasses.dataclass
class Run:
    """A folder with `config.yaml`, `history.csv`, pictures and `model.keras`."""

    folder: Path
    config: dict

    @classmethod
    def at(cls, folder):
        """The run that fills `folder`. Raises a ValueError if there is none."""
        path = Path(folder) / "config.yaml"
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} is not the folder of a run: no config.yaml in it.")
        return cls(Path(folder), parse_yaml(path.read_text(encoding="utf-8")))

    @property
    def family(self):
        """The row of `FAMILIES`."""
        return lookup(FAMILIES, self.config.get("family"), "family")

    def dataset(self, source=None):
        """The data of the run, or others treated like them."""
        if source is None:
            return load_data(self.family, self.sections)
        known = {}
        if {"tokens", "rows"} & set(self.family.kinds) and (own := self.dataset()).tokenizer:
            # Another text is read with the ids that the model has learned.
            known = {"tokenizer": own.tokenizer}
            if own.kind == "tokens":
                known["length"] = own.shape[0]
        kept = {key: v for key, v in self.sections["data"].items() if key.endswith("_key")}
        return load_data(self.family, {**self.sections, "data": kept}, source, **known)

    @property
    def sections(self):
        """The config by section, with all of them there."""
        return {section: self.config.get(section) or {} for section in SECTIONS}

    def model(self):
        """The trained model, as it was saved."""
        path = self.folder / "model.keras"
        if not path.is_file():
            raise ValueError(f"There is no model.keras in {str(self.folder)!r}: was it trained?")
        return keras.saving.load_model(path)

    def write_config(self):
        """Writes `config.yaml`, from which the run can be repeated.

        Of several processes the first one does.
        """
        processes.of_the_first(self._write_config)

    def _write_config(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        head = f"# made with keras {keras.__version__} on {keras.config.backend()}\n"
        path = self.folder / "config.yaml"
        path.write_text(head + dump_yaml(self.config), encoding="utf-8")
        note_run(self.folder)

    def draw(self, model, dataset):
        """Draws the loss, samples, and what else the family has. Gives the paths."""
        history, seed = self.folder / "history.csv", self.config["training"]["seed"]
        name, drawn = f"{self.family.model.__name__} trained on {dataset.name}", []
        if history.stat().st_size:
            options = {"units": self.family.units, "first": self.family.trainer.watched}
            path = self.folder / "loss.png"
            drawn.append(pictures.loss_curves(history, path, title=name, **options))
        if dataset.kind != "rows":  # of which the family shows more
            count = {"images": 64, "tokens": 8}.get(dataset.kind, 1000)
            samples = ops.convert_to_numpy(self.family.sampled(model, dataset, count, seed))
            path = self.folder / "samples.png"
            drawn.append(draw_samples(samples, dataset, path, title=f"Samples: {name}"))
        drawn += self.family.draw(model, dataset, self.folder)
        return [path for path in drawn if path is not None]


def free_folder(wanted):
    """`wanted`, or if there is something in it `wanted-2`, `wanted-3`, ..."""
    folder, number = Path(wanted), 1
    while folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        number += 1
        folder = Path(wanted).with_name(f"{Path(wanted).name}-{number}")
    return folder


def numbered_folder(name):
    """`runs/vae-1` for the name "vae", or the number after the highest there is."""
    taken = [path.name.removeprefix(f"{name}-") for path in Path("runs").glob(f"{name}-*")]
    return Path("runs") / f"{name}-{1 + max((int(n) for n in taken if n.isdigit()), default=0)}"


# Training


def train(name, asked, output=None, say=print):
    """Trains a model of a family and fills a folder.

    Args:
        name: a row of `FAMILIES`.
        asked: settings by section; what is left out is what suits the data.
        output: the folder; one that is in use gets a number.
        say: is told what goes on, line by line.

    Returns:
        `(run, interrupted)`: None, or the signal that ended the run early. An interrupted run is
        complete but for the epochs it hasn't made, and `resume` goes on with it.
    """
    config, dataset, trainer = prepare(name, asked)
    family = config["family"]
    folder = processes.of_the_first(lambda: free_folder(output or numbered_folder(family)))
    run = Run(folder, config)
    run.write_config()
    return run, _trained(run, dataset, trainer, say, resume=False)


def resume(folder, asked=None, say=print):
    """Goes on with the run in a folder at the step after its newest checkpoint.

    Args:
        folder: of a run that `train` began.
        asked: settings by section that shall be others now, such as `num_epochs`.
        say: is told what goes on, line by line.

    Returns:
        as `train` does.
    """
    run = Run.at(folder)
    config = merged(run.sections, asked or {})
    run.config, dataset, trainer = prepare(run.config["family"], config)
    run.write_config()
    return run, _trained(run, dataset, trainer, say, resume=True)


def _trained(run, dataset, trainer, say, resume):
    """Makes a run's epochs and fills its folder. Gives the signal that ended it early, or None.

    Of several processes all train, and the first one does the rest.
    """
    if processes.index():
        say = _nothing
    trainer.folder = run.folder  # of trackers' files
    if trainer.config.checkpoint_dir is None:
        trainer.config.checkpoint_dir = run.folder / "checkpoints"
    say(f"{dataset}")
    trained = sum(math.prod(weight.shape) for weight in trainer.model.trainable_weights)
    say(
        f"{run.config['family']} with {trained:,} weights to train; "
        f"{trainer.config.num_epochs} epochs of {trainer.steps_per_epoch} steps into {run.folder}"
    )
    trainer.callbacks += [HistoryFile(run.folder / "history.csv")]
    if trainer.config.verbose == "auto" and (trainer.steps_per_epoch or SHORT) < SHORT:
        trainer.callbacks += [EpochBar(run.family.shown)]
        trainer.config.verbose = 0
    trainer.train(resume=resume)
    go_on = f"Go on with: artifex-keras train --resume {run.folder}"
    if trainer.interrupted == "SIGTERM":  # whoever sends it doesn't wait long
        say(f"Interrupted in epoch {len(trainer.model.history.epoch)}. {go_on}")
        return trainer.interrupted
    if processes.index():
        return trainer.interrupted
    with processes.undistributed():
        save_atomically(trainer.model, run.folder / "model.keras")
        # A model that lies over several processes is read again, for this one alone.
        drawn = run.draw(trainer.model if processes.count() == 1 else run.model(), dataset)
    if trainer.interrupted:
        say(f"Interrupted in epoch {len(trainer.model.history.epoch)}; complete up to there.")
        say(go_on)
    for path in (run.folder / "model.keras", run.folder / "history.csv", *drawn):
        say(f"  {path}")
    return trainer.interrupted


def _nothing(line):
    """What all processes but the first say."""


def save_atomically(model, path):
    """Saves `model` so that `path` holds all of it, or what it held before."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.unfinished.keras")
    try:
        model.save(unfinished)
        with open(unfinished, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class HistoryFile(BaseCallback):
    """A table with a row for each epoch of the whole run, as `pictures.loss_curves` reads it."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_begin(self, logs=None):
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch, **logs})
        self._write()

    def get_state(self):
        return {"rows": self.rows}

    def set_state(self, state):
        self.rows = state["rows"]
        self._write()

    def _write(self):
        if processes.index():
            return
        columns = dict.fromkeys(key for row in self.rows for key in row)
        with open(self.path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(self.rows)


class EpochBar(keras.callbacks.Callback):
    """Keras's progress bar with a tick for each epoch, for epochs of a second or less."""

    def __init__(self, shown):
        super().__init__()
        self.shown = shown

    def on_train_begin(self, logs=None):
        moving = "ipykernel" in sys.modules or sys.stdout.isatty()
        self.bar = keras.utils.Progbar(
            self.params["epochs"],
            unit_name="epoch",
            verbose=0 if processes.index() else 1,
            interval=0.05 if moving else LOG_SECONDS,
            stateful_metrics=self.shown,
        )
        self.bar.update(0)  # the first epoch takes longer: its step is compiled

    def on_epoch_end(self, epoch, logs=None):
        values = [(name, logs[name]) for name in self.shown if name in logs]
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        self.bar.update(epoch + 1, values, finalize=last)
