"""Data files: a damaged or hostile one is one error with its name, in a moment, without memory."""

import io
import json
import os
import random
import re
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from artifex_keras import datasets
from artifex_keras.datasets import load, load_rows, load_tokenizer
from artifex_keras.datasets.columns import read_columns
from artifex_keras.pictures import loss_curves
from artifex_keras.shell.folder import Run
from artifex_keras.shell.training import resume
from artifex_keras.trust import (
    FileError,
    load_model,
    open_image,
    read_arrays,
    read_json,
    reject_links,
)

X = np.random.default_rng(0).random((40, 3)).astype("float32")


def npy(array=X, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(compressed=True, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **(arrays or {"x": X}))
    return file.getvalue()


def header(text, version=b"\x01\x00"):
    """An .npy file of that header and 8 bytes."""
    text = text.encode() + b"\n"
    length = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + length + text + bytes(8)


def shaped(shape, dtype="<f8"):
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


def archive(method=zipfile.ZIP_DEFLATED, **entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, content in entries.items():
            zipped.writestr(f"{name}.npy", content)
    return file.getvalue()


def archive_of(entries):
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as zipped:
        warnings.simplefilter("ignore")  # zipfile: a name twice
        for name, content in entries:
            zipped.writestr(name, content)
    return file.getvalue()


def central(content):
    """Where the directory of a zip file's only entry begins."""
    return content.rfind(b"PK\x01\x02")


def bomb():
    """An archive whose directory declares two gibibytes."""
    content = bytearray(npz())
    where = central(content) + 24
    content[where : where + 4] = (2**31).to_bytes(4, "little")
    return bytes(content)


def method_unknown(content):
    content = bytearray(content)
    for where in (8, central(content) + 10):
        content[where : where + 2] = (77).to_bytes(2, "little")
    return bytes(content)


def encrypted(content):
    content = bytearray(content)
    content[6] |= 1
    content[central(content) + 8] |= 1
    return bytes(content)


def damaged(content, where, count=40):
    content = bytearray(content)
    for index in range(where, where + count):
        content[index] ^= 0x5A
    return bytes(content)


ARRAYS = {
    "damaged deflate.npz": damaged(npz(), 120),
    "damaged array.npz": damaged(npz(compressed=False), 300),
    "damaged head.npz": damaged(npz(), 0, 8)[:4] + npz()[4:],
    "unknown method.npz": method_unknown(npz()),
    "encrypted.npz": encrypted(npz()),
    "half.npz": npz()[:200],
    "half.npy": npy()[:200],
    "one byte.npy": b"\x93",
    "magic alone.npy": b"\x93NUMPY",
    "empty.npy": b"",
    "empty.npz": b"",
    "a pickle.npy": b"\x80\x04\x95\x00.",
    "text.npy": b"1,2,3\n",
    "146 TiB.npy": shaped((20_000_000_000_000,)),
    "146 TiB.npz": archive(x=shaped((20_000_000_000_000,))),
    "overflow.npy": shaped((2**62, 2**62)),
    "no bytes, no end.npy": shaped((2**63, 0)),
    "negative.npy": shaped((-1, 3)),
    "TokenError.npy": header("{'descr': '<f8', 'fortran_order': False, 'shape': (3,"),
    "no dict.npy": header("[1, 2]"),
    "code.npy": header("__import__('os').system('true')"),
    "unknown dtype.npy": shaped((1,), "<q17"),
    "missing key.npy": header("{'descr': '<f8'}"),
    "too long.npy": header("{'descr': '<f8', 'fortran_order': False, 'shape': (1,)" + " " * 20_000),
    "version 9.npy": header("{}", b"\x09\x00"),
    "deep.npy": header("(" * 3000),
    "objects.npy": npy(np.array([{}, []], object), allow_pickle=True),
    "objects.npz": archive(x=npy(np.array([print], object), allow_pickle=True)),
    "an object inside.npy": npy(np.zeros(2, [("a", "f8"), ("b", "O")]), allow_pickle=True),
    "bomb.npz": bomb(),
    "a name twice.npz": archive_of([("x.npy", npy()), ("x.npy", npy(X[:3]))]),
    "an archive inside.npz": archive(x=npz()),
    "void of no bytes.npy": shaped((2**62,), "|V0"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(ARRAYS[name])
    with pytest.raises(FileError) as raised:
        load(path)
    said = str(raised.value)
    assert said.startswith(repr(str(path))) and 40 < len(said) < 500


def test_what_is_said_of_arrays(tmp_path):
    def said(name):
        (tmp_path / name).write_bytes(ARRAYS[name])
        with pytest.raises(FileError) as raised:
            read_arrays(tmp_path / name)
        return str(raised.value)

    assert "declares float64 of shape (20000000000000,), 160,000,000,000,000 bytes, in" in said(
        "146 TiB.npy"
    )
    assert "Python objects in 'x', which can run code" in said("objects.npz")
    assert "it is empty" in said("empty.npz")
    assert "would unpack to 2,147,483,648 bytes, more than 200 times" in said("bomb.npz")


def test_whole_files_are_read(tmp_path):
    cube = np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    np.savez(tmp_path / "a.npz", x_train=X, cube=cube, none=np.zeros((0, 3)), name=np.array("é"))
    for name, value in read_arrays(tmp_path / "a.npz").items():
        assert value.tolist() == np.load(tmp_path / "a.npz")[name].tolist()
    np.save(tmp_path / "b.npy", cube)
    assert (read_arrays(tmp_path / "b.npy")["x"] == cube).all()
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(10**6))
    assert read_arrays(tmp_path / "zeros.npz")["x"].shape == (10**6,)


LINES = {
    "deep": ('{"prompt": ' + "[" * 100_000, "nested deeper than 50 levels"),
    "just too deep": ('{"prompt": ' + "[" * 60 + "]" * 60 + "}", "nested deeper"),
    "broken": ('{"prompt": "1+1=', "control character"),
    "a list": ("[1, 2]", "must be a JSON object"),
    "an enormous number": ('{"prompt": "a", "n": ' + "9" * 5000 + "}", "limit"),
    "Latin-1": ('{"prompt": "Zürich"}'.encode("latin-1"), "not UTF-8 text"),
    "UTF-16": ('{"prompt": "a"}'.encode("utf-16"), "it is UTF-16"),
    "NUL": ('{"prompt": "a\0"}', "a NUL"),
    "half a pair": (r'{"prompt": "\udc00"}', "half a surrogate pair"),
    "a key twice": ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' comes twice"),
    "a key twice within": ('{"prompt": "a", "x": [{"b": 1, "b": 1}]}', "the key 'b' comes twice"),
    "binary": (b"\x1f\x8b\x08\x00" + bytes(range(128, 255)), "not UTF-8 text"),
}


@pytest.mark.parametrize("name", LINES)
def test_lines(name, tmp_path):
    content, message = LINES[name]
    content = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "1+1="}\n\n' + content + b'\n{"prompt": "2"}\n')
    for read in (load_rows, lambda path: datasets.completions(str(path))):
        with pytest.raises(FileError, match=message) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert "line 3" in str(raised.value) or message == "it is UTF-16"
        assert len(str(raised.value)) < 500


def test_rows_that_are_none(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(FileError, match="Received: none in .*empty.jsonl'"):
        load_rows(tmp_path / "empty.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ValueError, match="folder.jsonl' is a folder"):
        datasets.preferences(str(tmp_path / "folder.jsonl"))
    (tmp_path / "marked.jsonl").write_text('\ufeff{"prompt": "a"}\n')  # as Windows saves it
    assert len(load_rows(tmp_path / "marked.jsonl", validation=0, test=0).train) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Zürich".encode("latin-1"), "is not UTF-8 text: .* in line 1"),
        ("Zürich".encode("utf-16"), "it is UTF-16. Save it as UTF-8"),
        ("Zürich".encode("utf-32"), "it is UTF-32"),
        (b"a\nb\0c", "a NUL in line 2"),
        (bytes(range(256)), "a NUL in line 1|not UTF-8"),
    ],
)
def test_texts(content, message, tmp_path):
    (tmp_path / "book.txt").write_bytes(content * 200)
    for read in (load, load_rows):
        with pytest.raises(FileError, match=f"book.txt' {message}|book.txt' is not .*{message}"):
            read(tmp_path / "book.txt")


def test_texts_of_windows_are_texts(tmp_path):
    (tmp_path / "book.txt").write_bytes("\ufeffone\r\ntwo\rthree\n".encode())
    dataset = load(tmp_path / "book.txt", length=4, validation=0, test=0)
    assert "".join(dataset.tokenizer.characters) == "\nehnortw"


def picture(kind="png", size=(8, 8), **options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), "uint8")
    Image.fromarray(noise).save(file, kind, **options)
    return file.getvalue()


def image_bomb():
    """A PNG that declares 60,000 by 60,000 pixels."""
    content = bytearray(picture())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


IMAGES = {
    "bomb.png": image_bomb(),
    "half.png": picture()[:100],
    "half.jpg": picture("jpeg", (64, 64))[:600],
    "half.gif": picture("gif")[:60],
    "half.tiff": picture("tiff")[:150],
    "half.webp": picture("webp")[:60],
    "chunk.png": damaged(picture(), 33, 8),
    "empty.png": b"",
    "text.png": b"no image",
    "page.jpg": b"<html></html>",
    "head.bmp": picture("bmp")[:20],
    "pixels.ppm": b"P6\n100 100\n255\n" + bytes(10),
    "words.ppm": b"P6\nmany 1\n255\n" + bytes(10),
    "a program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
    "a program.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "another kind.bmp": picture("sgi"),
    "an icon.gif": picture("ico"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, tmp_path):
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / name).write_bytes(IMAGES[name])
    with pytest.warns(UserWarning, match="1 file .* is not an image that can be read") as warned:
        assert len(load(tmp_path, image_size=8, validation=0, test=0).train) == 1
    assert repr(str(tmp_path / name)) in str(warned[0].message)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileError, match="No image in .* can be read. The first: ") as raised:
        load(tmp_path, image_size=8)
    assert repr(str(tmp_path / name)) in str(raised.value)


