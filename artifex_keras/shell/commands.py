"""What each command of `artifex-keras` does with its arguments. Each gives the exit code."""

import contextlib
import inspect
import json
import os

import keras
import numpy as np
from keras import ops

from artifex_keras import planning, sharing
from artifex_keras.arguments import lookup
from artifex_keras.atomic import atomic_file, user_path
from artifex_keras.distributed import clusters, data_parallel, processes
from artifex_keras.distributed.launcher import launch as launch_processes
from artifex_keras.metrics.named import checked_metrics
from artifex_keras.shell import training
from artifex_keras.shell.about import keep_evaluation
from artifex_keras.shell.folder import Run, unused_stem
from artifex_keras.shell.options import keys_of, listed_options
from artifex_keras.shell.recipes import FAMILIES, TEXTS, draw_samples, in_units, text_of
from artifex_keras.shell.sample_metrics import lines_of, sample_metrics
from artifex_keras.shell.settings import (
    candidates,
    known_keys,
    merge,
    read_settings,
    set_value,
    validate,
)
from artifex_keras.trainers.batches import from_files
from artifex_keras.trust import command_line, parse_yaml

__all__ = [
    "INTERRUPTED",
    "card",
    "doctor",
    "evaluate",
    "launch",
    "plan",
    "report",
    "run",
    "sample",
    "train",
]

TRAINED = (("network", "from"), ("model", "teacher"), ("model", "reward"))  # read from files
OUTPUTS = (".png", ".npy", ".npz", ".svg", ".pdf", ".txt")
INTERRUPTED = {"SIGINT": 130, "SIGTERM": 143}  # as shells count


def run(arguments):
    """Runs the command with its arguments; of the code in files that which they name."""
    _take_data_apart(arguments)
    with command_line(_words(arguments), getattr(arguments, "trust", False)):
        return COMMANDS[arguments.command](arguments)


def _take_data_apart(arguments):
    """One word of `--data` is a source, several are files. The last is the family's name where
    that is missing: `train --data digits vae`."""
    for place in ("data", "data.source"):
        words = getattr(arguments, place, None)
        if not words:
            continue
        if len(words) > 1 and words[-1] in FAMILIES and not getattr(arguments, "family", "-"):
            arguments.family = words.pop()
        setattr(arguments, place, words[0] if len(words) == 1 else words)


def _words(arguments):
    """All texts among the arguments, also inside the values of `--set`."""
    waiting = [*vars(arguments).values(), *(value for _, value in _option_values(arguments))]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()


def train(arguments):
    """Trains a model into a run's folder, or continues a run."""
    _join_processes()
    if arguments.resume:
        _, interrupted = training.resume(arguments.resume, _changes(arguments))
    else:
        _, interrupted = training.train(*requested_run(arguments), arguments.output)
    return INTERRUPTED.get(interrupted, 0)


def _join_processes():
    """Meets the other processes, where the environment says that there are any."""
    if int(os.environ.get(processes.COUNT, 1)) > 1 or clusters.has_others(os.environ):
        processes.initialize()
        keras.distribution.set_distribution(data_parallel())


def plan(arguments):
    """Prints what a step of a training costs."""
    name, requested = requested_run(arguments)

    def trainer():
        return training.prepare(name, requested, warn_only=True)[-1]

    options = {
        name: getattr(arguments, name) for name in ("mesh", "target", "compile", "rollout_mesh")
    }
    read = any(requested.get(section, {}).get(key) for section, key in TRAINED)
    found = trainer().plan(**options) if read else planning.plan(trainer, **options)
    print(json.dumps(found.to_dict(), indent=2) if arguments.json else found)
    return 0


def doctor(arguments):
    """Prints what would go wrong in a training; the exit code is 1 if anything would."""
    found = training.examine(*requested_run(arguments))
    print("\n".join(f"- {text}" for text in found) or "Nothing was found.")
    return int(bool(found))


