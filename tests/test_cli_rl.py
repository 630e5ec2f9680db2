"""The shell fine-tunes: rewards from a file, preferences, completions, and runs that go on."""

import csv
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from artifex_keras import cli, datasets
from artifex_keras.config import parse_yaml
from artifex_keras.shell import folder, recipes, settings
from artifex_keras.shell.recipes.rewards import rewards

pytestmark = pytest.mark.backends("jax")

SUMS = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(4)]
PAIRS = [{"prompt": r["prompt"], "chosen": r["answer"], "rejected": "00"} for r in SUMS]
ANSWERS = [
    {"prompt": row["prompt"], "completion": row["answer"], "label": index % 2 == 0}
    for index, row in enumerate(SUMS)
]
REWARD = """
from digits import near

def reward(prompts, completions, answer):
    return [near(text, right) for text, right in zip(completions, answer)]
"""
BESIDE = """
def near(text, right):
    return 1.0 if text == right else 0.5 * text[:1].isdigit()
"""
TINY = ["--set", "num_layers=1", "--set", "width=8", "--set", "num_heads=1"]
SMALL = ["--epochs", 2, "--seed", 1, "--optimizer", "sgd", "--batch-size", 4]
FEW = ["--set", "num_generations=2", "--set", "max_new_tokens=3"]


