"""A config turned into `compile` and `fit`."""

import contextlib
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from artifex_keras.aliases import Data
from artifex_keras.arguments import broken_rule, decay, integer, unknown_name
from artifex_keras.attributes import Spelled
from artifex_keras.backend import keras_internals, processes
from artifex_keras.callbacks.base import BaseCallback
from artifex_keras.callbacks.checkpoint import CheckpointCallback
from artifex_keras.callbacks.checkpoint.signals import end_process
from artifex_keras.callbacks.logging import LoggingCallback
from artifex_keras.config import TrainingConfig
from artifex_keras.datasets.batches import SeededBatches
from artifex_keras.distributed import redistribute
from artifex_keras.mixed_precision import set_precision
from artifex_keras.models import GenerativeModel, checks
from artifex_keras.models.sources import packed
from artifex_keras.networks.recomputed import recompute
from artifex_keras.remote import is_address
from artifex_keras.tracking import Trackers
from artifex_keras.trainers.batches import (
    ArrayBatches,
    batches_per_epoch,
    first_batch,
    first_rows,
    from_files,
    is_arrays,
)
from artifex_keras.trainers.progress import verbosity

__all__ = ["Trainer", "set_average"]


class Trainer(Spelled):
    """Trains a family's model as a config says: `train()` is `model.compile` and `model.fit`.

    The model is compiled here, with the config's optimizer, so that mistakes show at once. `train`
    called again continues with the same optimizer.

    Args:
        model: a `GenerativeModel`.
        config: a `TrainingConfig`, or a dict of its fields.
        train_dataset: arrays, a tuple (x, y) or (x, y, sample_weight) of arrays, a dict of arrays,
            or batches in any form that `fit` takes: tf.data, PyDataset, grain, a torch DataLoader.
        val_dataset: the same, for validation after each epoch.
        callbacks: Keras callbacks; see `callbacks.BaseCallback` for hooks with the trainer.
        gradient_accumulation_steps: batches per update; schedules count updates.
        mixed_precision: True or "bfloat16" computes in bfloat16, "float16" in float16 with a scaled
            loss; False leaves the model as it was made; see `mixed_precision.set_precision`.
        tracking: `{name: {option: value}}`: wandb, mlflow, tensorboard and jsonl receive params,
            metrics every `config.log_frequency` steps, pictures, and the trained model; see
            `tracking.TRACKERS` for their options. Files go to `config.checkpoint_dir`, or to
            the working folder where that is None or an address. Keys are taken from the environment
            alone.
        distribution: a `keras.distribution` object, of `distributed.data_parallel` say, in force
            while this trainer compiles, trains and evaluates. The weights of a
            built model are sharded again, and stay so.

    Raises:
        ValueError: for what the model, the config or the data don't allow, and unknown arguments.

    Example:

        ```python
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        x = np.random.default_rng(0).uniform(size=(64, 6)).astype("float32")
        trainer = ak.Trainer(vae, {"num_epochs": 1, "verbose": 0}, x[:48], x[48:])
        history = trainer.train()
        print(trainer.evaluate()["loss"])
        ```
    """

    family = GenerativeModel
    # A family's trainer declares its further arguments here. None leaves the model's own value.
    model_options = ()  # attributes of the model that the trainer sets
    own_options = ()  # arguments that the model doesn't have
    rules = {}  # how a value is checked, where the model's attribute doesn't do it
    watched = "loss"  # what `save_best` goes by
    drop_remainder = False  # whether the last, smaller batch of a pass over arrays is left out
    _folder = None
    _kept = ()

    def __init__(
        self,
        model: keras.Model,
        config: TrainingConfig | Mapping[str, Any],
        train_dataset: Data,
        val_dataset: Data = None,
        *,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        gradient_accumulation_steps: int = 1,
        mixed_precision: bool | str = False,
        tracking: Any = None,
        distribution: Any = None,
        **options: Any,
    ):
        self.check_names(options)
        callbacks = _callbacks(callbacks)
        gradient_accumulation_steps = integer(
            "gradient_accumulation_steps", gradient_accumulation_steps, minimum=1
        )
        _check_distribution(distribution)
        self.options = dict.fromkeys((*self.model_options, *self.own_options)) | options
        self.check_model(model)
        Trackers(tracking)
        self.tracking = tracking
        self.model = model
        self.config = (
            config if isinstance(config, TrainingConfig) else TrainingConfig.from_dict(config)
        )
        self.callbacks = callbacks
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.distribution = distribution
        self._data, self.val_dataset = train_dataset, val_dataset
        with self._distributed():
            self._seed()
            set_precision(model, mixed_precision)
            self.configure()
            self._save_memory()
            if distribution is not None and model.built:
                redistribute(model, distribution)
            self._data = self.readable(train_dataset, training=True)
            if val_dataset is not None:
                self.val_dataset = self.readable(val_dataset, training=False)
            model.compile(**self.compile_arguments())

    def __init_subclass__(cls, **kwargs):
        """Lets `help` and editors see the options that a trainer declares as its arguments."""
        super().__init_subclass__(**kwargs)
        if cls.__init__ is Trainer.__init__:
            cls.__signature__ = _signature((*cls.model_options, *cls.own_options))

    def check_names(self, options):
        """Raises a ValueError for an argument that this trainer doesn't have."""
        for name in options:
            if name not in (*self.model_options, *self.own_options):
                accepted = self.accepted_arguments()
                raise ValueError(unknown_name(name, accepted, "argument of the trainer"))

    def accepted_arguments(self):
        """The names of all arguments, a set."""
        named = {
            name
            for cls in type(self).__mro__[:-1]
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        return (named | {*self.model_options, *self.own_options}) - {"self"}

    def known_attributes(self):
        inside = {name: "config" for name in vars(self.config)}
        inside |= {name: "model" for name in (*self.model.options, *self.model_options)}
        own = {name: "" if hasattr(self, name) else None for name in self.accepted_arguments()}
        return own | inside | {name: "" for name in vars(self) if name[0] != "_"}

    # What a family's trainer may change

    def check_model(self, model):
        """Raises a ValueError for a model of another family."""
        if not isinstance(model, self.family):
            raise ValueError(
                f"`model` must be a {self.family.__name__}. Received: {type(model).__name__}."
            )

    @property
    def batch_size(self):
        """Examples per batch, for data given as arrays."""
        return self.config.batch_size

    def configure(self):
        """Sets what the trainer's own arguments say about the model."""
        given = {name: self.options.get(name) for name in (*self.model_options, "ema_decay")}
        given = {name: value for name, value in given.items() if value is not None}
        rules = {name: self.rules[name] for name in given.keys() & self.rules.keys()}
        checked = {name: rule(name, given[name]) for name, rule in rules.items()}
        self.model.set_options(**given | checked)

    def _save_memory(self):
        """Sets what the config says about memory."""
        if self.config.remat is not None:
            recompute(self.model, self.config.remat)
        if self.config.chunk_size == "auto":
            return
        if "chunk_size" not in self.model.options:
            raise ValueError(
                "`chunk_size` is for models of tokens, whose logits it divides: "
                f"{type(self.model).__name__} has no such option. Leave it out. Received: "
                f"chunk_size={self.config.chunk_size}."
            )
        self.model.set_options(chunk_size=self.config.chunk_size)

    def readable(self, dataset, training):
        """A dataset as arrays or batches."""
        return packed(dataset)

    def compile_arguments(self):
        """What `model.compile` is called with."""
        return {
            "optimizer": self.optimizer(),
            "steps_per_execution": self.config.steps_per_execution,
            "on_nan": self.config.on_nan,
        }

    def optimizer(self, other=None, updates_per_batch=1):
        """The config's optimizer for this run, or `other` with the config's schedule.

        `updates_per_batch` is how often it is called per batch.
        """
        return self.config.create_optimizer(
            num_batches=self.num_batches,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            optimizer=other,
            updates_per_batch=updates_per_batch,
        )

    # The run

    @functools.cached_property
    def train_dataset(self):
        """What `fit` is given: the dataset, or its arrays in batches."""
        if not is_arrays(self._data):
            return self._data
        return ArrayBatches(
            self._data,
            self.batch_size,
            shuffle=self.config.shuffle,
            seed=self.config.seed,
            steps=self.config.steps_per_epoch,
            drop_remainder=self.drop_remainder,
        )

    @property
    def steps_per_epoch(self):
        """Batches per epoch; None if the dataset has no length."""
        return self.config.steps_per_epoch or batches_per_epoch(self.train_dataset)

    @property
    def num_batches(self):
        """Batches of the whole run; None if the dataset has no length."""
        steps = self.steps_per_epoch
        return None if steps is None else steps * self.config.num_epochs

    def train(
        self, resume: bool | str = False, *, end_on_sigterm: bool = True
    ) -> keras.callbacks.History:
        """Trains for `config.num_epochs` epochs. Gives Keras's `History`.

        Args:
            resume: continue after the newest readable checkpoint in `config.checkpoint_dir`, at the
                step after it; start at the beginning if there is none. The
                history is that of the whole run.
            end_on_sigterm: as of `CheckpointCallback`.

        Raises:
            ValueError: for data that the model can't train on; for `resume` without a
                `checkpoint_dir`; for a `checkpoint_dir` that another run has used.
        """
        self.check_data()
        self._kept = checkpoints = self._checkpoints(resume)
        verbose = verbosity(self.config.verbose)
        log = self._log(verbose)
        callbacks = [*self.callbacks, log, *checkpoints]
        for callback in callbacks:
            if isinstance(callback, BaseCallback):
                callback.trainer = self
        validation = from_files(self.val_dataset, self.batch_size)
        with self._distributed(), log.closed_at_the_end():
            history = self.model.fit(
                **self._training_data(),
                epochs=self.config.num_epochs,
                verbose=0 if processes.index() else verbose,
                callbacks=[_EpochStart(self), *callbacks],
                validation_data=validation,
                validation_batch_size=self.batch_size if is_arrays(validation) else None,
            )
        if self.interrupted == "SIGTERM" and end_on_sigterm and processes.count() == 1:
            end_process(self.interrupted)
        return history

    @property
    def interrupted(self):
        """The signal that ended the last `train` early, its name; None if none did."""
        return self._kept[0].interrupted if self._kept else None

    def _log(self, verbose):
        """The callback that logs to trackers, and to the console if no user's callback does."""
        logged = any(isinstance(callback, LoggingCallback) for callback in self.callbacks)
        return LoggingCallback(
            self.config.log_frequency,
            console=False if logged else "auto" if verbose == 2 else "log",
            tracking=self.tracking,
            folder=self.folder,
        )

    @property
    def folder(self):
        """Where files of the run go: the `checkpoint_dir`, or the working folder where that is
        an address."""
        folder = self.config.checkpoint_dir
        return self._folder or (folder if folder and not is_address(folder) else ".")

    @folder.setter
    def folder(self, folder):
        self._folder = folder

    def _training_data(self):
        """The arguments of `fit` that say what it trains on."""
        data, config = self.train_dataset, self.config
        if not isinstance(data, SeededBatches):
            shuffle = config.shuffle and isinstance(data, keras.utils.PyDataset)
            return {"x": data, "shuffle": shuffle, "steps_per_epoch": config.steps_per_epoch}
        return {"x": data, "shuffle": False}

    def count_params(self):
        """How many weights the model has."""
        return self.model.count_params()

    def first_batch(self):
        """The first batch of the data, as a step takes it; of an iterator it can't be had."""
        return first_batch(self.train_dataset)

    def plan(
        self,
        mesh: int | str | tuple[int, ...] | None = None,
        target: str | None = None,
        compile: bool | None = None,
        rollout_mesh: int | str | tuple[int, ...] | None = None,
    ):
        """What a step on the first batch costs, as a `planning.Plan`; printed, a table.

        Nothing is trained. Devices are those of the trainer's distribution, or in their place what
        `mesh` and `target` say, as for `planning.plan`: `plan("4x8", "tpu:v5e")`. A model too large
        for this machine is planned by `planning.plan(make_trainer)` with a function that makes the
        trainer: then no weight is allocated.
        """
        from artifex_keras.planning import plan

        with self._distributed():
            options = {"mesh": mesh, "target": target, "compile": compile}
            return plan(self.model, self.first_batch(), **options, rollout_mesh=rollout_mesh)

    def check(self):
        """What would go wrong in `train`, a list of texts: see `GenerativeModel.check`."""
        options = {"batch_size": self.batch_size, "verbose": False}
        with self._distributed():
            if not is_arrays(self._data):
                return self.model.check(self.train_dataset, **options)
            x, y, weight = keras.utils.unpack_x_y_sample_weight(self._data)
            return self.model.check(x, y, sample_weight=weight, **options)

    def check_data(self):
        """Raises a ValueError for arrays that the model can't train on; `train` begins with it."""
        if is_arrays(self._data):
            data = first_rows(self._data, self.batch_size)
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            checks.arrays(self.model, x, y)
            checks.values(self.model, *keras.utils.unpack_x_y_sample_weight(data))

    def evaluate(self, dataset: Data = None) -> dict[str, float]:
        """The metrics on `dataset`, by default the `val_dataset`, as a dict of floats."""
        given = None if dataset is None else self.readable(dataset, training=False)
        dataset = self.val_dataset if given is None else given
        if dataset is None:
            raise ValueError(
                "There is nothing to evaluate: give `evaluate` a dataset, or the "
                "trainer a `val_dataset`."
            )
        dataset = from_files(dataset, self.batch_size)
        arguments = {"x": dataset}
        if is_arrays(dataset):
            x, y, weight = keras.utils.unpack_x_y_sample_weight(dataset)
            arguments = {"x": x, "y": y, "sample_weight": weight, "batch_size": self.batch_size}
        with self._distributed():
            return self.model.evaluate(
                **arguments,
                return_dict=True,
                verbose=0 if processes.index() else verbosity(self.config.verbose),
            )

    def _checkpoints(self, resume):
        """The callback that keeps the run, in a list; an empty one where nothing is kept."""
        config = self.config
        if config.checkpoint_dir is None:
            if resume:
                raise ValueError("`resume` needs a config with a `checkpoint_dir`.")
            return []
        checkpoints = CheckpointCallback(
            config.checkpoint_dir,
            config.save_frequency,
            config.save_every_n_steps,
            config.save_best,
            metric=self.watched if self.val_dataset is None else f"val_{self.watched}",
            max_to_keep=config.max_checkpoints,
            resume="auto" if resume else "never",
            save_every_n_minutes=config.save_every_n_minutes,
            verbose=config.verbose != 0,
            end_on_sigterm=False,  # trackers are closed first
        )
        if not resume and processes.on_first_process(checkpoints.store.steps):
            raise ValueError(
                "`checkpoint_dir` holds the checkpoints of an earlier run: continue it with "
                "train(resume=True), or choose another folder. Received: checkpoint_dir="
                f"{str(config.checkpoint_dir)!r}."
            )
        return [checkpoints]

    def _distributed(self):
        return contextlib.nullcontext() if self.distribution is None else self.distribution.scope()

    def _seed(self):
        """Starts all noise of the model at the config's seed, that of its layers included."""
        if self.config.seed is not None:
            keras.utils.set_random_seed(self.config.seed)
            self.model.reseed(self.config.seed)


class _EpochStart(keras.callbacks.Callback):
    """Sets the epoch of the data and the seed of the random number generators."""

    def __init__(self, trainer):
        super().__init__()
        self.trainer = trainer

    def on_train_begin(self, logs=None):
        if isinstance(self.trainer.train_dataset, SeededBatches):
            self.trainer.train_dataset.epoch = 0  # from where a checkpoint counts the data's epochs

    def on_epoch_begin(self, epoch, logs=None):
        if isinstance(self.trainer.train_dataset, SeededBatches):
            self.trainer.train_dataset.epoch = epoch
        if self.trainer.config.seed is not None:
            keras.utils.set_random_seed(self.trainer.config.seed + epoch)


def _signature(options):
    """The signature of `Trainer` with keyword arguments of these names in front of its own."""
    signature = inspect.signature(Trainer)
    *common, _ = signature.parameters.values()
    first = next(i for i, each in enumerate(common) if each.kind is each.KEYWORD_ONLY)
    own = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in options]
    return signature.replace(parameters=[*common[:first], *own, *common[first:]])


def set_average(model, ema_decay):
    """Gives `model` an average of its weights with that decay, or its average that decay."""
    if ema_decay is None:
        return
    model.ema_decay = decay("ema_decay", ema_decay)
    if model.built:
        with keras_internals.unlocked(model):
            model.build_average()


def _callbacks(callbacks):
    """The callbacks as a list."""
    if callbacks is None:
        return []
    listed = isinstance(callbacks, list | tuple)
    if not listed or not all(isinstance(each, keras.callbacks.Callback) for each in callbacks):
        raise broken_rule("callbacks", callbacks, "a list of Keras callbacks or None")
    return list(callbacks)


def _check_distribution(distribution):
    if distribution is not None and not hasattr(distribution, "device_mesh"):
        raise broken_rule("distribution", distribution, "a Keras distribution or None")
