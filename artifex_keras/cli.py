"""The command line of `artifex-keras`: train, launch, plan, doctor, sample, evaluate, report,
card."""

import argparse
import contextlib
import re
import sys
import warnings

from artifex_keras import __version__
from artifex_keras.endings import listed
from artifex_keras.remote import RemoteError
from artifex_keras.shell.completion import FAMILIES, SHELLS, completion

__all__ = ["main"]

CTRL_C, USAGE, FAULT = 130, 2, 1  # exit codes as shells count
# `launch` leaves `--trust` to the command that it starts.
RUN_NO_CODE = ("launch", "options", "completion", "report", "card")


def image_size(text):
    """An integer, or [height, width]."""
    if not re.fullmatch(r"\d+(x\d+)?", text.lower()):
        raise argparse.ArgumentTypeError(f"must be like 64 or 48x64. Received: {text!r}")
    sides = [int(side) for side in text.lower().split("x")]
    return sides[0] if len(sides) == 1 else sides


# Short options of `train`: their place in the config ("section.key"), their type, their help.
SETTINGS = {
    "--data": (
        "data.source",
        str,
        "digits, moons, mnist, ...; a folder of images; a file, or several, of "
        f"{listed()}; .jsonl .csv .tsv .parquet .txt (prompts and answers)",
    ),
    "--image-size": (
        "data.image_size",
        image_size,
        "of a folder of images: 64 or 48x64 (height x width); each is scaled and cut to it",
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
    "--context": (
        "text.context",
        int,
        "of text: how many tokens the model sees; longer rows are cut",
    ),
    "--tokenizer": ("data.tokenizer", str, "of a text: a .model or .json file; else characters"),
    "--from": ("network.from", str, "of text: the run, or its model.keras, to train further"),
    "--reward": (
        "model.reward",
        str,
        "of completions: FILE.py[:function], the model.keras of a reward model, exact_match, ...",
    ),
    "--teacher": ("model.teacher", str, "of a distillation: the run, or its model.keras, to copy"),
    "--latent-dim": ("network.latent_dim", int, "width of the latent code"),
    "--seed": ("training.seed", int, "makes the run repeatable"),
}

# Options of `sample` that only some families have.
SAMPLING = {
    "--prompt": (str, "what it continues"),
    "--length": (int, "how many tokens"),
    "--temperature": (float, "below 1 less varied, 0 the likeliest"),
}


OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


class Parser(argparse.ArgumentParser):
    """An argument parser that says what was probably meant."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        found, unknown = super().parse_known_args(args, namespace)
        options = [name for name in unknown if name.startswith("--")]
        if options:
            name = options[0].partition("=")[0]
            self.error(_unknown_name(name, self._option_string_actions, "option"))
        return found, unknown

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(None, _unknown_name(value, action.choices, action.dest))


def _unknown_name(*arguments):
    from artifex_keras.arguments import unknown_name  # with NumPy, which `--help` doesn't need

    return unknown_name(*arguments)


def parser():
    """The arguments of the command."""
    top = Parser(prog="artifex-keras", description="Train generative models from a shell.")
    top.add_argument("--version", action="version", version=f"artifex-keras {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    top.commands = commands.choices

    command = commands.add_parser(
        "train",
        help="train a model into a run folder",
        description="Trains a model and fills a folder with it, its history and pictures.",
        epilog="Every setting: --set KEY=VALUE, as in --set beta=2 or --set optimizer.beta1=0.5. "
        "`artifex-keras options FAMILY` lists the keys; config.yaml in a run folder has their "
        f"values, and --config starts from such a file. Families: {', '.join(FAMILIES)}.",
    )
    _add_settings(command)
    command.add_argument(
        "--track",
        metavar="NAMES",
        type=lambda text: text.split(","),
        help="report the run to trackers: wandb,mlflow,tensorboard,jsonl",
    )
    command.add_argument("--output", metavar="FOLDER", help="the run folder (runs/vae-1, ...)")
    command.add_argument(
        "--resume",
        metavar="RUN",
        help="continue a run that was interrupted, or with --epochs a finished one",
    )

    command = commands.add_parser(
        "plan",
        help="what a step of a training costs, before any device is rented",
        description="Compiles a step, trains nothing, and prints what it costs.",
    )
    command.set_defaults(track=None)
    _add_settings(command)
    command.add_argument(
        "--mesh", metavar="SHAPE", help="devices that needn't exist: 8, 4x8, 8x1, data=2,context=4"
    )
    command.add_argument(
        "--rollout-mesh", metavar="SHAPE", help="how they are grouped while a policy samples: 1x8"
    )
    command.add_argument(
        "--target", metavar="NAME", help="cpu, gpu, gpu:h100, tpu, tpu:v5e-256; else what is here"
    )
    command.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="whether to compile a step for devices that aren't here (steps of tens of layers "
        "take minutes, and are only lowered)",
    )
    command.add_argument("--json", action="store_true", help="print numbers for programs")

    command = commands.add_parser(
        "doctor",
        help="what would go wrong in a training, without training",
        description="Checks settings, data, networks and one batch of a training, trains nothing, "
        "and prints what it found. The exit code is 0 if that is nothing.",
    )
    command.set_defaults(track=None)
    _add_settings(command)

    command = commands.add_parser("sample", help="draw from the model of a run")
    command.add_argument("folder", metavar="RUN")
    command.add_argument("--count", type=int, default=64, help="how many (64)")
    command.add_argument("--seed", type=int, help="the same ones each time")
    command.add_argument(
        "--output",
        metavar="FILE",
        help=".png, .npy or .npz, .txt for text; by default both "
        "samples-1.png and samples-1.npy, ... in the run folder",
    )
    for option, (kind, text) in SAMPLING.items():
        name = option.strip("-")
        place, metavar = f"sampling.{name}", name.upper()
        command.add_argument(
            option, dest=place, type=kind, metavar=metavar, help=f"of text: {text}"
        )

    command = commands.add_parser("evaluate", help="the metrics of the model of a run")
    command.add_argument("folder", metavar="RUN")
    command.add_argument("--data", nargs="+", type=str, help="other data than the run's test part")
    place, kind, text = SETTINGS["--reward"]
    command.add_argument("--reward", dest=place, type=kind, metavar="REWARD", help=text)
    _add_sample_metrics(command)

    _add_sharing(commands)
    _add_lists(commands)
    _add_launch(commands)
    for name, command in commands.choices.items():
        if name not in RUN_NO_CODE:
            command.add_argument(
                "--trust",
                action="store_true",
                help="run the code that a config names, such as a reward.py; without it, only code "
                "that is named here too",
            )
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return top


def _add_sample_metrics(command):
    command.add_argument(
        "--metrics",
        metavar="NAMES",
        type=lambda text: text.split(","),
        help="compare samples with the data: frechet,kernel,precision_recall,density_coverage,"
        "sliced_wasserstein,mmd,classifier_two_sample",
    )
    command.add_argument("--count", type=int, default=1000, metavar="N", help="how many samples")
    command.add_argument("--seed", type=int, default=0, help="of the samples")
    command.add_argument(
        "--features",
        choices=("examples", "classifier"),
        help="what is compared: a small classifier of the labels (for images that have them), or "
        "the examples themselves",
    )


def _add_sharing(commands):
    command = commands.add_parser(
        "report",
        help="curves, pictures and settings of runs in one HTML file",
        description="Writes one HTML file about one run or several: curves, pictures, numbers, "
        "settings and those in which the runs differ. Any browser shows it, without a server.",
    )
    command.add_argument("folders", metavar="RUN", nargs="+")
    command.add_argument("--output", metavar="FILE", default="report.html", help="(report.html)")
    command = commands.add_parser(
        "card",
        help="the model card of a run, as the Hugging Face Hub shows it",
        description="Writes README.md into the folder of a run: data, settings, curves, metrics, "
        "versions, and code that loads the model.",
    )
    command.add_argument("folder", metavar="RUN")
    command.add_argument("--license", metavar="NAME", help="apache-2.0, mit, cc-by-4.0, ...")
    command.add_argument(
        "--repository", metavar="USER/NAME", help="where the model will be on the Hub"
    )
    command.add_argument("--output", metavar="FILE", help="(README.md in the run folder)")


def _add_lists(commands):
    command = commands.add_parser(
        "options",
        help="the keys that --set takes",
        description="Lists the settings of a family, their defaults and what they are.",
    )
    command.add_argument("family", metavar="FAMILY", help=", ".join(FAMILIES))
    command.add_argument("--keys", action="store_true", help="print the keys alone")
    command = commands.add_parser(
        "completion",
        help="a script by which a shell completes this command",
        description='Prints the script. In ~/.bashrc: eval "$(artifex-keras completion bash)"; '
        "in ~/.zshrc the same with zsh.",
    )
    command.add_argument("shell", choices=tuple(SHELLS), help="bash or zsh")


def _add_launch(commands):
    command = commands.add_parser(
        "launch",
        help="train in several processes",
        description="Runs a command in several processes on this host that train one model, and "
        "starts them again from the newest checkpoint when one dies.",
        epilog="artifex-keras launch --num-processes 2 train vae --data digits",
    )
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
    command.add_argument("family", nargs="?", metavar="FAMILY", help="vae, gan, diffusion, ...")
    command.add_argument("--config", metavar="FILE", help="settings in YAML, as a run writes them")
    for option, (place, kind, text) in SETTINGS.items():
        metavar = option.rpartition("-")[2].upper()
        several = {"nargs": "+"} if option == "--data" else {}
        command.add_argument(option, dest=place, type=kind, metavar=metavar, help=text, **several)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting; `artifex-keras options FAMILY` lists the keys",
    )


def answer_at_once():
    """Ends the process where its arguments need no Keras: `--help`, `--version`, `completion`, and
    arguments that are wrong."""
    arguments = parser().parse_args()
    if arguments.command == "completion":
        sys.exit(_complete(arguments.shell))


def _complete(shell):
    """Prints the script of a shell."""
    options = {
        name: sorted(set(OPTION.findall(command.format_help())))
        for name, command in parser().commands.items()
    }
    print(completion(shell, options), end="")
    return 0


def main(argv=None):
    """Runs the command. Gives the exit code: 0, 1 for a fault of ours, 2 for a wrong argument, 130
    after Ctrl-C, 143 after SIGTERM."""
    arguments = parser().parse_args(argv)
    if arguments.command == "completion":
        return _complete(arguments.shell)
    try:
        from artifex_keras.shell import commands

        with _plain_warnings():
            return commands.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return _end(CTRL_C)
    except Exception as error:
        if getattr(arguments, "debug", False):
            raise
        expected = isinstance(error, ValueError | OSError | ImportError | RemoteError)
        plain = expected or isinstance(error, FloatingPointError)  # of a run that diverged
        name = "" if plain else f"{type(error).__name__}: "
        hint = "" if plain else " (--debug shows where)"
        notes = [note for note in getattr(error, "__notes__", ()) if "JAX_TRACEBACK" not in note]
        notes = "".join(f" {note}" for note in notes)
        notes = f".{notes}" if notes and not str(error).endswith(".") else notes
        print(f"artifex-keras: error: {name}{error}{notes}{hint}", file=sys.stderr)
        return _end(USAGE if expected else FAULT)


@contextlib.contextmanager
def _plain_warnings():
    """Inside, warnings are printed in one line, for a person who hasn't written the code."""
    usual, warnings.formatwarning = warnings.formatwarning, _in_one_line
    try:
        yield
    finally:
        warnings.formatwarning = usual


def _in_one_line(message, category, filename, line, source=None):
    return (
        f"artifex-keras: {'' if category is UserWarning else f'{category.__name__}: '}{message}\n"
    )


def _end(code):
    """Gives back the exit code of an error; one of several processes ends with it at once."""
    from artifex_keras.backend import processes

    processes.leave(code)
    return code
