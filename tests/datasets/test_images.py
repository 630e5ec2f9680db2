"""Images in folders: what is skipped, what is scaled, and files that are read batch by batch."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from artifex_keras.datasets import ImageFiles, images, load
from artifex_keras.trainers.batches import ArrayBatches, from_files

WHOLE = {"validation": 0, "test": 0, "seed": None}


@pytest.fixture
def folder(tmp_path, random):
    """Twenty grey images of 6 x 5 pixels; gives the folder and the pixels."""
    pixels = random.integers(256, size=(20, 6, 5), dtype="uint8")
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index:02}.png")
    return tmp_path, pixels[..., None] / np.float32(255)


def test_files_behave_like_the_array_of_all(folder):
    path, expected = folder
    files = load(path, stream=True, **WHOLE).train
    assert isinstance(files, ImageFiles) and files.shape == expected.shape and len(files) == 20
    np.testing.assert_array_equal(files, expected)
    np.testing.assert_array_equal(files[3:5], expected[3:5])
    np.testing.assert_array_equal(files[[7, 2]], expected[[7, 2]])
    np.testing.assert_array_equal(files[-1], expected[-1])
    np.testing.assert_array_equal(files.take(np.arange(20) % 2 == 0)[1], expected[2])


def test_division_and_scale_keep_files(folder):
    options = {"validation": 4, "test": 0.1, "seed": 3, "scale": "symmetric"}
    stacked, streamed = load(folder[0], **options), load(folder[0], stream=True, **options)
    for part in ("train", "validation", "test"):
        files = streamed.part(part)[0]
        assert isinstance(files, ImageFiles)
        np.testing.assert_array_equal(files, stacked.part(part)[0])


def test_batches_of_files_are_those_of_arrays(folder):
    files = load(folder[0], stream=True, **WHOLE).train
    one, other = (ArrayBatches(x, 6, seed=1) for x in (files, folder[1]))
    for index in range(4):
        np.testing.assert_array_equal(one[index][0], other[index][0])
    batches = from_files(files, 8)
    assert [len(batches[index][0]) for index in range(3)] == [8, 8, 4]
    assert from_files(folder[1], 8) is folder[1]


def test_images_are_not_all_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "KEPT", 2**20)
    for index in range(40):
        Image.new("RGB", (160, 160), (index, 0, 0)).save(tmp_path / f"{index:02}.png")
    tracemalloc.start()
    files = load(tmp_path, stream=True, **WHOLE).train
    batches = ArrayBatches(files, 4, shuffle=False, seed=0)
    means = [float(batches[index][0].sum(axis=(1, 2, 3)).mean()) for index in range(10)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert means == pytest.approx([160 * 160 * (4 * i + 1.5) / 255 for i in range(10)])
    assert peak < 5e6 < files.shape[0] * 160 * 160 * 3 * 4


def test_a_file_that_breaks_later_is_replaced(folder, monkeypatch):
    monkeypatch.setattr(images, "KEPT", 0)
    files = load(folder[0], stream=True, **WHOLE).train
    (folder[0] / "01.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="01.png' is not an image.*Another image") as warned:
        np.testing.assert_array_equal(files[:2], folder[1][[0, 0]])
        files[:2]
    assert len(warned) == 1


def test_unreadable_files_are_counted_in_one_line(folder):
    whole = (folder[0] / "03.png").read_bytes()
    (folder[0] / "03.png").write_bytes(whole[: len(whole) // 2])
    (folder[0] / "05.png").write_bytes(b"")
    (folder[0] / "notes.jpg").write_text("no image")
    with pytest.warns(UserWarning, match="^3 files in .* can't be read and are left out") as warned:
        dataset = load(folder[0], **WHOLE)
    assert len(warned) == 1 and len(dataset.train) == 18
    kept = [index for index in range(20) if index not in (3, 5)]
    np.testing.assert_array_equal(dataset.train, folder[1][kept])


def test_labels_stay_with_their_images(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.new("L", (4, 4), 100 * (name == "b") + index).save(
                tmp_path / name / f"{index}.png"
            )
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="^1 file in "):
        dataset = load(tmp_path, **WHOLE)
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 1, 1, 1])
    np.testing.assert_allclose(dataset.train[:, 0, 0, 0] * 255, [0, 2, 100, 101, 102], rtol=1e-6)


def test_no_file_can_be_read(tmp_path):
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match="No image in '.*train' can be read. The first: .*a.png"):
        load(tmp_path / "train")
    Image.new("L", (4, 4)).save(tmp_path / "train" / "a.png")
    with pytest.raises(ValueError, match="No image in the validation part of .* can be read"):
        load(tmp_path)


def test_several_sizes_are_scaled_to_one(folder):
    Image.new("L", (40, 30), 255).save(folder[0] / "large.png")
    with pytest.warns(UserWarning, match="2 sizes and are scaled to 8 x 8.*--image-size"):
        dataset = load(folder[0], image_size="auto", **WHOLE)
    assert dataset.shape == (8, 8, 1) and dataset.train[-1].min() == 1
    assert load(folder[0], image_size=(4, 6), **WHOLE).shape == (4, 6, 1)


def test_one_size_stays_as_it_is(folder):
    np.testing.assert_array_equal(load(folder[0], image_size="auto", **WHOLE).train, folder[1])


def test_transparency_palettes_and_grey(tmp_path):
    glass = np.zeros((4, 4, 4), "uint8")
    glass[:2] = (255, 0, 0, 255)  # red above, black that can't be seen below
    Image.fromarray(glass).save(tmp_path / "a.png")
    image = load(tmp_path, **WHOLE).train[0]
    np.testing.assert_array_equal(image[0, 0], [1, 0, 0])
    np.testing.assert_array_equal(image[3, 0], [1, 1, 1])
    (tmp_path / "a.png").unlink()
    Image.fromarray(glass[..., 0]).convert("P").save(tmp_path / "grey.gif")
    assert load(tmp_path, **WHOLE).shape == (4, 4, 1)  # a palette of greys is grey
    Image.new("RGB", (4, 4), "blue").quantize().save(tmp_path / "blue.png")
    dataset = load(tmp_path, **WHOLE)
    assert dataset.shape == (4, 4, 3)
    np.testing.assert_allclose(dataset.train[0, 0, 0], [0, 0, 1], atol=0.02)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "print.tif")
    np.testing.assert_allclose(load(tmp_path, **WHOLE).train[-1, 0, 0], [1, 0, 0], atol=0.02)


def test_sizes_are_compared_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (4, 6)).save(tmp_path / "a.png", exif=exif)
    Image.new("L", (6, 4)).save(tmp_path / "b.png")
    assert load(tmp_path, **WHOLE).shape == (4, 6, 1)
