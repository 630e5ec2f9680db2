"""Data from the shell: tables in their own units, folders of images, several files."""

import csv

import numpy as np
import pytest
from command import prepared, shell
from PIL import Image

from artifex_keras import endings
from artifex_keras.datasets import ImageFiles, loading
from artifex_keras.shell import folder as folders

QUICK = ["--epochs", "1", "--optimizer", "sgd", "--set", "ema_decay=null", "--set", "variance=1"]
QUICK += ["--set", "units=[8]"]


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.filterwarnings("ignore:Columns of", "ignore:1 of 200 rows")
def test_samples_of_a_table_have_its_units_and_names(folder, random, capsys):
    height = random.normal(170, 10, 200).round(1)
    lines = [f"{i},{h},{60_000 + 900 * h:.0f},x" for i, h in enumerate(height)]
    lines[3] = "3,,1,x"
    (folder / "t.csv").write_text("\n".join(["id,height,wage,club", *lines]))
    assert shell("train", "vae", "--data", "t.csv", *QUICK, "--output", "run") == 0
    (folder / "t.csv").rename("other.csv")  # samples need the run alone
    assert shell("sample", "run", "--count", 50, "--seed", 0) == 0
    assert capsys.readouterr().out.endswith("run/samples-1.csv\n")
    rows = rows_of("run/samples-1.csv")
    assert list(rows[0]) == ["height", "wage"] and len(rows) == 50
    values = np.array([[float(value) for value in row.values()] for row in rows])
    assert abs(values.mean(axis=0) - [170, 213_000]).max() < 9_000  # untrained, near the mean
    assert abs(values[:, 0].mean() - 170) < 10
    run = folders.Run.at("run")
    other = run.dataset("other.csv")
    assert other.columns == run.columns  # other data are scaled as those that it learned


@pytest.mark.filterwarnings("ignore:The images have", "ignore:1 file")
def test_a_folder_of_images_is_streamed(folder, random):
    (folder / "pets").mkdir()
    for index in range(24):
        pixels = random.integers(256, size=(10 + index % 3, 12), dtype="uint8")
        Image.fromarray(pixels).save(folder / "pets" / f"{index}.png")
    (folder / "pets" / "bad.png").write_bytes(b"no image")
    assert shell("train", "vae", "--data", "pets", *QUICK, "--output", "run") == 0
    assert folders.Run.at("run").dataset("pets").shape == (8, 8, 1)
    config, dataset, trainer = prepared("train", "gan", "--data", "pets", "--image-size", "8x16")
    assert isinstance(dataset.train, ImageFiles) and dataset.shape == (8, 16, 1)
    assert config["data"]["image_size"] == [8, 16]
    assert isinstance(trainer.train_dataset.arrays[0], ImageFiles)
    batch = trainer.train_dataset[0][0]
    assert batch.shape == (20, 8, 16, 1) and batch.min() < -0.5  # a GAN's images: [-1, 1]


@pytest.mark.parametrize("words", [["gan", "--data", "0.npz", "1.npz"], ["gan", "--data", "*.npz"],
                                   ["--data", "0.npz", "1.npz", "gan"]])  # fmt: skip
def test_several_files(folder, words):
    for index in range(2):
        np.savez(folder / f"{index}.npz", x=np.zeros((20, 3), "float32"))
    config, dataset, _ = prepared("train", *words)
    assert config["family"] == "gan" and len(dataset.train) == 32
    source = config["data"]["source"]
    inside = [source] if isinstance(source, str) else source
    assert all(path.startswith(str(folder)) for path in inside)


def test_help_and_messages_name_the_same_endings(capsys):
    with pytest.raises(SystemExit):
        shell("train", "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert endings.listed() in said and "--image-size" in said
    assert {ending for group in endings.FILES.values() for ending in group} == set(loading.READERS)
    assert shell("train", "vae") == 2 and endings.listed() in capsys.readouterr().err
    with pytest.raises(ValueError) as refused:
        open("data.xyz", "w").close()
        loading.load("data.xyz")
    assert endings.listed() in str(refused.value)


def test_the_shell_takes_names_of_columns_and_of_arrays(folder, random):
    rows = "\n".join(f"{a},{b},{a * b}" for a, b in random.normal(size=(40, 2)).round(3))
    (folder / "t.csv").write_text(f"a,b,c\n{rows}")
    config, dataset, _ = prepared("train", "vae", "--data", "t.csv", "--set", "columns=[c, a]")
    assert dataset.columns.names == ("c", "a") and config["data"]["columns"] == ["c", "a"]
    np.savez("own.npz", pics=random.random((20, 4, 4)), tags=np.arange(20))
    named = "--set", "example_key=pics"
    assert prepared("train", "vae", "--data", "own.npz", *named)[1].shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vae", "--data", "own.npz"], "(--set example_key=NAME) says which one it is"),
        (
            ["diffusion", "--data", "digits", "--latent-dim", "4"],
            "`--latent-dim` is of no use to Di",
        ),
        (["vae", "--data", "digits", "--reward", "length"], "`--reward` is of no use to VAE"),
        (["gan", "--data", "digits", "--from", "runs/vae-1"], "`--from` is of no use to GAN"),
        (["autoregressive", "--data", "sums.jsonl"], "(--set completion_key=NAME) says which one"),
        (["dpo", "--data", "asked.jsonl"], "(--set prompt_key=NAME) says which one holds"),
        (["autoregressive", "--data", "short.txt"], "at least `length` characters (--context)"),
    ],
)
def test_errors_name_the_way_out(folder, words, message, capsys):
    np.savez("own.npz", pics=np.zeros((20, 4, 4)), tags=np.arange(20))
    (folder / "sums.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    (folder / "asked.jsonl").write_text('{"question": "1+1=", "chosen": "2", "rejected": "3"}\n')
    (folder / "short.txt").write_text("short")
    assert shell("train", *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "vae", "--image-size", "big"], "must be like 64 or 48x64. Received: 'big'"),
        (["train", "vae", "--image-size", "8x8x3"], "must be like 64 or 48x64"),
        (["train", "vae", "--image-size", "-8"], "must be like 64 or 48x64"),
        (["completion", "fish"], "Unknown shell 'fish'"),
    ],
)
def test_arguments_that_are_wrong(words, message, capsys):
    with pytest.raises(SystemExit):
        shell(*words)
    assert message in capsys.readouterr().err
