"""Tables: which columns and rows are learned, in which scale, and back in the table's units."""

import json

import numpy as np
import pytest

from artifex_keras.datasets import Columns, from_table_file, load, load_rows

PEOPLE = "name,height,weight,club\nAnn,170,60.5,1\nBob,180,,1\nCid,190,80.5,1\nDora,160,70,1\n"


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_of_numbers_are_scaled_and_come_back(tmp_path):
    path = write(tmp_path / "people.csv", PEOPLE)
    with pytest.warns(UserWarning) as warned:
        dataset = load(path, validation=0, test=0, seed=None)
    said = [str(warning.message) for warning in warned]
    assert said == [
        "Columns of 'people.csv' are left out: 'name' (that are no numbers); "
        "'club' (of one value).",
        "1 of 4 rows of 'people.csv' miss a value and are left out.",
    ]
    assert dataset.kind == "vectors" and dataset.columns.names == ("height", "weight")
    np.testing.assert_allclose(dataset.train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(dataset.train.std(axis=0), 1, atol=1e-6)
    rows = [[170, 60.5], [190, 80.5], [160, 70]]
    np.testing.assert_allclose(dataset.columns.in_units(dataset.train), rows, rtol=1e-6)
    dataset.columns.write_csv(dataset.train, tmp_path / "back.csv")
    assert (tmp_path / "back.csv").read_text().split() == [
        "height,weight", "170,60.5", "190,80.5", "160,70"
    ]  # fmt: skip


def test_the_training_part_alone_says_the_scale(tmp_path, random):
    x = random.normal(1e6, 3, (50, 2))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="a,b", comments="", fmt="%.9f")
    dataset = load(tmp_path / "x.csv", validation=10, test=10)
    np.testing.assert_allclose(dataset.train.std(axis=0), 1, atol=1e-5)
    together = [dataset.columns.in_units(dataset.part(p)[0]) for p in ("train", "test")]
    assert abs(np.concatenate(together).mean() - 1e6) < 3
    again = load(tmp_path / "x.csv", validation=0, test=0, columns=dataset.columns)
    assert again.columns == dataset.columns  # a known scaling stays


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "a;b\n1,5;2\n2,5;4\n"),  # decimal commas
        ("a.csv", 'a,b\n"1,5",2\n"2,5",4\n'),
        ("a.jsonl", '{"x": 1, "a": 1.5, "b": 2}\n\n{"x": 1, "b": 4, "a": 2.5}\n\n'),
        ("a.csv", "a,b\n1.5,2\n2.5,4\n"),
        ("a.csv", "\ufeffa,b\r\n1.5,2\r\n2.5,4\r\n\r\n"),  # as a spreadsheet saves it
        ("a.csv", 'a|b\n"1.5"|2\n2.5|4\n'),
        ("a.csv", "a,b\n1.5,2\n2.5,4\nNA,1\n3,?\n"),
        ("a.tsv", "a\tb\n1.5\t2\n2.5\t4\n"),
        ("a.jsonl", '{"a": 1.5, "b": 2}\n{"b": 4, "a": 2.5}\n{"a": null, "b": 1}\n'),
    ],
)
@pytest.mark.filterwarnings("ignore:.*miss a value", "ignore:Columns of")
def test_the_forms_of_a_table(tmp_path, name, text):
    dataset = from_table_file(write(tmp_path / name, text))
    assert dataset.columns.names == ("a", "b")
    np.testing.assert_array_equal(dataset.train, [[1.5, 2], [2.5, 4]])


def test_a_table_without_names_and_truth(tmp_path):
    dataset = from_table_file(write(tmp_path / "a.csv", "1,2,3\n4,5,6\n7,8,10\n"))
    assert dataset.columns.names == ("column_1", "column_2", "column_3") and len(dataset.train) == 3
    dataset = from_table_file(write(tmp_path / "b.csv", "ok,n\ntrue,1\nFALSE,2\n"))
    np.testing.assert_array_equal(dataset.train, [[1, 1], [0, 2]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a,b\n"1,234",2\n950,4\n', [1234, 950]),  # thousands, where commas separate columns
        ('a,b\n"1,234,567",2\n"-12,000.5",4\n', [1234567, -12000.5]),
        ("a;b\n1,234;2\n2,500;4\n", [1.234, 2.5]),  # and decimals where they don't
        ("a;b\n1.234,5;2\n1.234.567;4\n", [1234.5, 1234567]),
        ("a;b\n1,234.5;2\n2,000;4\n", [1234.5, 2000]),
        ('a|b\n0,125|2\n"1,5e3"|4\n', [0.125, 1500]),
    ],
)
def test_what_a_comma_stands_for(tmp_path, text, expected):
    dataset = from_table_file(write(tmp_path / "a.csv", text))
    np.testing.assert_array_equal(dataset.train[:, 0], expected)