def launch(arguments):
    """Runs a command in several processes."""

    def say(line):
        print(line, flush=True)

    return launch_processes(
        arguments.command_line,
        arguments.num_processes,
        devices_per_process=arguments.devices_per_process,
        max_restarts=arguments.max_restarts,
        say=say,
    )


# The settings of a run


def requested_run(arguments):
    """The name of the family, and all settings of the config and of options by section."""
    requested = {}
    if arguments.config:
        requested = read_settings(user_path(arguments.config))
    name = requested.pop("family", arguments.family)
    if arguments.family not in (None, name):
        raise ValueError(
            f"The config is of the family {name!r}. Received: family {arguments.family!r}."
        )
    if name is None:
        raise ValueError(f"Which family? {', '.join(FAMILIES)}, or --config FILE.")
    _add_options(lookup(FAMILIES, name, "family"), requested, arguments)
    return name, requested


def _changes(arguments):
    """The settings that options change in a run that is continued."""
    for option in ("family", "config", "output"):
        if getattr(arguments, option):
            raise ValueError(
                f"A run that goes on has its {option}: leave it out. "
                f"Received: {getattr(arguments, option)!r}, with --resume {arguments.resume}."
            )
    requested = {}
    _add_options(Run.at(arguments.resume).recipe, requested, arguments)
    return requested


def _add_options(recipe, requested, arguments):
    """Puts the values of options into their sections of `requested`."""
    _reject_useless(recipe, arguments)
    for place, value in _option_values(arguments):
        set_value(recipe, requested, place, value)
    for tracker in arguments.track or ():
        tracking = requested["tracking"] = requested.get("tracking") or {}
        tracking.setdefault(tracker, {})  # its settings in the config stay


def _reject_useless(recipe, arguments):
    """Raises for an option, such as `--latent-dim`, that sets what the family hasn't got."""
    known = known_keys(*candidates(recipe))
    for place, value in vars(arguments).items():
        section, _, key = place.partition(".")
        if value is None or not key or section not in known:  # `text.context` is asked elsewhere
            continue
        if key.partition(".")[0] not in known[section]:
            option = key.replace("_", "-")
            raise ValueError(f"`--{option}` is of no use to {recipe.model.__name__}.")


def _option_values(arguments):
    """Pairs of place and value: of options whose destination is "section.key", and of `--set`."""
    for place, value in vars(arguments).items():
        if "." in place and value is not None:
            yield place, value
    for text in getattr(arguments, "set", ()):
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE. Received: {text!r}.")
        yield key.strip(), parse_yaml(value)


# A trained model


def sample(arguments):
    """Samples from the model of a run into files; texts are printed too."""
    run = Run.at(arguments.folder)
    model, dataset = run.model(), run.look()
    options = sampling_options(run.recipe, arguments)
    samples = run.recipe.sample(model, dataset, arguments.count, arguments.seed, **options)
    samples = ops.convert_to_numpy(samples)
    if dataset.kind in TEXTS:
        print(text_of(samples, dataset), end="")
    with contextlib.ExitStack() as stack:
        for path in _outputs(run, dataset, arguments.output, stack):
            path = _write_samples(samples, dataset, path)
            if path is not None:
                print(path)
    return 0


def _write_samples(samples, dataset, path):
    """Writes samples as the ending of `path` says. Gives the path, or None if none is written."""
    if path.suffix == ".csv":
        dataset.columns.write_csv(samples, path)
    elif path.suffix == ".npy":
        with atomic_file(path) as temporary:
            np.save(temporary, in_units(samples, dataset))
    elif path.suffix == ".npz":
        with atomic_file(path) as temporary:
            np.savez_compressed(temporary, samples=in_units(samples, dataset))
    else:
        return draw_samples(samples, dataset, path)
    return path


