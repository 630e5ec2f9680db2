"""The command `artifex-keras`: train, in several processes too, plan, sample, evaluate."""

import argparse
import inspect
import os
import sys
from pathlib import Path

import keras

from artifex_keras import __version__
from artifex_keras.utils import unknown_name

__all__ = ["main"]

INTERRUPTED = {"SIGINT": 130, "SIGTERM": 143}  # as shells count
USAGE = 2

# Short options of `train`: where they go in the config, and how they are read.
SETTINGS = {
    "--data": (
        "data.source",
        str,
        "digits, moons, mnist, ..., an .npz file, a folder of images, a text, a .jsonl file",
    ),
    "--augment": (
        "data.augment",
        lambda text: text.split(","),
        "alter images at random: flip,translate,rotate,zoom,contrast,cutout,...",
    ),
    "--epochs": ("training.num_epochs", int, "passes over the data"),
    "--batch-size": ("training.batch_size", int, "examples per step"),
    "--learning-rate": ("training.optimizer.learning_rate", float, "the optimizer's, at its peak"),
    "--optimizer": ("training.optimizer.type", str, "adamw, adam, lion, ..."),
    "--tokenizer": ("data.tokenizer", str, "of a text: a .model or .json file; else characters"),
    "--from": ("network.from", str, "of text: the run, or its model.keras, to train further"),
    "--reward": ("model.reward", str, "of completions: FILE.py[:function], exact_match, gsm8k"),
    "--latent-dim": ("network.latent_dim", int, "width of the latent code"),
    "--seed": ("training.seed", int, "makes the run repeatable"),
}

# Options of `sample` that only families with them take.
TEXT_SETTINGS = {
    "--prompt": (str, "what it goes on from"),
    "--length": (int, "how many tokens"),
    "--temperature": (float, "below 1 less varied, 0 the likeliest"),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that says what was probably meant."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        options = [name for name in unknown if name.startswith("--")]
        if options:
            name = options[0].partition("=")[0]
            self.error(unknown_name(name, self._option_string_actions, "option"))
        return found, unknown

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, unknown_name(value, action.choices, "command"))


def parser():
    """The arguments of the command."""
    top = Parser(prog="artifex-keras", description="Train generative models from a shell.")
    top.add_argument("--version", action="version", version=f"artifex-keras {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="train a model into a run folder",
        description="Trains a model and fills a folder with it, its history and pictures.",
        epilog="Every setting: --set KEY=VALUE, as in --set beta=2 or --set optimizer.beta1=0.5. "
        "config.yaml in a run folder lists them; --config starts from such a file.",
    )
    command.set_defaults(run=_train)
    _add_settings(command)
    command.add_argument(
        "--track",
        metavar="NAMES",
        type=lambda text: text.split(","),
        help="tell trackers of the run: wandb,mlflow,tensorboard,jsonl",
    )
    command.add_argument("--output", metavar="FOLDER", help="the run folder (runs/vae-1, ...)")
    command.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run that was interrupted, or with --epochs a longer one",
    )

    command = commands.add_parser(
        "plan",
        help="what a step of a training costs, before any device is rented",
        description="Compiles a step, trains nothing, and prints what it costs.",
    )
    command.set_defaults(run=_plan, track=None)
    _add_settings(command)
    command.add_argument("--mesh", metavar="SHAPE", help="devices that needn't exist: 8, 4x8, 8x1")
    command.add_argument(
        "--target", metavar="NAME", help="cpu, gpu, gpu:h100, tpu, tpu:v5e-256; else what is here"
    )
    command.add_argument("--json", action="store_true", help="print numbers for programs")

    command = commands.add_parser("sample", help="draw from the model of a run")
    command.set_defaults(run=_sample)
    command.add_argument("folder", metavar="RUN")
    command.add_argument("--count", type=int, default=64, help="how many (64)")
    command.add_argument("--seed", type=int, help="the same ones each time")
    command.add_argument(
        "--output",
        metavar="FILE",
        help=".png, .npy or .npz, .txt for text; by default both "
        "samples-1.png and samples-1.npy, ... in the run folder",
    )
    for option, (kind, text) in TEXT_SETTINGS.items():
        metavar = option.strip("-").upper()
        command.add_argument(option, type=kind, metavar=metavar, help=f"of text: {text}")

    command = commands.add_parser("evaluate", help="the metrics of the model of a run")
    command.set_defaults(run=_evaluate)
    command.add_argument("folder", metavar="RUN")
    command.add_argument("--data", help="other data than the run's test part")

    _add_launch(commands)
    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def _add_launch(commands):
    command = commands.add_parser(
        "launch",
        help="train in several processes",
        description="Runs a command in several processes on this host that train one model, and "
        "starts them again from the newest checkpoint when one dies.",
        epilog="artifex-keras launch --num-processes 2 train vae --data digits",
    )
    command.set_defaults(run=_launch)
    command.add_argument("--num-processes", type=int, required=True, metavar="N", help="how many")
    command.add_argument(
        "--devices-per-process", type=int, metavar="N", help="virtual devices of the CPU in each"
    )
    command.add_argument(
        "--max-restarts", type=int, default=3, metavar="N", help="of all processes (3)"
    )
    command.add_argument(
        "command_line", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="train ..., FILE.py"
    )