TOKENIZERS = {
    "broken.model": b"no model",
    "empty.model": b"",
    "broken.json": b"{",
    "list.json": b"[1]",
    "deep.json": b'{"a": ' + b"[" * 100_000,
    "whole.json": b'{"model": {"type": "nothing"}}',
    "latin.json": '{"é": 1}'.encode("latin-1"),
    "vocab.json": b'{"a": "x"}',
    "negative_vocab.json": b'{"a": -1}',
    "empty_vocab.json": b"{}",
    "same_vocab.json": b'{"a": 1, "b": 1}',
    "twice_vocab.json": b'{"a": 0, "a": 1}',
    "true_vocab.json": b'{"a": true}',
    "none_vocab.json": b'{"a": NaN}',
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokenizers(name, tmp_path):
    pytest.importorskip("sentencepiece")
    pytest.importorskip("tokenizers")
    (tmp_path / name).write_bytes(TOKENIZERS[name])
    (tmp_path / "merges.txt").write_text("#version\n")
    with pytest.raises(FileError) as raised:
        load_tokenizer(tmp_path / name)
    assert repr(str(tmp_path / name)) in str(raised.value)


def test_merges_of_other_pieces(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "merges.txt").write_text("x y\n")
    with pytest.raises(FileError, match="merges.txt' is not a file of merges that can be read"):
        load_tokenizer(tmp_path / "vocab.json")


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "its own link"])
def test_what_is_no_ordinary_file(kind, tmp_path):
    path = tmp_path / "model.keras"
    make = {
        "a folder": path.mkdir,
        "a pipe": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "its own link": lambda: path.symlink_to(path),
    }
    make[kind]()
    for read in (load_model, read_json, open_image_in):
        with pytest.raises((FileError, FileNotFoundError), match=re.escape(str(path))):
            read(path)


