"""Training from the shell: from settings to a trainer, and from a trainer to a filled folder."""

import csv
import math
import sys
from pathlib import Path

import keras
import numpy as np

from artifex_keras.arguments import lookup
from artifex_keras.backend import processes
from artifex_keras.callbacks import BaseCallback
from artifex_keras.config import TrainingConfig
from artifex_keras.shell.data import augmented_images, load_source, rescale_for
from artifex_keras.shell.folder import Run, free_folder, numbered_folder, save_atomically
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.shell.settings import SECTIONS, candidates, merge, validate

__all__ = ["prepare", "resume", "train"]

PLACES = (  # what may be the path of a file
    ("data", "source"),
    ("data", "tokenizer"),
    ("network", "from"),
    ("model", "reward"),
)
SHORT = 100  # an epoch of fewer steps is one tick of a progress bar
LOG_SECONDS = 5.0  # between two lines of progress where nobody sees a bar move


def prepare(name, asked):
    """`(config, dataset, trainer)` of a run: the whole config, and all made that it describes.

    Data of a kind that another family learns in this one's place are left to that one.
    """
    family = lookup(FAMILIES, name, "family")
    asked = validate(asked, *candidates(family))
    dataset = load_source(family, asked)
    name = family.instead.get(dataset.kind, name)
    family = FAMILIES[name]
    asked = validate(asked, family)
    dataset = rescale_for(family, dataset)
    config = merge(family.defaults(dataset, asked), asked)
    config = {"family": name, **{section: config[section] for section in SECTIONS}}
    for section, key in PLACES:
        if config[section].get(key) is not None:
            config[section][key] = _whole_path(config[section][key])
    if config["training"].get("seed") is None:
        drawn = processes.on_first_process(lambda: np.random.default_rng().integers(2**31 - 1))
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
    folder = processes.on_first_process(lambda: free_folder(output or numbered_folder(family)))
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
    config = merge(run.sections, asked or {})
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
