"""Contexts of text: a default that memory holds, what is cut, and runs that never begin."""

import json
from pathlib import Path

import pytest
from command import prepared, shell

from artifex_keras.shell import contexts, training


def pairs(path, lengths):
    rows = [{"prompt": "ab" * 5, "chosen": "a" * n, "rejected": "b"} for n in lengths]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TINY = ["--set", "num_layers=1", "--set", "width=8", "--set", "num_heads=1"]


@pytest.mark.parametrize(
    ("lengths", "wanted", "context"),
    [([5, 30], None, 32), ([900, 70], None, 960), ([900, 15_744], None, 1024), ([900], 50, 50)],
)
@pytest.mark.filterwarnings("ignore:1 of ")
def test_the_default_context(lengths, wanted, context):
    assert contexts.default_context(lengths, wanted, "rows.jsonl", "") == context


def test_a_long_row_does_not_decide_the_context(folder):
    path = pairs(folder / "rows.jsonl", [20] * 18 + [1500, 5000])
    with pytest.warns(UserWarning) as warned:
        config, _, trainer = prepared("train", "dpo", "--data", path, *TINY)
    said = [str(w.message) for w in warned if w.category is UserWarning]
    assert said == [
        "2 of 20 rows of 'rows.jsonl' are longer than the context of 1,024 tokens, the longest has "
        "5,011: they lose the beginning of the prompt, then the end of the answer. --context says "
        "another length."
    ]
    assert config["network"]["max_length"] == 1024 and config["training"]["batch_size"] == 8
    assert trainer.train_dataset[0][0]["chosen"].shape == (8, 1025)  # and a target


@pytest.mark.parametrize(
    ("family", "options", "where"),
    [("dpo", [], ("model", "max_length")), ("kto", [], ("model", "max_length")),
     ("grpo", ["--reward", "exact_match", "--set", "max_new_tokens=4"], ("network", "max_length")),
     ("autoregressive", [], ("data", "length"))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.* rows of 'rows.jsonl' are longer")
def test_the_option_for_all_models_of_text(folder, family, options, where):
    rows = [{"prompt": "abc" * 9, "completion": "d" * 9, "chosen": "d", "rejected": "e",
             "label": True, "answer": "d"}] * 20  # fmt: skip
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, dataset, trainer = prepared(
        "train", family, "--data", "rows.jsonl", "--context", 24, *TINY, *options
    )
    assert config[where[0]][where[1]] == 24
    if family == "grpo":
        assert config["model"]["max_prompt_length"] == 20
    elif family == "autoregressive":
        assert dataset.shape == (24,)
    else:
        assert config["network"]["max_length"] == 24


def test_a_context_is_of_no_use_to_images(capsys):
    assert shell("train", "vae", "--data", "digits", "--context", 9) == 2
    assert "`--context` is of no use to VAE" in capsys.readouterr().err


def test_answers_to_be_completed_have_a_limit_too(folder):
    row = {"prompt": "ab", "completion": "c" * 3000}
    rows = [row] + [{"prompt": "ab", "completion": "cc"}] * 12
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.warns(UserWarning, match="1 of 13 rows .* longer than the context of 1,024"):
        _, dataset, _ = prepared("train", "autoregressive", "--data", "rows.jsonl", *TINY)
    assert dataset.shape == (1024,)


def test_what_memory_cannot_hold_is_refused_before_a_folder_is_made(folder, monkeypatch, capsys):
    monkeypatch.setattr(contexts, "memory", lambda: 64 * 10**9)
    path = pairs(folder / "rows.jsonl", [20] * 18 + [15_000])
    arguments = ["dpo", "--data", path, "--context", 15_744, "--batch-size", 16]
    assert shell("train", *arguments) == 2
    said = capsys.readouterr().err
    assert "about 1.523 TB for attention, and this machine has 64" in said
    assert "32 rows of 15,744 tokens" in said and "--context 1024" in said
    assert not Path("runs").exists()
    contexts.require(32, 1024, 4, 4)


def test_a_run_that_never_began_leaves_no_folder(monkeypatch, capsys):
    def fail(*arguments, **options):
        raise MemoryError("no room for the first step")

    monkeypatch.setattr(training, "_run_training", fail)
    assert shell("train", "gan", "--data", "ring", "--set", "count=99", "--set", "units=[4]") == 1
    assert "no room" in capsys.readouterr().err and list(Path("runs").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.* rows of 'dpo_en_demo.jsonl' are longer")
def test_preferences_of_the_shared_data(shared_data):
    path = shared_data / "llm" / "dpo_en_demo.jsonl"
    if not path.is_file():
        pytest.skip("no dpo_en_demo.jsonl")
    config, _, _ = prepared("train", "dpo", "--data", path, *TINY)
    rows = 2 * config["training"]["batch_size"]
    assert config["network"]["max_length"] == 1024
    assert contexts.attention_bytes(rows, 1024, 4, 4) < 4e9
