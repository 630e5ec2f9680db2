"""Training from the shell: from settings to a trainer, and from a trainer to a filled folder."""

import contextlib
import csv
import io
import math
import sys
import warnings
from pathlib import Path

import keras
import numpy as np

from artifex_keras.arguments import lookup
from artifex_keras.atomic import write_text
from artifex_keras.backend import processes
from artifex_keras.callbacks import BaseCallback
from artifex_keras.callbacks.checkpoint.failures import cause_of
from artifex_keras.config import TrainingConfig
from artifex_keras.datasets.shards import WILD
from artifex_keras.folder_lock import FolderLock
from artifex_keras.remote import local_path
from artifex_keras.rl import SFT
from artifex_keras.rl.base import FineTuning
from artifex_keras.shell import contexts
from artifex_keras.shell.about import session
from artifex_keras.shell.data import augmented_images, is_table, load_source, rescale_for
from artifex_keras.shell.folder import Run, lock_new_folder, save_atomically
from artifex_keras.shell.recipes import FAMILIES
from artifex_keras.shell.settings import SECTIONS, candidates, merge, validate
from artifex_keras.trust import reject_links
from artifex_keras.utils import warn

__all__ = ["examine", "prepare", "resume", "train"]

PLACES = (  # what may be the path of a file
    ("data", "source"),
    ("data", "tokenizer"),
    ("network", "from"),
    ("model", "reward"),
    ("model", "teacher"),
)
SHORT = 100  # an epoch of fewer steps is one tick of a progress bar
LOG_SECONDS = 5.0  # between two lines of progress where nobody sees a bar move


