"""Every source of data, with files that are really written, and what is refused."""

import keras
import numpy as np
import pytest
from PIL import Image

from artifex_keras.datasets import Dataset, digits, load

RNG = np.random.default_rng(0)
GREY = RNG.integers(256, size=(20, 6, 5), dtype="uint8")


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, "uint8")).save(path)


# Named


def test_digits_are_sixteenths_in_the_order_of_the_library():
    from sklearn.datasets import load_digits

    dataset = load("digits")
    assert [len(dataset.part(p)[0]) for p in ("train", "validation", "test")] == [1000, 350, 447]
    assert dataset.shape == (8, 8, 1) and dataset.kind == "images" and dataset.num_classes == 10
    images = np.concatenate([dataset.train, dataset.validation, dataset.test])
    assert images.dtype == "float32" and images.min() == 0 and images.max() == 1
    np.testing.assert_array_equal(16 * images[..., 0], load_digits().images)
    np.testing.assert_array_equal(dataset.test_labels, load_digits().target[1350:])


def test_independent_pixels_of_digits_have_the_known_likelihood():
    # The figure to beat on this division: 106.5 nats with one added to each count.
    dataset = digits()
    train, test = ((16 * x).astype(int).reshape(-1, 64) for x in (dataset.train, dataset.test))
    counts = 1 + np.stack([np.bincount(column, minlength=17) for column in train.T])
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    assert abs(-log_p[np.arange(64), test].sum(1).mean() - 106.5) < 0.05


def test_a_seed_permutes_digits_with_their_labels():
    plain, permuted = digits(), digits(seed=1)
    assert (plain.train != permuted.train).any()

    def pairs(dataset):
        parts = [dataset.part(part) for part in ("train", "validation", "test")]
        rows = [np.c_[x.reshape(len(x), -1), y] for x, y in parts]
        return sorted(map(tuple, np.concatenate(rows)))

    assert pairs(plain) == pairs(permuted)


def test_toys_by_name():
    dataset = load("ring", count=500, seed=2, validation=100, test=0)
    assert dataset.train.shape == (400, 2) and dataset.validation.shape == (100, 2)
    assert dataset.test is None and dataset.kind == "vectors" and dataset.num_classes is None
    assert (load("ring", count=500, seed=3).train[0] != load("ring", count=500).train[0]).all()
    assert repr(dataset) == "Dataset(ring: 400 train, 100 validation vectors of shape (2,))"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="'moons'"):
        load("mons")
    with pytest.raises(FileNotFoundError, match=r"images/nowhere"):
        load("images/nowhere")


def test_keras_data_by_name_and_a_download_that_fails(monkeypatch):
    labels = np.arange(20, dtype="uint8")[:, None] % 3
    arrays = (np.repeat(GREY[..., None], 3, -1), labels), (GREY[:4, ..., None], labels[:4])
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: arrays)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((GREY, labels), (GREY, labels)))
    dataset = load("mnist")
    assert dataset.train.shape == (18, 6, 5, 1) and len(dataset.validation) == 2
    np.testing.assert_array_equal(dataset.test[..., 0], GREY / np.float32(255))
    with pytest.raises(ValueError, match="same shape"):
        load("cifar10")

    def fail():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(ConnectionError, match=r"URL fetch failure.*\.npz"):
        load("mnist")


# Arrays and NumPy's files


@pytest.mark.parametrize(
    "keys", [("x_train", "y_train", "x_test"), ("images", "labels", "test"), ("X", "Y", "X_test")]
)
def test_an_npz_file_is_understood_by_its_keys(tmp_path, keys):
    arrays = dict(zip(keys, (GREY, np.arange(20) % 4, GREY[:3]), strict=True))
    np.savez(tmp_path / "data.npz", **arrays)
    dataset = load(tmp_path / "data.npz", validation=5, seed=None)
    np.testing.assert_array_equal(dataset.train, GREY[:15, ..., None] / np.float32(255))
    np.testing.assert_array_equal(dataset.validation_labels, np.arange(15, 20) % 4)
    assert dataset.test.shape == (3, 6, 5, 1) and dataset.test_labels is None
    assert dataset.num_classes == 4 and dataset.name == "data.npz"