@pytest.mark.filterwarnings("ignore:Columns of", "ignore:.*miss a value")
@pytest.mark.parametrize(
    ("text", "names", "first", "said"),
    [
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n", ("column_1", "column_2"), 5.1, "values, not"),
        ("Mazda,21,6\nFiat,32,4\n", ("column_2", "column_3"), 21, "values, not names"),
        ("5,,1\n7,3,2\n9,4,4\n", ("column_1", "column_2", "column_3"), 7, None),
        ("1,5;2\n2,5;4\n", ("column_1", "column_2"), 1.5, None),
        ("1,5;2,25;3,5\n2,5;4,5;6\n", ("column_1", "column_2", "column_3"), 1.5, None),
        ("a, b|c, d\n1,5|2\n2,5|4\n", ("a, b", "c, d"), 1.5, None),
        ("0,1\n.5,2\n.7,3\n", ("0", "1"), 0.5, "the names of the columns"),  # as pandas saves
        (",0,1\n9,.5,2\n8,.7,3\n", ("column_1", "0", "1"), 9, "the names of the columns"),
        ("place,1990,2000\nx,1,2\ny,3,5\n", ("1990", "2000"), 1, "the names of the columns"),
        ("0,1\n1,0\n5,5\n", ("column_1", "column_2"), 0, None),  # whole numbers may be values
    ],
)
def test_whether_the_first_line_names_the_columns(tmp_path, text, names, first, said, recwarn):
    dataset = from_table_file(write(tmp_path / "a.csv", text))
    assert dataset.columns.names == names and dataset.train[0, 0] == first
    warned = [str(w.message) for w in recwarn if "first line" in str(w.message)]
    assert len(warned) == bool(said) and all(said in text for text in warned)


def test_row_numbers_are_not_learned_unless_asked_for(tmp_path):
    lines = [f"{i},{i + 1},{i * i},{(7 * i) % 30}" for i in range(30)]
    path = write(tmp_path / "a.csv", "\n".join([",t,x,y", *lines]))
    with pytest.warns(UserWarning, match=r"'column_1', 't' \(that number the rows\)"):
        assert from_table_file(path).columns.names == ("x", "y")
    dataset = from_table_file(path, columns=["y", "t"])
    assert dataset.columns.names == ("y", "t") and dataset.train[3].tolist() == [21, 4]
    assert from_table_file(path, columns="x").shape == (1,)
    with pytest.raises(ValueError, match="Unknown numeric column of 'a.csv' 'z'"):
        from_table_file(path, columns=["z"])
    for wrong in ([], ["x", "x"], [1], {"x": 1}):
        with pytest.raises(ValueError, match="list of different names, or `Columns`"):
            from_table_file(path, columns=wrong)