def prepare(name, requested, *, warn_only=False, **known):
    """`(config, dataset, trainer)` of a run: the complete config, and what it describes.

    `known` are options of the data that the config doesn't have, such as the scaling of a table;
    `warn_only` lets a plan be made of what memory can't hold.
    Where another family learns data of this kind in its place, the run becomes that family's.
    """
    recipe = lookup(FAMILIES, name, "family")
    requested = validate(requested, *candidates(recipe))
    dataset = load_source(recipe, requested, **known)
    name = recipe.fallbacks.get(dataset.kind, name)
    recipe = FAMILIES[name]
    requested = validate(requested, recipe)
    dataset = rescale_for(recipe, dataset)
    config = merge(recipe.defaults(dataset, requested), requested)
    config = {"family": name, **{section: config[section] for section in SECTIONS}}
    for section, key in PLACES:
        if config[section].get(key) is not None:
            config[section][key] = _absolute_path(config[section][key])
    if config["training"].get("seed") is None:
        number = processes.on_first_process(lambda: np.random.default_rng().integers(2**31 - 1))
        config["training"]["seed"] = int(number)
    if not any(key.startswith("save_") for key in config["training"]):
        config["training"] |= {"save_frequency": None, "save_every_n_minutes": 1.0}
    training = TrainingConfig.from_dict(config["training"])
    config["training"] = training.to_dict()
    keras.utils.set_random_seed(training.seed)
    _check_attention(recipe, config, dataset, warn_only)
    arguments = recipe.networks(dataset, config["network"], config["model"])
    settings = {key: v for key, v in config["model"].items() if key not in recipe.model_keys}
    trainer = recipe.trainer(
        recipe.model(**{**settings, **arguments}),
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


def examine(name, requested):
    """What would go wrong in a run, or badly, a list of texts; nothing is trained or written."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        config, _, trainer = prepare(name, requested, warn_only=True)
    found = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    return found + list(_untrained(config, trainer)) + trainer.check()


def _untrained(config, trainer):
    """Says that fine-tuning starts from a network that was never trained."""
    learns = isinstance(trainer.model, FineTuning) and not isinstance(trainer.model, SFT)
    if learns and config["network"].get("from") is None:
        yield (
            f"{type(trainer.model).__name__} starts from a network that was never trained: its "
            "answers are noise, and there is little to learn from them. Train one first "
            "(artifex-keras train sft) and start from it with --from RUN."
        )


def _check_attention(recipe, config, dataset, warn_only):
    """Says before training that the context of a model of text doesn't fit into memory."""
    network = config["network"]
    if recipe.attention is None or "num_heads" not in network:
        return
    rows, tokens = recipe.attention(config, dataset)
    try:
        contexts.require(rows, tokens, network["num_heads"], network["num_layers"])
    except ValueError as error:
        if not warn_only:
            raise
        warn(str(error))


def _absolute_path(value):
    """The absolute path of an existing file, also of `file.py:function`; other values unchanged."""
    if isinstance(value, list):
        return [_absolute_path(each) for each in value]
    if WILD & set(str(value)):
        return str(Path.cwd() / Path(value).expanduser())
    path, python, function = str(value).partition(".py:")
    path = Path(path + python.rstrip(":"))
    return f"{path.resolve()}{':' * bool(function)}{function}" if path.exists() else value


def train(name, requested, output=None, say=print):
    """Trains a model of a family and fills a folder.

    Args:
        name: a row of `FAMILIES`.
        requested: settings by section; what is left out is what suits the data.
        output: the folder; one that is in use gets a number.
        say: is called with each line of progress.

    Returns:
        `(run, interrupted)`: None, or the signal that ended the run early. An interrupted run is
        complete up to its last epoch, and `resume` continues it.
    """
    if output is not None:
        local_path(output, "--output")
    config, dataset, trainer = prepare(name, requested)
    for text in _untrained(config, trainer):
        warn(text)
    with contextlib.ExitStack() as stack:

        def take():
            return str(stack.enter_context(lock_new_folder(config["family"], output)).folder)

        run = Run(Path(processes.on_first_process(take)), config)
        run.write_config()
        run.write_columns(dataset)
        try:
            return run, _trained(run, dataset, trainer, say, resume=False)
        except BaseException:
            if processes.count() == 1 and not int(trainer.model.step):
                stack.close()  # the lock lies in the folder
                run.discard()
            raise


def resume(folder, requested=None, say=print):
    """Continues the run in a folder at the step after its newest checkpoint.

    Args:
        folder: of a run that `train` began.
        requested: settings by section that change, such as `num_epochs`.
        say: is called with each line of progress.

    Returns:
        as `train` does.

    Raises:
        FolderInUse: if another process trains this run.
    """
    run = Run.at(folder)
    reject_links(run.folder)
    with contextlib.ExitStack() as stack:

        def take():
            stack.enter_context(FolderLock(run.folder))

        processes.on_first_process(take)
        config = merge(run.sections, requested or {})
        table = run.columns is not None and is_table(config["data"]["source"])
        known = {"columns": run.columns} if table else {}
        run.config, dataset, trainer = prepare(run.config["family"], config, **known)
        run.write_config()
        return run, _trained(run, dataset, trainer, say, resume=True)


def _trained(run, dataset, trainer, say, resume):
    """Trains, and keeps in the folder when and how. Gives the signal that ended it, or None."""
    with session(run, trainer, dataset) as end:
        interrupted = _run_training(run, dataset, trainer, say, resume)
        end(interrupted or "finished")
    return interrupted


def _run_training(run, dataset, trainer, say, resume):
    """Trains and fills the folder of a run. Gives the signal that ended it early, or None.

    All processes train; the first one writes the files.
    """
    if processes.index():
        say = _say_nothing
    trainer.folder = run.folder  # of trackers' files
    if trainer.config.checkpoint_dir is None:
        trainer.config.checkpoint_dir = run.folder / "checkpoints"
    say(f"{dataset}")
    trained = sum(math.prod(weight.shape) for weight in trainer.model.trainable_weights)
    say(
        f"{run.config['family']} with {trained:,} weights to train; "
        f"{trainer.config.num_epochs} epochs of {trainer.steps_per_epoch} steps into {run.folder}"
    )
    if note := run.recipe.note(run.config, dataset):
        say(note)
    history = HistoryFile(run.folder / "history.csv")
    trainer.callbacks += [history]
    if trainer.config.verbose == "auto" and (trainer.steps_per_epoch or SHORT) < SHORT:
        trainer.callbacks += [EpochBar(run.recipe.progress_metrics)]
        trainer.config.verbose = 0
    trainer.train(resume=resume, end_on_sigterm=False)
    if resume and trainer.interrupted is None and not history.added:
        say(f"\nThe run has its {trainer.config.num_epochs} epochs: --epochs makes it longer.")
    go_on = f"Go on with: artifex-keras train --resume {run.folder}"
    if trainer.interrupted == "SIGTERM":  # whoever sends it doesn't wait long
        say(f"Interrupted in epoch {len(trainer.model.history.epoch)}. {go_on}")
        return trainer.interrupted
    if processes.index():
        return trainer.interrupted
    with processes.undistributed():
        save_atomically(trainer.model, run.folder / "model.keras")
        # A model sharded over several processes is loaded again, for this process only.
        pictures = run.draw(trainer.model if processes.count() == 1 else run.model(), dataset)
    if trainer.interrupted:
        say(f"Interrupted in epoch {len(trainer.model.history.epoch)}; complete up to there.")
        say(go_on)
    for path in (run.folder / "model.keras", run.folder / "history.csv", *pictures):
        say(f"  {path}")
    return trainer.interrupted


def _say_nothing(line):
    """Drops a line: of several processes only the first one reports."""


class HistoryFile(BaseCallback):
    """A table with a row for each epoch of the whole run, as `pictures.loss_curves` reads it."""

    def __init__(self, path):
        super().__init__()
        self.path, self.added = path, 0  # epochs of this process

    def on_train_begin(self, logs=None):
        self.rows = []

    def on_epoch_end(self, epoch, logs=None):
        self.rows.append({"epoch": epoch, **logs})
        self.added += 1
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
        text = io.StringIO()
        table = csv.DictWriter(text, columns)
        table.writeheader()
        table.writerows(self.rows)
        try:
            write_text(self.path, text.getvalue())
        except OSError as error:  # a full disk: the next epoch writes all rows
            warnings.warn(
                f"{str(self.path)!r} could not be written: {cause_of(error)}. The run continues.",
                stacklevel=2,
            )


class EpochBar(keras.callbacks.Callback):
    """Keras's progress bar with a tick for each epoch, for epochs of a second or less."""

    def __init__(self, metrics):
        super().__init__()
        self.metric_names = metrics

    def on_train_begin(self, logs=None):
        moving = "ipykernel" in sys.modules or sys.stdout.isatty()
        self.bar = keras.utils.Progbar(
            self.params["epochs"],
            unit_name="epoch",
            verbose=0 if processes.index() else 1,
            interval=0.05 if moving else LOG_SECONDS,
            stateful_metrics=self.metric_names,
        )
        self.bar.update(0)  # the first epoch takes longer: its step is compiled

    def on_epoch_end(self, epoch, logs=None):
        values = [(name, logs[name]) for name in self.metric_names if name in logs]
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        self.bar.update(epoch + 1, values, finalize=last)