def open_image_in(path):
    with open_image(path):
        pass


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_a_model_with_two_entries_of_a_name(name, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(archive_of([(name, b"{}"), ("metadata.json", b"{}"), (name, b"{}")]))
    with pytest.raises(FileError, match=f"model.keras' is damaged: it holds '{name}' twice"):
        load_model(path)


# Tables


def test_wide_tables_take_no_time_and_sparse_ones_no_memory(tmp_path):
    wide = ",".join(f"c{i}" for i in range(20_000))
    (tmp_path / "wide.csv").write_text(f"{wide}\n{','.join('1' * 20_000)}\n")
    assert len(read_columns(tmp_path / "wide.csv")) == 20_000
    (tmp_path / "twice.csv").write_text(f"{wide},c7\n{wide},c7\n")
    with pytest.raises(FileError, match="Received: 'c7' twice"):
        read_columns(tmp_path / "twice.csv")
    lines = "".join(f'{{"k{i}": 1}}\n' for i in range(5000))
    (tmp_path / "sparse.jsonl").write_text(lines)
    with pytest.raises(FileError, match="would be a table of 25,000,000 values, most of them"):
        read_columns(tmp_path / "sparse.jsonl")


def test_a_parquet_bomb(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "same.parquet"
    same = arrow.array([1.0], arrow.float64())
    same = arrow.DictionaryArray.from_arrays(arrow.array(np.zeros(2 * 10**7, "int32")), same)
    parquet.write_table(arrow.table({"x": same}), path)
    assert path.stat().st_size < 10_000
    with pytest.raises(FileError, match="would be a table of 20,000,000 values"):
        read_columns(path)


COLUMNS = {
    "texts": {"names": "ab", "mean": "12", "std": "34"},
    "too large": {"names": ["a"], "mean": [10**400], "std": [1]},
    "infinite": {"names": ["a"], "mean": [0], "std": [float("inf")]},
    "no name": {"names": [None], "mean": [0], "std": [1]},
    "one name": {"names": ["a", "a"], "mean": [0, 0], "std": [1, 1]},
    "truth": {"names": ["a"], "mean": [True], "std": [1]},
    "negative": {"names": ["a"], "mean": [0], "std": [-1.0]},
    "a mapping": {"names": {"a": 1}, "mean": [0], "std": [1]},
    "no list": None,
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_scaling_in_a_file_is_checked(name, tmp_path):
    (tmp_path / "columns.json").write_text(json.dumps(COLUMNS[name]))
    with pytest.raises(FileError, match="columns.json' is not .* Columns must have names, means"):
        _ = Run(tmp_path, {}).columns


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 and no more", archive(config=b"{}"), npz(), b"\x89HDF\r\n\x1a\n"],
    ids=["empty", "no archive", "another archive", "npz", "hdf5"],
)
def test_models(content, tmp_path):
    (tmp_path / "model.keras").write_bytes(content)
    with pytest.raises(FileError, match="model.keras' is not a Keras model that can be read"):
        load_model(tmp_path / "model.keras")


def test_no_damage_gets_through(tmp_path):
    """Bytes changed at random: the arrays, or a FileError."""
    draw = random.Random(0)
    for number in range(300):
        content = bytearray((npy(), npz(), npz(compressed=False))[number % 3])
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path = tmp_path / ("a.npy" if number % 3 == 0 else "a.npz")
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        try:
            read_arrays(path)
        except FileError as error:
            assert str(path) in str(error)


DAMAGED = {
    "no epochs": "loss\n1\n",
    "a word": "epoch,loss\none,1\n",
    "empty cells": "epoch,loss\n\n,\n",
    "NaN": "epoch,loss\nnan,1\n",
    "too large": f"epoch,loss\n{'9' * 400},1\n",
    "too many": "epoch,loss\n0,1,2\n",
    "no curve": "epoch\n0\n",
    "NUL": "epoch,loss\n0,\0\n",
    "a quote": 'epoch,loss\n0,"1\n',
    "Latin-1": "epoch,l\xe9ss\n0,1\n".encode("latin-1"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_history(name, tmp_path):
    text = DAMAGED[name]
    (tmp_path / "history.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        FileError, match="history.csv' is not (a table of epochs|UTF-8 )?text|table"
    ):
        loss_curves(tmp_path / "history.csv", tmp_path / "loss.png")


def test_losses_beyond_any_axis_leave_gaps(tmp_path):
    (tmp_path / "h.csv").write_text(
        "\ufeffepoch,loss\r\n0,1e308\r\n1,-1e308\r\n2,1\r\n3,\r\n4,inf\r\n"
    )
    assert loss_curves(tmp_path / "h.csv", tmp_path / "loss.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["history.csv", "model.keras", "config.yaml", "loss.png", ".lock"])
def test_a_run_is_not_resumed_through_links(name, tmp_path):
    """A stranger's folder whose files would be written over files of yours."""
    (tmp_path / "precious").write_text("family: vae\n")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("family: vae\n")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to("../precious")
    with pytest.raises(FileError, match=f"'{name}' in the folder .* is a link to .*precious'"):
        resume(run)
    assert (tmp_path / "precious").read_text() == "family: vae\n"


def test_links_that_lead_nowhere_else_are_left_alone(tmp_path):
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir(), disk.mkdir()
    (tmp_path / "alias").symlink_to(run)
    (run / "checkpoints").symlink_to(disk)  # a larger disk
    (run / "a.png").touch()
    (run / "newest.png").symlink_to("a.png")
    for folder in (run, tmp_path / "alias"):
        reject_links(folder)