def test_files_of_one_array(tmp_path, random):
    np.save(tmp_path / "points.npy", random.standard_normal((30, 3)))
    np.savez(tmp_path / "positional.npz", GREY)
    np.savez(tmp_path / "odd.npz", my_pictures=GREY)
    assert load(str(tmp_path / "points.npy")).kind == "vectors"
    assert load(tmp_path / "positional.npz").shape == (6, 5, 1)
    assert load(tmp_path / "odd.npz").shape == (6, 5, 1)


def test_an_npz_file_without_a_known_key_names_those_found(tmp_path):
    np.savez(tmp_path / "data.npz", alpha=GREY, beta=GREY)
    with pytest.raises(ValueError, match="'alpha', 'beta'"):
        load(tmp_path / "data.npz")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="broken.npz' is not a file of plain NumPy arrays"):
        load(tmp_path / "broken.npz")
    np.save(tmp_path / "pickled.npy", np.array([{}, None], object))
    with pytest.raises(ValueError, match="pickled.npy' holds Python objects"):
        load(tmp_path / "pickled.npy")


def test_scales():
    unit, symmetric = load(GREY, seed=1), load(GREY, seed=1, scale="symmetric")
    np.testing.assert_allclose(symmetric.train, 2 * unit.train - 1)
    np.testing.assert_allclose(symmetric.test, 2 * unit.test - 1)
    assert symmetric.scale == "symmetric"
    with pytest.raises(ValueError, match="symmetric"):
        load(GREY, scale="symetric")
    with pytest.raises(ValueError, match="for images"):
        load("ring", scale="symmetric")


def test_whole_numbers_are_grey_levels_unless_binary():
    np.testing.assert_array_equal(
        load(GREY.astype("int64"), seed=1).train, load(GREY, seed=1).train
    )
    binary = load((GREY > 127).astype("uint8"), seed=1).train
    assert set(np.unique(binary)) == {0, 1}
    assert load(GREY > 127).train.max() == 1
    tokens = load(np.arange(40).reshape(20, 2))
    assert tokens.kind == "tokens" and tokens.train.dtype == "int32" and tokens.train.max() > 30


def test_labels_may_be_names():
    names = np.array(["cat", "ape", "bee", "ape"] * 5)
    dataset = load({"x": GREY, "y": names}, validation=0, test=0)
    assert dataset.class_names == ("ape", "bee", "cat") and dataset.num_classes == 3
    np.testing.assert_array_equal(dataset.train_labels, [2, 0, 1, 0] * 5)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
def test_labels_may_be_floats_or_one_hot(dtype):
    y = np.arange(20) % 2
    for labels in (y.astype(dtype), np.eye(2, dtype=dtype)[y], y.astype(dtype)[:, None]):
        dataset = load({"x": GREY, "y": labels}, validation=0, test=0, seed=None)
        np.testing.assert_array_equal(dataset.train_labels, y)
        assert dataset.train_labels.dtype == "int32"


@pytest.mark.parametrize(
    "labels", [np.arange(20) - 1, np.linspace(0, 1, 20), np.ones((20, 2)), np.full(20, np.nan)]
)
def test_labels_that_are_no_classes_are_left_out(labels):
    with pytest.warns(UserWarning, match="labels in 'arrays' are left out.*whole numbers from 0"):
        dataset = load({"x": GREY, "y": labels}, validation=0, test=0)
    assert dataset.train_labels is None and len(dataset.train) == 20


def test_examples_may_have_a_name_of_their_own(tmp_path):
    np.savez(tmp_path / "a.npz", pics=GREY, other=np.zeros((3, 2)), y=np.arange(20))
    dataset = load(tmp_path / "a.npz", example_key="pics", validation=0, test=0, seed=None)
    np.testing.assert_array_equal(dataset.train[..., 0], GREY / np.float32(255))
    assert dataset.num_classes == 20
    with pytest.raises(ValueError, match="Unknown array of 'a.npz' 'pic'. Did you mean 'pics'"):
        load(tmp_path / "a.npz", example_key="pic")


