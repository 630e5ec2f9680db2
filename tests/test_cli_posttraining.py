"""The shell learns from examples and from a teacher: what it fills, resumes, samples, refuses."""

import json

import keras
import numpy as np
import pytest
from test_cli_rl import SMALL, SUMS, TINY, config, error, history, lines, shell

from artifex_keras import datasets
from artifex_keras.datasets.examples import from_examples_file
from artifex_keras.shell import folder, recipes, settings

pytestmark = pytest.mark.backends("jax")

ROWS = [{"prompt": row["prompt"], "completion": row["answer"]} for row in SUMS]
USER, ASSISTANT = ({"role": role, "content": "1"} for role in ("user", "assistant"))
CHAT = {"messages": [USER, ASSISTANT, USER, ASSISTANT]}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the run of a tiny transformer that learned from examples."""
    folder = tmp_path_factory.mktemp("examples")
    lines(folder / "sums.jsonl", ROWS)
    data = ["--data", folder / "sums.jsonl"]
    assert shell("train", "sft", *data, *SMALL, *TINY, "--output", folder / "sft") == 0
    return folder


# Examples


def test_a_run_of_examples_is_filled_sampled_evaluated_and_resumed(place, capsys):
    run = place / "sft"
    names = {"config.yaml", "history.csv", "loss.png", "model.keras", "completions.txt"}
    assert names <= {path.name for path in run.iterdir()}
    before = history(run)
    assert len(before) == 2 and {"perplexity", "val_accuracy"} <= set(before[0])
    table = (run / "completions.txt").read_text()
    assert table.count("-" * 40) == 1  # of 2 held-out rows
    assert shell("sample", run, "--prompt", "1+2=", "--count", 2, "--length", 3, "--seed", 0) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("1+2=") for line in said) == 2
    assert shell("evaluate", run) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    np.testing.assert_allclose(float(said["perplexity"]), np.exp(float(said["loss"])), rtol=1e-4)
    assert shell("train", "--resume", run, "--epochs", 3) == 0
    assert len(history(run)) == 3 and history(run)[:2] == before


def test_answers_alone_count_and_end(place):
    dataset = folder.Run.at(place / "sft").dataset()
    model = folder.Run.at(place / "sft").model()
    arrays = model.as_arrays(dataset.given("test"))
    for row, tokens, mask in zip(dataset.given("test"), *arrays.values(), strict=True):
        assert dataset.tokenizer.decode(tokens[mask > 0]) == row["completion"] + "\n"


def test_of_chats_the_assistant_counts_and_answers_the_user(prepared, tmp_path):
    lines(tmp_path / "chats.jsonl", [CHAT] * 20)
    data = ["--data", tmp_path / "chats.jsonl", "--set", "packing=best_fit"]
    assert shell("train", "sft", *data, *TINY, *SMALL) == 0
    written, dataset, trainer = prepared
    assert written["model"]["packing"] == "best_fit" and written["network"]["max_length"] == 64
    assert trainer.train_dataset.arrays[0]["mask"].sum() == 16 * 4  # two answers, and their ends
    recipe = recipes.FAMILIES["sft"]
    texts = recipe.sample(trainer.model, dataset, 1, 0, prompt="11", length=2)
    assert texts[0].startswith("user: 11\nassistant: ")
    texts = recipe.sample(trainer.model, dataset, 1, 0, length=2)
    assert texts[0].startswith("user: 1\nassistant: 1\nuser: 1\nassistant: ")


def test_texts_and_columns_of_other_names(prepared, tmp_path):
    (tmp_path / "texts.txt").write_text("one two three\n\nfour five six\n" * 10)
    assert shell("train", "sft", "--data", tmp_path / "texts.txt", *TINY, *SMALL) == 0
    _, dataset, trainer = prepared
    assert trainer.train_dataset.arrays[0]["mask"][0].sum() == 14  # 13 characters and the end
    assert dataset.given("train")[0].keys() == {"text"}
    assert recipes.FAMILIES["sft"].sample(trainer.model, dataset, 1, 0)[0][:8] in (
        "one two ", "four fiv"
    )  # fmt: skip
    rows = [{"q": row["prompt"], "a": row["completion"], "more": 1} for row in ROWS]
    lines(tmp_path / "qa.jsonl", rows)
    keys = ["--set", "prompt_key=q", "--set", "completion_key=a"]
    assert shell("train", "sft", "--data", tmp_path / "qa.jsonl", *keys, *TINY, *SMALL) == 0
    assert prepared[1].given("train")[0].keys() == {"prompt", "completion"}


# Careless files


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([CHAT, "", "", {"messages": [USER, USER]}], "the roles user in line 4 of '{path}'"),
        ([CHAT] * 6 + ['{"messages": [}'], "in line 7 of '{path}'"),
        ([CHAT, {"messages": "hello"}], "a list of {'role', 'content'}. Received: 'hello' in line"),
        ([CHAT, {"messages": [{"role": "user"}]}], "Unknown key 'content'"),
        ([CHAT, {"messages": [{"role": "user", "content": 3}]}], "must be a text"),
        ([CHAT, "", {"text": "hello"}], "Received: no 'messages' in line 3 of '{path}'"),
        ([{"text": "a"}, {"text": ""}], "at least one character. Received: '' in line 2"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "no 'completion' in line 2"),
        ([{"prompt": "a", "completion": 4}], "must be a text or a chat. Received: 4 in line 1"),
        ([{"prompt": "a", "completon": "b"}], "Did you mean 'completon'"),
        ([{"prompts": "a", "completion": "b"}], "Did you mean 'prompts'"),
        ([{"conversations": []}], "Rows to learn must have 'messages'"),
        (["", ""], "There must be at least one row"),
    ],
)
def test_an_error_names_the_file_and_the_line(rows, words, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    rows = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(row + "\n" for row in rows))
    said = error(capsys, "train", "sft", "--data", path, "--set", "validation=0", *TINY)
    assert words.replace("{path}", str(path)) in said
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_row_of_a_second_file_and_of_a_table_is_named(tmp_path):
    lines(tmp_path / "1.jsonl", [CHAT] * 3)
    (tmp_path / "2.jsonl").write_text(json.dumps(CHAT) + '\n\n{"messages": [1]}\n')
    with pytest.raises(ValueError, match=r"in line 3 of '.*2\.jsonl'"):
        from_examples_file([tmp_path / "1.jsonl", tmp_path / "2.jsonl"])
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\nc,\n")
    with pytest.raises(ValueError, match=r"no 'completion' in row 1 of '.*rows\.csv'"):
        from_examples_file(tmp_path / "rows.csv")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n\n{"prompt": 3}\n')
    with pytest.raises(ValueError, match=r"Received: 3 in line 3 of '.*p\.jsonl'"):
        datasets.load_rows(tmp_path / "p.jsonl")


def test_a_chat_without_the_assistant_is_learned_where_all_counts(prepared, tmp_path):
    lines(tmp_path / "chats.jsonl", [{"messages": [USER]}] * 3)
    data = ["--data", tmp_path / "chats.jsonl", "--set", "assistant_only=false"]
    assert shell("train", "sft", *data, *TINY, "--batch-size", 1) == 0
    assert prepared[2].train_dataset.arrays[0]["mask"].sum() == 3 * len("user: 1\n")


# A teacher


def test_a_teacher_is_copied_and_the_run_continues(place, capsys):
    data = ["--data", place / "sums.jsonl", "--teacher", place / "sft", "--output", place / "dist"]
    small = ["--set", "num_layers=1", "--set", "width=4", "--set", "num_heads=1"]
    few = [*SMALL, "--epochs", 1, "--set", "max_new_tokens=2"]
    with pytest.warns(UserWarning, match="never trained"):
        assert shell("train", "distillation", *data, *small, *few) == 0
    written = config(place / "dist")
    assert written["model"]["teacher"] == str(place / "sft")
    model = folder.Run.at(place / "dist").model()
    taught = keras.saving.load_model(place / "sft" / "model.keras").policy
    for one, other in zip(model.teacher.weights, taught.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    assert model.student.count_params() < model.teacher.count_params()
    capsys.readouterr()
    assert shell("evaluate", place / "dist") == 0
    assert "agreement" in capsys.readouterr().out
    assert shell("sample", place / "dist", "--prompt", "1+2=", "--count", 1) == 0
    assert capsys.readouterr().out.startswith("1+2=")
    before = history(place / "dist")
    assert shell("train", "--resume", place / "dist", "--epochs", 2) == 0
    assert history(place / "dist")[:1] == before and len(history(place / "dist")) == 2


def test_completions_of_the_data_fit_into_a_new_student(place, prepared):
    data = ["--data", place / "sums.jsonl", "--teacher", place / "sft" / "model.keras"]
    assert shell("train", "distillation", *data, *TINY, *SMALL, "--set", "on_policy=0") == 0
    written, dataset, trainer = prepared
    assert trainer.train_dataset.arrays[0]["completion"].shape == (16, 2)
    own = folder.Run.at(place / "sft").dataset().tokenizer
    assert dataset.tokenizer.characters == own.characters


def test_what_is_refused(place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "letters.jsonl", [{"prompt": "a", "completion": "b"}] * 10)
    sums, teacher = ["--data", place / "sums.jsonl"], ["--teacher", place / "sft"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(
        f"family: sft\ndata: {{source: {tmp_path}/letters.jsonl}}\n"
    )
    for arguments, words in (
        (["distillation", *sums, *TINY], "Which teacher? --teacher RUN"),
        (["distillation", *sums, "--teacher", "nowhere"], "model 'nowhere' for `teacher`"),
        (["distillation", *sums, *teacher, "--from", "other"], "`teacher` must have the tokens"),
        (["distillation", *sums, *teacher, "--set", "on_polic=1"], "Did you mean 'on_policy'"),
        (["sft", *sums, *teacher], "`--teacher` is of no use to SFT"),
        (["sft", *sums, "--set", "packin=wrapped"], "Did you mean 'packing'"),
        (["sft", *sums, "--set", "packing=best_fitt", *TINY], "Did you mean 'best_fit'"),
        (["sft", *sums, "--reward", "exact_match"], "`--reward` is of no use to SFT"),
        (["sft", "--data", "digits"], "A file of rows must end in .jsonl, .csv"),
        (["sftt", *sums], "Did you mean 'sft'"),
    ):
        assert words in error(capsys, "train", *arguments)


def test_an_option_is_named_that_was_meant(capsys):
    with pytest.raises(SystemExit):
        shell("train", "distillation", "--teachr", "runs/sft")
    assert "Did you mean '--teacher'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sft", "distillation"])
def test_every_default_is_a_setting_that_there_is(name, place):
    family = recipes.FAMILIES[name]
    source = str(place / "sums.jsonl")
    nothing = settings.validate({"data": {"source": source}}, family)
    settings.validate(family.defaults(family.load(source), nothing), family)