def shell(*arguments):
    return cli.main([str(argument) for argument in arguments])


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def history(folder):
    with open(Path(folder) / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def config(folder):
    return parse_yaml((Path(folder) / "config.yaml").read_text())


def test_an_untrained_policy_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "pairs.jsonl", PAIRS)
    assert shell("doctor", "dpo", "--data", "pairs.jsonl", *TINY) == 1
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and "DPO starts from a network that was never trained" in out
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]
    with pytest.warns(UserWarning, match="never trained.*--from RUN"):
        assert shell("train", "dpo", "--data", "pairs.jsonl", *TINY, *SMALL) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, a reward file, and the run of a tiny transformer that answers."""
    folder = tmp_path_factory.mktemp("rl")
    lines(folder / "sums.jsonl", SUMS)
    lines(folder / "pairs.jsonl", PAIRS)
    lines(folder / "answers.jsonl", ANSWERS)
    (folder / "reward.py").write_text(REWARD)
    (folder / "digits.py").write_text(BESIDE)
    options = [*SMALL, *TINY, "--output", folder / "start"]
    data = ["--data", folder / "answers.jsonl"]
    assert shell("train", "autoregressive", *data, *options) == 0
    return folder


@pytest.fixture(scope="module")
def run(place):
    """The run of GRPO that goes on from there, by a config file."""
    (place / "run.yaml").write_text(
        f"family: grpo\ndata: {{source: {place}/sums.jsonl}}\nnetwork: {{from: {place}/start}}\n"
        f"reward: {place}/reward.py\nmodel: {{num_generations: 2, max_new_tokens: 3}}\n"
        "training: {num_epochs: 2, seed: 1, batch_size: 4, optimizer: {learning_rate: 1e-2}}\n"
    )
    config = ["--config", place / "run.yaml", "--trust"]
    assert shell("train", *config, "--output", place / "grpo") == 0
    return place / "grpo"


def error(capsys, *arguments):
    assert shell(*arguments) == 2
    return capsys.readouterr().err.splitlines()[-1]


# Completions


def test_of_rows_the_completions_alone_are_learned(place):
    dataset = folder.Run.at(place / "start").dataset()
    assert dataset.kind == "tokens" and dataset.train.shape == (16, 16)
    (x, mask), tokenizer = dataset.given("train"), dataset.tokenizer
    said = {tokenizer.decode(row[counts]) for row, counts in zip(x, mask, strict=True)}
    assert said <= {row["answer"] + "\n" for row in SUMS}
    assert not {"F", "T"} & set(tokenizer.characters)  # the labels are no text


def test_what_has_learned_to_answer_ends_its_answers(place, capsys):
    for prompt in ([], ["--prompt", "1+2="]):
        options = ["--count", 3, "--seed", 1, *prompt]
        assert shell("sample", place / "start", *options, "--output", place / "a.txt") == 0
    said = (place / "a.txt").read_text().splitlines()
    assert sum(line.startswith("1+2=") for line in said) == 3
    assert shell("evaluate", place / "start") == 0
    assert "2 examples, the test part of answers.jsonl" in capsys.readouterr().out


def test_keys_name_the_columns(prepared, tmp_path):
    rows = [{"question": row["prompt"], "answer": row["answer"]} for row in SUMS]
    lines(tmp_path / "qa.jsonl", rows)
    keys = ["--set", "prompt_key=question", "--set", "completion_key=answer"]
    data = ["--data", tmp_path / "qa.jsonl", "--set", "length=12"]
    assert shell("train", "autoregressive", *data, *keys, *TINY) == 0
    _, dataset, _ = prepared
    assert dataset.shape == (12,)


# A run by rewards


def test_a_run_of_rewards_fills_its_folder(run, place):
    names = {"config.yaml", "history.csv", "loss.png", "model.keras", "completions.txt"}
    assert names <= {path.name for path in run.iterdir()}
    rows = history(run)
    assert len(rows) == 2 and {"reward", "val_reward", "completion_length"} <= set(rows[0])
    written = config(run)
    assert written["model"]["reward"] == str(place / "reward.py")
    assert written["network"] == {"from": str(place / "start")}
    table = (run / "completions.txt").read_text()
    assert table.count("\n> ") == 4 and "(reward 0" in table  # 2 held-out prompts, 2 each
    with Image.open(run / "loss.png") as image:
        assert min(image.size) > 100


def test_a_run_begins_where_the_other_ended(run, place, prepared):
    assert shell("train", "--config", place / "run.yaml", "--trust") == 0
    trainer = prepared[2]
    before = keras.saving.load_model(place / "start" / "model.keras")
    for one, other in zip(trainer.policy.weights, before.weights, strict=True):
        if one.dtype == "float32":
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    assert trainer.model.tokenizer.characters == prepared[1].tokenizer.characters
    assert trainer.model.end_token_id == trainer.model.tokenizer.id_of("\n")


def test_the_policy_answers_prompts(run, capsys):
    options = ["--prompt", "1+2=", "--count", 2, "--seed", 3]
    assert shell("sample", run, *options) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("1+2=") for line in said) == 2
    assert any(line.endswith("samples-1.txt") for line in said)
    assert shell("sample", run, "--count", 3, "--temperature", 0, "--length", 2) == 0
    held_out = {row["prompt"] for row in folder.Run.at(run).dataset().given("test")}
    said = capsys.readouterr().out
    assert any(prompt in said for prompt in held_out)


def test_evaluation_is_the_mean_reward_of_held_out_prompts(run, place, capsys):
    reward = ["--reward", f"{place}/reward.py:reward"]
    assert shell("evaluate", run, *reward) == 0
    said = capsys.readouterr().out
    assert said.startswith("2 examples, the test part of sums.jsonl")
    reward = [line.split()[1] for line in said.splitlines() if line.startswith("reward ")]
    assert 0 <= float(reward[0]) <= 1
    lines(place / "other.jsonl", SUMS[:5])
    assert shell("evaluate", run, "--data", place / "other.jsonl", "--trust") == 0
    assert "the train part of other.jsonl" in capsys.readouterr().out


def test_a_run_of_rewards_goes_on(run):
    before = history(run)
    assert shell("train", "--resume", run, "--epochs", 3, "--trust") == 0
    assert len(history(run)) == 3 and history(run)[:2] == before


# Code that a file names


@pytest.fixture
def downloaded(run, tmp_path, monkeypatch):
    """A copy of the run, as from a stranger: its config names code that notes that it ran."""
    monkeypatch.chdir(tmp_path)
    copy = shutil.copytree(run, tmp_path / "theirs", ignore=shutil.ignore_patterns("check*"))
    code = copy / "reward.py"
    code.write_text(f"from pathlib import Path\nPath('{tmp_path}/RAN').touch()\n{REWARD}")
    theirs = (copy / "config.yaml").read_text().replace(str(run.parent / "reward.py"), str(code))
    (copy / "config.yaml").write_text(theirs)
    (copy / "digits.py").write_text(BESIDE)
    return copy


def commands(folder):
    config = ["--config", folder / "config.yaml"]
    return {
        "plan": ["plan", *config],
        "train": ["train", *config],
        "resume": ["train", "--resume", folder],
        "evaluate": ["evaluate", folder],
    }


@pytest.mark.parametrize("name", ["plan", "train", "resume", "evaluate"])
def test_code_that_only_a_config_names_does_not_run(name, downloaded, tmp_path, capsys):
    said = error(capsys, *commands(downloaded)[name])
    assert f"'{downloaded}/reward.py' holds code" in said and "--trust" in said
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("plan", ["--trust"]),
        ("train", ["--set", "reward=[reward.py, exact_match]"]),
        ("evaluate", ["--reward", "../theirs/reward.py:reward"]),
    ],
)
def test_code_runs_where_the_command_line_says_so(
    name, way, downloaded, tmp_path, prepared, monkeypatch, capsys
):
    monkeypatch.chdir(downloaded)
    assert shell(*commands(downloaded)[name], *way) == 0
    assert (tmp_path / "RAN").exists()
    said = capsys.readouterr()
    assert said.err.count(f"Running the code in {downloaded}/reward.py") == 1


def test_samples_need_no_code(downloaded, tmp_path):
    assert shell("sample", downloaded, "--count", 1) == 0
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("name", ["ppo", "reinforce"])
def test_the_other_algorithms_begin_with_a_network_of_their_own(name, place, prepared):
    data = ["--data", place / "sums.jsonl", "--reward", "exact_match"]
    assert shell("train", name, *data, *TINY, *FEW, *SMALL) == 0
    written, dataset, trainer = prepared
    assert written["network"]["max_length"] == 4 + 3
    assert len(dataset.given("validation")) == 2 and trainer.steps_per_epoch == 4
    assert trainer.model.rewards.names == ["exact_match"]


def test_lines_of_a_text_are_prompts(prepared, tmp_path, place):
    (tmp_path / "prompts.txt").write_text("1+1=\n\n10+10=\n")
    options = ["--reward", f"{place}/reward.py", *TINY, *FEW, "--batch-size", 1]
    said = ["--data", tmp_path / "prompts.txt"]
    assert shell("train", "grpo", *said, *options) == 2  # a reward that needs an answer
    (tmp_path / "lengths.py").write_text("def length(p, c):\n    return [len(t) for t in c]\n")
    options[1] = tmp_path / "lengths.py"
    assert shell("train", "grpo", *said, *options) == 0
    assert prepared[1].given("train") == [{"prompt": "1+1="}, {"prompt": "10+10="}]
    assert prepared[0]["model"]["reward"] == str(tmp_path / "lengths.py")


# A run by preferences


@pytest.mark.quick(1)
@pytest.mark.parametrize(("name", "data"), [("dpo", "pairs.jsonl"), ("kto", "answers.jsonl")])
def test_a_run_of_preferences(name, data, place, capsys):
    folder = place / name
    options = [*SMALL, "--from", place / "start", "--output", folder, "--epochs", 1]
    assert shell("train", name, "--data", place / data, *options) == 0
    assert {"reward_accuracy", "val_reward_accuracy"} <= set(history(folder)[0])
    assert (folder / "completions.txt").read_text().count("-" * 40) == 1  # of 2 held-out rows
    assert shell("evaluate", folder) == 0
    assert "reward_accuracy" in capsys.readouterr().out
    assert shell("sample", folder, "--prompt", "1+2=", "--count", 1, "--length", 2) == 0
    assert capsys.readouterr().out.startswith("1+2=")


@pytest.mark.slow
def test_a_reward_model_is_trained_and_rewards(place, capsys):
    folder = place / "reward"
    options = [*SMALL, "--from", place / "start", "--output", folder, "--epochs", 1]
    assert shell("train", "reward", "--data", place / "pairs.jsonl", *options) == 0
    assert {"reward_accuracy", "val_confidence"} <= set(history(folder)[0])
    said = (folder / "rewards.txt").read_text()
    assert said.count("(chosen, ") == said.count("(rejected, ") == 2  # held-out rows
    assert shell("sample", folder) == 2
    assert "--reward RUN/model.keras" in capsys.readouterr().err
    taught = ["--reward", folder / "model.keras", "--from", place / "start", *SMALL]
    data = ["--data", place / "sums.jsonl", "--output", place / "by-model", "--epochs", 1]
    assert shell("train", "rloo", *data, *taught, "--set", "model.max_new_tokens=2") == 0
    assert "reward" in history(place / "by-model")[0]


def test_chats_and_a_tokenizer_from_a_file(prepared, tmp_path, shared_data):
    chat = [{"role": "user", "content": "Say hello."}]
    rows = [{"prompt": chat, "chosen": "Hello!", "rejected": "No."}] * 4
    lines(tmp_path / "chats.jsonl", rows)
    pytest.importorskip("tokenizers")
    tokenizer = ["--tokenizer", shared_data / "tokenizer" / "gpt2_encoder.json"]
    data = ["--data", tmp_path / "chats.jsonl", "--set", "model.max_length=32"]
    assert shell("train", "dpo", *data, *tokenizer, *TINY, "--batch-size", 2) == 0
    written, dataset, trainer = prepared
    assert written["model"]["end_token_id"] == 50256
    arrays = trainer.train_dataset.arrays[0]
    row, mask = arrays["chosen"][0], arrays["chosen_mask"][0]
    assert row[mask > 0][-1] == 50256 and row.shape == (16,)
    text = dataset.tokenizer.decode(arrays["chosen"][0])
    assert text.startswith("user: Say hello.\nassistant: Hello!<|endoftext|>")


# Rewards by name


def test_rewards_come_from_files_and_by_name(tmp_path):
    (tmp_path / "two.py").write_text(
        "def a(p, c):\n    return [1]\n\ndef b(p, c):\n    return [2]\n"
    )
    a, b, ready = rewards([f"{tmp_path}/two.py:a", f"{tmp_path}/two.py:b", "gsm8k"])
    assert (a([], []), b([], [])) == ([1], [2])
    assert ready(["?"], ["so #### 1,000"], answer=["#### 1000"]) == [1.0]


def test_what_is_wrong_with_a_reward_is_said(tmp_path):
    for text, said, words in (
        ("def a(p, c):\n  return 1\ndef b(p, c):\n  return 1\n", "x.py", "Unknown function of 'x"),
        ("def accuracy(p, c):\n  return 1\n", "x.py:acuracy", "Did you mean 'accuracy'"),
        ("def broken(:\n", "x.py", "'x.py' can't be run: SyntaxError"),
        ("\nimport nothing_like_it\n", "x.py", r"No module named 'nothing_like_it' \(line 2\)"),
        ("", "exactmatch", "Unknown reward 'exactmatch'. Did you mean 'exact_match'"),
    ):
        (tmp_path / "x.py").write_text(text)
        said = f"{tmp_path}/{said}" if said.startswith("x.py") else said
        with pytest.raises(ValueError, match=words):
            rewards(said)
    with pytest.raises(FileNotFoundError, match=r"There is no file 'no\.py'"):
        rewards("no.py")
    with pytest.raises(ValueError, match="`reward` must be a file"):
        rewards(3)


# What is refused


def test_what_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sums, start = ["--data", place / "sums.jsonl"], ["--from", place / "start"]
    by_match = ["--reward", "exact_match", "--batch-size", 4, *FEW]
    for arguments, words in (
        (["grpo", *sums, *start], "Which reward? --reward FILE.py"),
        (["grpo", "--data", "digits", *by_match], "A file of rows must end in .jsonl, .csv"),
        (["grpo", *sums, "--set", "prompt_key=promt", *by_match], "Did you mean 'prompt'"),
        (["grpo", *sums, "--from", "nowhere", *by_match], "There is no run or model 'nowhere'"),
        (["grpo", *sums, *start, "--set", "width=3", *by_match], "there is no use for width"),
        (["grpo", *sums, *start, *by_match, "--set", "end_token_id=zz"], "which the vocabulary of"),
        (["grpo", *sums, *start, *by_match, "--set", "max_new_tokens=40"], "network's context"),
        (["grpo", *sums, *start, *by_match, "--set", "model.betta=1"], "Unknown key of `model`"),
        (["dpo", *sums, *start, "--reward", "exact_match"], "`--reward` is of no use to DPO"),
        (["dpo", *sums, *start], "Unknown column 'chosen'"),
        (["kto", "--data", place / "pairs.jsonl", *start], "Unknown column 'completion'"),
        (["vae", *sums], "There is no column of numbers to learn in 'sums.jsonl'"),
        (["autoregressive", *sums], "Unknown column 'completion'"),
    ):
        assert words in error(capsys, "train", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_reward_that_fails_is_named(place, tmp_path, capsys):
    (tmp_path / "fails.py").write_text("def worth(p, c):\n    return [1 / 0 for _ in c]\n")
    options = ["--reward", tmp_path / "fails.py", *TINY, *FEW, *SMALL]
    folder = ["--output", tmp_path / "run"]
    assert shell("train", "grpo", "--data", place / "sums.jsonl", *options, *folder) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero. Raised by the reward 'worth' in row 0," in said


@pytest.mark.parametrize("name", ["grpo", "ppo", "reinforce", "rloo", "dpo", "kto", "reward"])
def test_every_default_is_a_setting_that_there_is(name, place):
    family = recipes.FAMILIES[name]
    data = {"dpo": "pairs.jsonl", "reward": "pairs.jsonl", "kto": "answers.jsonl"}.get(
        name, "sums.jsonl"
    )
    dataset = datasets.load_rows(place / data)
    nothing = settings.validate({}, family)
    settings.validate(family.defaults(dataset, nothing), family)