def test_lists_are_columns(tmp_path):
    rows = [{"e": [i, i + 0.5], "label": i % 3, "m": [[i], [2 * i]]} for i in range(4)]
    rows[1]["e"] = None
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.warns(UserWarning, match="1 of 4 rows of 'a.jsonl' miss a value"):
        dataset = from_table_file(path)
    assert dataset.columns.names == ("e_1", "e_2", "label", "m_1", "m_2")
    np.testing.assert_array_equal(dataset.train[-1], [3, 3.5, 0, 3, 6])
    ragged = write(tmp_path / "b.jsonl", '{"e": [1], "n": 1}\n{"e": [1, 2], "n": 2}\n')
    with pytest.warns(UserWarning, match=r"'e' \(that are no numbers\)"):
        assert from_table_file(ragged).columns.names == ("n",)


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"a": [1.5, None, 2.5], "b": [2, 3, 4], "c": ["x", "y", "z"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="'c' \\(that are no numbers\\)|1 of 3 rows"):
        dataset = from_table_file(tmp_path / "a.parquet")
    np.testing.assert_array_equal(dataset.train, [[1.5, 2], [2.5, 4]])
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(ValueError, match="bad.parquet' is not a Parquet file that can be read"):
        load(tmp_path / "bad.parquet")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'artifex-keras\[tables\]'"):
        load(write(tmp_path / "a.parquet", ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one row"),
        ("a,b\n", "at least one row"),
        ("a,b\n1,2\n3\n", "2 columns. Received: 1 values in line 3"),
        ("a,a\n1,2\n", "'a' twice"),
        ("a,b\nx,y\n", r"no column of numbers to learn in 'a.csv': 'a', 'b' \(that are no numbers"),
        ("a\n1\n1\n", r"no column of numbers.*'a' \(of one value\)"),
        ("a,b\n1,\n2,\n,3\n,4\n", "Each row of 'a.csv' misses a value in 'a', 'b'"),
        ('a,b\n"1,2\n', "is not a table that can be read"),
        ("a,b\n1_000,x\n2_000,y\n", r"no column of numbers.*'a', 'b' \(that are no numbers"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load(write(tmp_path / "a.csv", text), validation=0, test=0)


def test_infinite_values_are_said(tmp_path):
    with pytest.raises(ValueError, match="inf in column 'b' of 'a.csv', example 3"):
        load(write(tmp_path / "a.csv", "a,b\n1,1\n2,2\n3,inf\n"), validation=0, test=0)


def test_known_columns_must_be_there(tmp_path):
    path = write(tmp_path / "a.csv", "height,age\n1,2\n2,4\n")
    with pytest.raises(ValueError, match="Unknown numeric column of 'a.csv' 'heigth'.*'height'"):
        load(path, columns=Columns(("heigth",), (0.0,), (1.0,)))
    turned = load(path, validation=0, test=0, columns=Columns(("age", "height"), (0, 0), (1, 1)))
    assert sorted(turned.train[:, 0]) == [2, 4]


@pytest.mark.parametrize("values", [{}, {"names": ["a"], "mean": [0], "std": [0]}, [],
                                    {"names": ["a"], "mean": [0], "std": ["x"]}])  # fmt: skip
def test_a_damaged_scaling_is_refused(values):
    with pytest.raises(ValueError, match="names, means, deviations"):
        Columns.from_dict(values)


# Several files


def test_files_become_one_data_set(tmp_path, random):
    x = random.integers(0, 2, (30, 4, 4)).astype("uint8")
    x[25:] *= 200  # a shard of zeros and ones is not binary if another has grey levels
    for index in range(3):
        part = slice(10 * index, 10 * (index + 1))
        np.savez(tmp_path / f"{index}.npz", x=x[part], y=np.arange(10))
    expected = x[..., None] / np.float32(255)
    paths = [tmp_path / f"{index}.npz" for index in range(3)]
    for source in (paths, [str(path) for path in paths], str(tmp_path / "*.npz"), tmp_path):
        dataset = load(source, validation=0, test=0, seed=None)
        np.testing.assert_array_equal(dataset.train, expected)
        assert dataset.name == "0.npz and 2 more" and len(dataset.train_labels) == 30


def test_shards_of_tables_texts_and_rows(tmp_path):
    for index in range(2):
        write(tmp_path / f"{index}.csv", f"a\n{index}\n{index + 5}\n")
        write(tmp_path / f"{index}.txt", "abcd" * (index + 1))
        write(tmp_path / f"{index}.jsonl", json.dumps({"prompt": f"{index}+1="}))
    table = load(str(tmp_path / "*.csv"), validation=0, test=0, seed=None)
    np.testing.assert_allclose(table.columns.in_units(table.train)[:, 0], [0, 5, 1, 6], atol=1e-6)
    assert load(str(tmp_path / "?.txt"), length=4, validation=0, test=0).train.shape == (3, 4)
    rows = load_rows(str(tmp_path / "*.jsonl"), validation=0, test=0, seed=None)
    assert [row["prompt"] for row in rows.train] == ["0+1=", "1+1="]
    write(tmp_path / "qa.csv", 'prompt,answer\n"2+2=",4\n')
    assert load_rows(tmp_path / "qa.csv", validation=0, test=0).train[0]["answer"] == "4"


def test_files_that_are_not_one_data_set(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((3, 4)))
    np.savez(tmp_path / "b.npz", x=np.zeros((3, 5)))
    np.savez(tmp_path / "c.npz", z=np.zeros((3, 4)))
    np.save(tmp_path / "d.npy", np.zeros((3, 4)))
    for names, message in {
        "ab": r"one shape. Received: 'x' of \(4,\) in 'a.npz', of \(5,\) in 'b.npz'",
        "ac": "'x' in 'a.npz' and not in 'c.npz'",
    }.items():
        with pytest.raises(ValueError, match=message):
            load([tmp_path / f"{name}.npz" for name in names])
    with pytest.raises(ValueError, match="one ending. Received: 'a.npz', 'd.npy'"):
        load([tmp_path / "a.npz", tmp_path / "d.npy"])
    with pytest.raises(FileNotFoundError, match="no files like"):
        load(str(tmp_path / "*.csv"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\0", "packed by gzip. Unpack it first"),
        (b"PK\x03\x04\0", "a zip archive or a spreadsheet"),
        (b"BZh91AY", "packed by bzip2"),
        (b"PAR1\0", "a Parquet file. Let its name end in .parquet"),
        ("a,b\n1,Zürich".encode("latin-1"), "line 2. Save it as UTF-8"),
    ],
)
def test_files_that_are_no_text_say_what_they_are(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(content)
    with pytest.raises(ValueError, match="a.csv.gz'. Unpack it first."):
        load(tmp_path / "a.csv.gz")


def test_hidden_files_are_no_data(tmp_path):
    for name in ("._0.npz", ".part-1.npz"):
        (tmp_path / name).write_bytes(b"not an array")
    np.savez(tmp_path / "0.npz", x=np.zeros((20, 3)))
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "1.png").write_bytes(b"no image")
    assert load(tmp_path, validation=0, test=0).train.shape == (20, 3)