def _add_settings(command):
    """What describes a run."""
    command.add_argument("family", nargs="?", help="vae, gan, diffusion, ...")
    command.add_argument("--config", metavar="FILE", help="settings in YAML, as a run writes them")
    for option, (place, kind, text) in SETTINGS.items():
        metavar = option.rpartition("-")[2].upper()
        command.add_argument(option, dest=place, type=kind, metavar=metavar, help=text)
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting"
    )


def main(argv=None):
    """Runs the command. Gives the exit code: 0, 2 for what was asked wrongly, 130 after Ctrl-C, 143
    after SIGTERM."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return _left(INTERRUPTED["SIGINT"])
    except Exception as error:
        if arguments.debug:
            raise
        expected = isinstance(error, ValueError | OSError | ImportError)
        name = "" if expected else f"{type(error).__name__}: "
        hint = "" if expected else " (--debug shows where)"
        notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        notes = f".{notes}" if notes and not str(error).endswith(".") else notes
        print(f"artifex-keras: error: {name}{error}{notes}{hint}", file=sys.stderr)
        return _left(USAGE if expected else 1)


def _left(code):
    """The exit code of an error, with which one of several processes ends at once."""
    from artifex_keras.backend import processes

    processes.leave(code)
    return code


def _join():
    """Meets the other processes, where the environment says that there are any."""
    from artifex_keras.distributed import processes

    if int(os.environ.get(processes.COUNT, 1)) > 1:
        from artifex_keras.distributed import data_parallel

        processes.initialize()
        keras.distribution.set_distribution(data_parallel())


def _launch(arguments):
    from artifex_keras.distributed.launcher import launch

    def say(line):
        print(line, flush=True)

    return launch(
        arguments.command_line,
        arguments.num_processes,
        devices_per_process=arguments.devices_per_process,
        max_restarts=arguments.max_restarts,
        say=say,
    )


def _train(arguments):
    from artifex_keras import runs

    _join()
    if arguments.resume:
        return _resume(arguments)
    _, interrupted = runs.train(*_asked(arguments), arguments.output)
    return INTERRUPTED.get(interrupted, 0)


def _plan(arguments):
    import json

    from artifex_keras import runs

    _, _, trainer = runs.prepare(*_asked(arguments))
    made = trainer.plan(arguments.mesh, arguments.target)
    print(json.dumps(made.to_dict(), indent=2) if arguments.json else made)
    return 0


def _asked(arguments):
    """The name of the family and all settings, of the config and of options."""
    from artifex_keras.config import parse_yaml
    from artifex_keras.shell import recipes
    from artifex_keras.utils import lookup

    asked = {}
    if arguments.config:
        if not Path(arguments.config).is_file():
            raise ValueError(f"There is no file {arguments.config!r}.")
        asked = parse_yaml(Path(arguments.config).read_text(encoding="utf-8"))
        if not isinstance(asked, dict):
            raise ValueError(f"{arguments.config!r} holds no settings.")
    name = asked.pop("family", arguments.family)
    if arguments.family not in (None, name):
        raise ValueError(
            f"The config is of the family {name!r}. Received: family {arguments.family!r}."
        )
    if name is None:
        raise ValueError(f"Which family? {', '.join(recipes.FAMILIES)}, or --config FILE.")
    family = lookup(recipes.FAMILIES, name, "family")
    _place(family, asked, arguments)
    return name, asked


def _resume(arguments):
    from artifex_keras import runs

    for option in ("family", "config", "output"):
        if getattr(arguments, option):
            raise ValueError(
                f"A run that goes on has its {option}: leave it out. "
                f"Received: {getattr(arguments, option)!r}, with --resume {arguments.resume}."
            )
    asked = {}
    _place(runs.Run.at(arguments.resume).family, asked, arguments)
    _, interrupted = runs.resume(arguments.resume, asked)
    return INTERRUPTED.get(interrupted, 0)


def _place(family, asked, arguments):
    """Puts what options say into `asked`."""
    from artifex_keras import runs

    for place, value in _settings(arguments):
        runs.place(family, asked, place, value)
    for tracker in arguments.track or ():
        tracking = asked["tracking"] = asked.get("tracking") or {}
        tracking.setdefault(tracker, {})  # what was said of it stays


def _settings(arguments):
    """What options say, as pairs of place and value."""
    from artifex_keras.config import parse_yaml

    for place, _, _ in SETTINGS.values():
        value = getattr(arguments, place)
        if value is not None:
            yield place, value
    for text in arguments.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE. Received: {text!r}.")
        yield key.strip(), parse_yaml(value)


def _sample(arguments):
    import numpy as np
    from keras import ops

    from artifex_keras.runs import Run
    from artifex_keras.shell.recipes import TEXTS, draw_samples, text_of

    run = Run.at(arguments.folder)
    model, dataset = run.model(), run.dataset()
    options = _sampling_options(run.family, arguments)
    samples = run.family.sampled(model, dataset, arguments.count, arguments.seed, **options)
    samples = ops.convert_to_numpy(samples)
    if dataset.kind in TEXTS:
        print(text_of(samples, dataset), end="")
    for path in _outputs(run, arguments.output):
        if path.suffix == ".npy":
            np.save(path, samples)
        elif path.suffix == ".npz":
            np.savez_compressed(path, samples=samples)
        else:
            path = draw_samples(samples, dataset, path)
        if path is not None:
            print(path)
    return 0


def _sampling_options(family, arguments):
    """What options of `sample` say beyond number and seed, for a family that has them."""
    takes = inspect.signature(family.sampled).parameters
    names = [option.strip("-") for option in TEXT_SETTINGS]
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in takes:
            raise ValueError(f"`--{name}` is of no use to {family.model.__name__}.")
    return given


def _outputs(run, output):
    if output is not None:
        path = Path(output)
        if path.suffix not in (".png", ".npy", ".npz", ".svg", ".pdf", ".txt"):
            raise ValueError(f"--output must end in .png, .npy or .npz. Received: {output!r}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        return [path]
    number = 1
    while any(run.folder.glob(f"samples-{number}.*")):
        number += 1
    return [run.folder / f"samples-{number}{suffix}" for suffix in (".png", ".npy")]


def _evaluate(arguments):
    from artifex_keras.runs import Run

    run = Run.at(arguments.folder)
    dataset = run.dataset(arguments.data)
    model = run.family.restored(run.model(), run.sections["model"])
    part = next(
        part for part in ("test", "validation", "train") if dataset.part(part)[0] is not None
    )
    given = dataset.given(part)
    x, y = given if isinstance(given, tuple) else (given, None)
    batch_size = run.config["training"]["batch_size"]
    metrics = model.evaluate(x, y, batch_size=batch_size, return_dict=True, verbose=0)
    print(f"{len(x)} examples, the {part} part of {dataset.name}")
    for name, value in metrics.items():
        print(f"{name:24} {value:.6g}")
    return 0