def test_division_keeps_every_example_once_with_its_label():
    x = np.arange(50, dtype="float32")[:, None]
    dataset = load({"x": x, "y": np.arange(50)}, validation=0.2, test=5, seed=7)
    parts = [dataset.part(name) for name in ("train", "validation", "test")]
    assert [len(x) for x, _ in parts] == [35, 10, 5]
    for examples, labels in parts:
        np.testing.assert_array_equal(examples[:, 0], labels)
    assert sorted(np.concatenate([y for _, y in parts])) == list(range(50))


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (np.array([[np.nan, 1.0]] * 20), {}, "20 NaN"),
        (np.where(GREY > 250, np.inf, 0.5), {}, "NaN or infinite|from 0 to 255"),
        (GREY.astype("float32"), {}, "floats in .* save grey levels as uint8"),
        (-(GREY / 255), {}, "floats in"),
        (GREY.astype("int32") + 300, {}, "0 to 255"),
        (np.zeros((20, 3, 32, 32)), {}, "channels last"),
        (np.zeros(20), {}, "rows"),
        (np.zeros((0, 3)), {}, "no examples"),
        (np.array([["a", "b"]]), {}, "numbers"),
        ({"x": GREY, "y": np.arange(19)}, {}, "one label"),
        ({"x": GREY, "y": np.eye(19, dtype=int)}, {}, "one label"),
        ({"pics": GREY, "y": np.arange(20)}, {}, "Received: 'pics', 'y'. `example_key`"),
        ("digits", {"example_key": "z"}, "`example_key` does not apply"),
        ({"x": GREY, "x_test": GREY[:, :4]}, {}, "same shape"),
        ({"x": GREY, "x_test": GREY}, {"test": 0.1}, "of its own"),
        (GREY, {"validation": 15, "test": 5}, "Nothing would be left"),
        (GREY, {"validation": -1}, "at least 0.0"),
        (GREY, {"image_size": 8}, "`image_size` does not apply"),
        ("digits", {"count": 8}, "`count` does not apply"),
        ("ring", {"cuont": 8}, "`count`"),
    ],
)
def test_bad_data_and_options_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        load(data, **options)


# Folders of images


def test_a_flat_folder_is_read_in_the_order_of_its_names(tmp_path):
    for index, image in enumerate(GREY):
        write_image(tmp_path / f"{index:02}.png", image)
    (tmp_path / "notes.txt").write_text("not an image")
    dataset = load(tmp_path, validation=4, test=4, seed=None)
    np.testing.assert_array_equal(dataset.train, GREY[:12, ..., None] / np.float32(255))
    assert dataset.train_labels is None and dataset.shape == (6, 5, 1)


def test_sub_folders_are_classes(tmp_path):
    for name, images in (("zero", GREY[:8]), ("one", GREY[8:])):
        for index, image in enumerate(images):
            write_image(tmp_path / name / f"{index:02}.PNG", image)
    dataset = load(str(tmp_path), validation=0, test=0)
    assert dataset.class_names == ("one", "zero")
    np.testing.assert_array_equal(dataset.train_labels, [0] * 12 + [1] * 8)
    np.testing.assert_array_equal(dataset.train[0, ..., 0], GREY[8] / np.float32(255))


def test_sub_folders_named_after_parts_divide_the_data(tmp_path):
    for part, count in (("train", 6), ("val", 3), ("test", 2)):
        for index in range(count):
            write_image(tmp_path / part / "ab"[index % 2] / f"{index}.png", GREY[index])
    dataset = load(tmp_path)
    assert [len(dataset.part(p)[0]) for p in ("train", "validation", "test")] == [6, 3, 2]
    np.testing.assert_array_equal(dataset.validation_labels, [0, 0, 1])