def sampling_options(recipe, arguments):
    """The values of those options of `sample` that only some families have.

    Raises:
        ValueError: for an option that this family doesn't have.
    """
    accepted = inspect.signature(recipe.sample).parameters
    given = {}
    for destination, value in vars(arguments).items():
        section, _, name = destination.partition(".")
        if section == "sampling" and value is not None:
            if name not in accepted:
                raise ValueError(f"`--{name}` is of no use to {recipe.model.__name__}.")
            given[name] = value
    return given


def _outputs(run, dataset, output, stack):
    table = dataset.columns is not None
    if output is not None:
        path = user_path(output)
        if path.suffix not in (*OUTPUTS, *((".csv",) if table else ())):
            also = ", or .csv for a table" if not table else ", .csv"
            raise ValueError(
                f"--output must end in .png, .npy or .npz{also}. Received: {output!r}."
            )
        return [path]
    stem = stack.enter_context(unused_stem(run.folder / "samples"))
    suffixes = (".png", ".csv" if table else ".npy")
    return [stem.with_name(f"{stem.name}{suffix}") for suffix in suffixes]


def _check_alike(run, model, dataset):
    """Raises a ValueError where a model can't be evaluated on data of such a shape."""
    shape = tuple((model.get_build_config() or {}).get("input_shape") or ())[1:]
    if dataset.kind in ("images", "vectors") and shape and shape != tuple(dataset.shape):
        raise ValueError(
            f"The model of {str(run.folder)!r} has learned examples of shape {shape}. Received: "
            f"{dataset.kind} of shape {dataset.shape} in {dataset.name!r}."
        )


def evaluate(arguments):
    """Prints the metrics of the model of a run."""
    if arguments.metrics:
        checked_metrics("--metrics", arguments.metrics)
    run = Run.at(arguments.folder)
    dataset = run.dataset(arguments.data)
    requested = {}
    for place, value in _option_values(arguments):
        set_value(run.recipe, requested, place, value)
    settings = merge(run.sections["model"], validate(requested, run.recipe)["model"])
    model = run.recipe.restore(run.model(), settings)
    _check_alike(run, model, dataset)
    part = next(
        part for part in ("test", "validation", "train") if dataset.part(part)[0] is not None
    )
    given = dataset.given(part)
    x, y = given if isinstance(given, tuple) else (given, None)
    batch_size = run.config["training"]["batch_size"]
    batches = from_files(x, batch_size)
    sizes = {} if batches is not x else {"batch_size": batch_size}
    metrics = model.evaluate(batches, y, **sizes, return_dict=True, verbose=0)
    scaled = "" if dataset.columns is None else ", of its scaled columns"
    about = f"{len(x)} examples, the {part} part of {dataset.name}{scaled}"
    kept = {"test": {"about": about, "metrics": metrics}}
    print(about)
    for name, value in metrics.items():
        print(f"{name:24} {value:.6g}")
    if arguments.metrics:
        options = {"count": arguments.count, "seed": arguments.seed}
        options |= {"names": arguments.metrics, "features": arguments.features}
        about, found = sample_metrics(run, model, dataset, part, **options)
        print(about, *lines_of(found), sep="\n")
        kept["samples"] = {"about": about, "metrics": found}
    keep_evaluation(run.folder, kept)
    return 0


# For other people


def report(arguments):
    """Writes a report of runs as one HTML file."""
    print(sharing.write_report(arguments.folders, arguments.output))
    return 0


def card(arguments):
    """Writes the model card of a run."""
    options = {"license": arguments.license, "repository": arguments.repository}
    print(sharing.write_card(arguments.folder, arguments.output, **options))
    return 0


def options(arguments):
    """Lists the settings of a family."""
    find = keys_of if arguments.keys else listed_options
    print("\n".join(find(arguments.family)))
    return 0


COMMANDS = {
    "options": options,
    "train": train,
    "plan": plan,
    "doctor": doctor,
    "launch": launch,
    "sample": sample,
    "evaluate": evaluate,
    "report": report,
    "card": card,
}
