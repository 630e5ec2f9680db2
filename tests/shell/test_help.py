"""Help at once, keys that are listed, and completion in real shells."""

import os
import re
import resource
import shutil
import subprocess
import sys

import pytest

from artifex_keras import cli, optimizers, tracking
from artifex_keras.datasets import AUGMENTATIONS
from artifex_keras.datasets.named import NAMED
from artifex_keras.shell import completion, options
from artifex_keras.shell.recipes import FAMILIES

HELP = [["--help"], ["train", "vae", "--help"], ["plan", "--help"], ["sample", "--help"],
        ["evaluate", "--help"], ["launch", "--help"], ["options", "--help"],
        ["report", "--help"], ["card", "--help"], ["completion", "--help"],
        ["--version"], ["completion", "bash"]]  # fmt: skip


def process(*arguments, code=0):
    """What the command says as a process of its own, and the seconds of CPU that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "artifex_keras", *arguments],
        capture_output=True, text=True, timeout=120, env=os.environ,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout + done.stderr, seconds


@pytest.mark.parametrize("arguments", HELP, ids=" ".join)
def test_help_takes_less_than_half_a_second(arguments):
    said, seconds = process(*arguments)
    assert said.strip() and seconds < 0.5


def test_a_wrong_argument_is_said_as_soon():
    said, seconds = process("train", "vae", "--epoch", "3", code=2)
    assert "Unknown option '--epoch'. Did you mean '--epochs'" in said and seconds < 0.5


def test_the_help_of_this_process_is_the_same(capsys):
    with pytest.raises(SystemExit):
        cli.main(["options", "--help"])
    assert ", ".join(sorted(FAMILIES)[:3]) in " ".join(capsys.readouterr().out.split())


# Keys


@pytest.mark.parametrize("family", ["vae", "dpo", "flow-matching"])
def test_all_keys_are_listed(family, capsys):
    assert cli.main(["options", family]) == 0
    said = capsys.readouterr().out
    assert cli.main(["options", family, "--keys"]) == 0
    keys = capsys.readouterr().out.split()
    assert {"batch_size", "optimizer.learning_rate", "scheduler.warmup_steps"} <= set(keys)
    assert all(re.search(rf"^  {re.escape(key)}( |$)", said, re.MULTILINE) for key in keys)
    assert keys == options.keys_of(family)


def test_keys_have_defaults_and_descriptions(capsys):
    assert cli.main(["options", "gan"]) == 0
    line = next(
        row for row in capsys.readouterr().out.splitlines() if row.startswith("  r1_every ")
    )
    assert line.split()[1] == "1" and len(line.split()) > 4
    assert cli.main(["options", "vea"]) == 2
    assert "Unknown family 'vea'. Did you mean 'vae'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("optimizer.lr", "learning_rate"), ("optimizer.weight_decai", "weight_decay"),
     ("lr", "learning_rate"), ("scheduler.warm_up_steps", "warmup_steps"),
     ("optimizr.beta1", "optimizer"), ("traning.seed", "training")],
)  # fmt: skip
def test_a_mistyped_key_names_the_nearest(key, nearest, capsys):
    assert cli.main(["train", "gan", "--data", "ring", "--set", f"{key}=3"]) == 2
    said = capsys.readouterr().err
    assert f"Did you mean '{nearest}'" in said or f"or '{nearest}'" in said


# Completion


def test_completion_knows_the_real_names():
    assert set(completion.FAMILIES) == set(FAMILIES)
    assert set(completion.CHOICES["--data"]) == set(NAMED)
    assert set(completion.CHOICES["--track"]) == set(tracking.TRACKERS)
    assert set(completion.CHOICES["--augment"]) == set(AUGMENTATIONS)
    for name in completion.CHOICES["--optimizer"]:
        assert optimizers.optimizer_arguments(name)


@pytest.fixture(scope="module")
def script():
    return process("completion", "bash")[0]


def completed(script, folder, *words):
    """What bash offers for the last of the words of a command."""
    line = " ".join(f"'{word}'" for word in words)
    ask = (
        f"COMP_WORDS=(artifex-keras {line}); COMP_CWORD={len(words)}; _artifex_keras; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    own = folder / "artifex-keras"
    own.write_text(f'#!/bin/sh\nexec {sys.executable} -m artifex_keras "$@"\n')
    own.chmod(0o755)
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{script}\n{ask}"],
        capture_output=True, text=True, cwd=folder, env=env, timeout=120,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tr"], ["train"]),
        (["train", "flow"], ["flow", "flow-matching"]),
        (["doctor", "va"], ["vae"]),
        (["plan", "en"], ["energy"]),
        (["train", "vae", "--image"], ["--image-size"]),
        (["train", "vae", "--optimizer", "adam"], ["adam", "adamw"]),
        (["train", "vae", "--data", "mo"], ["moons", "mo.npz"]),
        (["train", "--config", "ru"], ["run.yaml"]),
        (["sample", "fo"], ["folder"]),
        (["evaluate", "folder", "--rew"], ["--reward"]),
        (["launch", "--num-processes", "2", "train", "va"], ["vae"]),
        (["completion", ""], ["bash", "zsh"]),
        (["--ver"], ["--version"]),
        (["train", "vae", "--no-such"], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_bash_completes(script, tmp_path, words, offered):
    for name in ("mo.npz", "run.yaml"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert completed(script, tmp_path, *words) == offered


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_keys(script, tmp_path):
    assert completed(script, tmp_path, "train", "vae", "--set", "optimizer.learning_") == [
        "optimizer.learning_rate="
    ]


def test_zsh_uses_the_same_script(script, tmp_path):
    said = process("completion", "zsh")[0]
    assert said.startswith("#compdef artifex-keras\n") and said.endswith(script)
    if shutil.which("zsh"):
        (tmp_path / "script").write_text(said)
        ask = f"source {tmp_path}/script; print $_comps[artifex-keras]"
        done = subprocess.run(["zsh", "-f", "-c", ask], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and "_artifex_keras" in done.stdout