def test_colour_and_grey(tmp_path, random):
    colour = random.integers(256, size=(6, 5, 3), dtype="uint8")
    write_image(tmp_path / "a.png", GREY[0])
    write_image(tmp_path / "b.png", colour)
    images = load(tmp_path, validation=0, test=0).train
    np.testing.assert_array_equal(images[0], np.repeat(GREY[0, ..., None], 3, -1) / np.float32(255))
    np.testing.assert_array_equal(images[1], colour / np.float32(255))
    grey = load(tmp_path, channels=1, validation=0, test=0).train
    luma = colour @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(grey[1, ..., 0], luma, atol=1 / 255)


def test_images_are_scaled_to_cover_and_cut_at_the_centre(tmp_path):
    # Three bands: a square out of the middle shows the middle one alone.
    write_image(tmp_path / "wide.png", np.repeat([[0, 200, 80]], 30, axis=0).repeat(30, axis=1))
    write_image(tmp_path / "square.png", np.full((50, 50), 120))
    images = load(tmp_path, image_size=10, validation=0, test=0).train
    assert images.shape == (2, 10, 10, 1)
    np.testing.assert_allclose(images[1, :, 1:-1], 200 / 255, atol=0.06)
    tall = load(tmp_path, image_size=(12, 6), validation=0, test=0)
    assert tall.shape == (12, 6, 1)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    Image.fromarray(GREY[0]).save(tmp_path / "a.png", exif=exif)
    image = load(tmp_path, validation=0, test=0).train[0, ..., 0]
    np.testing.assert_array_equal(image, np.rot90(GREY[0], -1) / np.float32(255))


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    pixels = np.linspace(0, 65535, 12).reshape(3, 4).astype("uint16")
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    image = load(tmp_path, validation=0, test=0).train[0, ..., 0]
    np.testing.assert_allclose(image, pixels / 65535, atol=1 / 500)


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="No images"):
        load(tmp_path)
    write_image(tmp_path / "a.png", GREY[0])
    write_image(tmp_path / "b.png", GREY[0, :4])
    with pytest.raises(ValueError, match=r"'a.png' of \(6, 5\), 'b.png' of \(4, 5\)"):
        load(tmp_path)
    with pytest.raises(ValueError, match="channels"):
        load(tmp_path, channels=2)
    write_image(tmp_path / "class" / "c.png", GREY[0])
    with pytest.raises(ValueError, match="'a.png' is outside"):
        load(tmp_path)
    (tmp_path / "class" / "c.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"c.png' is not an image"):
        load(tmp_path / "class")


# Text


def test_a_text_becomes_rows_of_ids_in_order(tmp_path):
    text = "the quick brown fox, füchse!\n" * 40
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    dataset = load(tmp_path / "text.txt", length=16, validation=0.25, test=4)
    assert dataset.vocabulary == tuple(sorted(set(text))) and dataset.kind == "tokens"
    assert dataset.train.dtype == "int32" and dataset.shape == (16,)
    rows = np.concatenate([dataset.train, dataset.validation, dataset.test])
    again = "".join(dataset.vocabulary[i] for i in rows.ravel())
    assert again == text[: len(text) // 16 * 16]


def test_bad_text_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(ValueError, match="at least `length`"):
        load(tmp_path / "short.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01" * 100)
    with pytest.raises(ValueError, match="UTF-8"):
        load(tmp_path / "binary.txt")
    (tmp_path / "data.xyz").write_text("x")
    with pytest.raises(ValueError, match=r"\.npz"):
        load(tmp_path / "data.xyz")


def test_shared_mnist(shared_data):
    dataset = load(shared_data / "mnist.npz", validation=10_000)
    assert [len(dataset.part(p)[0]) for p in ("train", "validation", "test")] == [
        50_000,
        10_000,
        10_000,
    ]
    assert isinstance(dataset, Dataset) and dataset.shape == (28, 28, 1)
    assert dataset.num_classes == 10 and dataset.train.max() == 1
