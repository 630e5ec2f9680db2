"""Folders of images as a `Dataset`, stacked in memory or read batch by batch."""

import dataclasses

import numpy as np

from artifex_keras import endings
from artifex_keras.aliases import FilePath
from artifex_keras.arguments import (
    boolean,
    broken_rule,
    checked,
    file_path,
    one_of,
    optional,
    sizes,
)
from artifex_keras.datasets.dataset import Dataset
from artifex_keras.datasets.shards import is_hidden
from artifex_keras.trust import FileError, open_image
from artifex_keras.utils import warn

__all__ = ["ImageFiles", "from_image_folder"]

# Folders of these names divide the data; all others are classes.
PART_FOLDERS = {"train": "train", "validation": "validation", "valid": "validation",
                "val": "validation", "test": "test"}  # fmt: skip
GREY = ("1", "L", "LA", "La", "I", "F")
KEPT = 2**27  # bytes of pixels that stay in memory when images are read from files
SIDES = (8, 64)  # the least and the largest side that "auto" scales images of several sizes to


def _image_size(name, value):
    if isinstance(value, str) and value == "auto":
        return value
    size = sizes(name, value)
    if len(size) > 2:
        raise broken_rule(name, value, "an integer or (height, width)")
    return size if len(size) == 2 else (size[0], size[0])


@checked(
    folder=file_path, image_size=optional(_image_size), channels=one_of(1, 3, None), stream=boolean
)
def from_image_folder(
    folder: FilePath,
    *,
    image_size: int | str | tuple[int, int] | None = None,
    channels: int | None = None,
    stream: bool = False,
):
    """The images of a folder, in [0, 1]; its sub-folders, if there are any, are their classes.

    Sub-folders `train`, `validation` (`val`, `valid`) and `test` hold one part each instead.
    `channels` is 1 for grey, 3 for colour, by default 3 if any image has colours. Files are taken
    in the order of their names, without hidden ones. Files that can't be read are left out, and a
    warning counts them. Photographs are turned upright, transparent places are white.

    Args:
        folder: of the images.
        image_size: an integer or (height, width): each image is scaled to cover that size, and its
            centre is cut out. None wants images of one size; "auto" keeps one size, and scales
            several to a square with the power of two that fits the smallest, from 8 to 64.
        channels: 1, 3 or None.
        stream: give `ImageFiles`, which read an image when its row is asked for, in place of
            arrays of all images.

    Raises:
        ValueError: for no images, images of several sizes, no file that can be read, or images
            both inside and outside sub-folders.

    Example:

    ```python
    from pathlib import Path
    from PIL import Image
    import artifex_keras as ak

    for name in ("cats", "dogs"):
        Path("pets", name).mkdir(parents=True)
        Image.new("RGB", (20, 16), "red").save(Path("pets", name, "1.png"))
    dataset = ak.datasets.from_image_folder(Path("pets"), image_size=8)
    print(dataset.shape, dataset.class_names)  # (8, 8, 3) ('cats', 'dogs')
    ```
    """
    parts = {part: _listed(place) for part, place in _part_folders(folder).items()}
    headers, first_error = _headers([path for files in parts.values() for path, _ in files])
    size = _common_size(headers, image_size)
    if channels is None:
        channels = 3 if any(colours for _, colours in headers.values()) else 1
    pixels = _Pixels(size or (1, 1), channels)
    for path in headers:
        first_error = pixels.check(path) or first_error
    parts, left_out = _readable(parts, {*headers} - pixels.damaged)
    if left_out:
        _say_unreadable(folder, parts, left_out, first_error)
    class_names = sorted({name for files in parts.values() for _, name in files} - {None})
    dataset = Dataset(folder.name, "images", None, class_names=tuple(class_names) or None)
    for part, files in parts.items():
        images = ImageFiles([path for path, _ in files], pixels)
        changed = {part: images if stream else np.asarray(images)}
        if class_names:
            index = [class_names.index(name) for _, name in files]
            changed[f"{part}_labels"] = np.array(index, "int32")
        dataset = dataclasses.replace(dataset, **changed)
    return dataset


def _part_folders(folder):
    if not (folder / "train").is_dir():
        return {"train": folder}
    found = sorted(place for place in folder.iterdir() if place.name.lower() in PART_FOLDERS)
    return {PART_FOLDERS[place.name.lower()]: place for place in found if place.is_dir()}


def _listed(folder):
    """`(path, class name or None)` of the images in `folder`, in order."""
    paths = sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in endings.IMAGES and p.is_file() and not is_hidden(p, folder)
    )
    if not paths:
        raise ValueError(
            f"No images in {str(folder)!r}: looked for {', '.join(endings.IMAGES)}. A folder of "
            f"data files must hold files of one ending: {endings.listed()}."
        )
    inside = [path.relative_to(folder).parts[:-1] for path in paths]
    if any(inside) and not all(inside):
        loose = paths[inside.index(())]
        raise ValueError(
            "Images must all be in sub-folders, which are their classes, or none of them. "
            f"Received: {str(folder)!r}, where {loose.name!r} is outside."
        )
    return [(path, parts[0] if parts else None) for path, parts in zip(paths, inside, strict=True)]


def _readable(parts, good):
    """The files of each part that are in `good`, and how many aren't."""
    kept = {part: [file for file in files if file[0] in good] for part, files in parts.items()}
    return kept, sum(map(len, parts.values())) - sum(map(len, kept.values()))


def _say_unreadable(folder, parts, left_out, error):
    if not all(parts.values()):
        empty = next(part for part, files in parts.items() if not files)
        where = f"{str(folder)!r}" if len(parts) == 1 else f"the {empty} part of {str(folder)!r}"
        raise FileError(f"No image in {where} can be read. The first: {error}")
    number = "1 file" if left_out == 1 else f"{left_out} files"
    warn(f"{number} in {str(folder)!r} can't be read and are left out. The first: {error}")


# Images in files


def _headers(paths):
    """`{path: ((height, width), whether it has colours)}`, and the first error."""
    found, first = {}, None
    for path in paths:
        try:
            found[path] = _header(path)
        except FileError as error:
            first = first or error
    return found, first


def _header(path):
    from PIL import ExifTags

    with open_image(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        width, height = image.size[::-1] if turned else image.size
        return (height, width), _has_colours(image)


def _has_colours(image):
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return bool((palette != palette[:, :1]).any())
    return image.mode not in GREY and image.mode[:2] != "I;"


def _common_size(headers, wanted):
    """The size, (height, width), that all images get; None if there are no images."""
    if wanted not in (None, "auto"):
        return wanted
    found = {size: path for path, (size, _) in reversed(headers.items())}
    if len(found) <= 1:
        return next(iter(found), None)
    if wanted is None:
        (first, path), (other, second) = [*reversed(found.items())][:2]
        raise ValueError(
            "Images must have the same size, or `image_size` must be given. Received: "
            f"{path.name!r} of {first}, {second.name!r} of {other}."
        )
    smallest = min(min(size) for size in found)
    side = 2 ** int(np.log2(np.clip(smallest, *SIDES)))
    warn(
        f"The images have {len(found)} sizes and are scaled to {side} x {side}; `image_size` "
        "(--image-size) says another."
    )
    return (side, side)


class _Pixels:
    """Reads images as uint8 (height, width, channels); keeps as many as fit into `KEPT` bytes."""

    def __init__(self, size, channels):
        self.shape = (*size, channels)
        self.kept, self.damaged = {}, set()
        self._last = None

    @property
    def full(self):
        return (len(self.kept) + 1) * np.prod(self.shape) > KEPT

    def check(self, path):
        """The error of a file that can't be read, or None; files beyond the memory aren't tried."""
        if self.full:
            return None
        try:
            self[path]
        except FileError as error:
            self.damaged.add(path)
            return error
        return None

    def __getitem__(self, path):
        if path in self.kept:
            return self.kept[path]
        pixels = _pixels(path, self.shape)
        if not self.full:
            self.kept[path] = pixels
        self._last = pixels
        return pixels

    def or_another(self, path):
        """The pixels of a file; of the last one that was read where this one can't be."""
        try:
            return self[path]
        except (FileError, FileNotFoundError) as error:
            if self._last is None:
                raise
            if path not in self.damaged:
                self.damaged.add(path)
                warn(f"{error} Another image takes its place.")
            return self._last


def _pixels(path, shape):
    """One image, upright, as uint8 of that shape."""
    from PIL import Image, ImageOps

    with open_image(path) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode[:1] == "I":  # sixteen bits, which Pillow would clip and not scale
            image = Image.fromarray((np.asarray(image) / 257).round().astype("uint8"))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if shape[2] == 1 else "RGB")
        if image.size != (shape[1], shape[0]):
            image = ImageOps.fit(image, (shape[1], shape[0]), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(shape)


class ImageFiles:
    """Images in files, as an array (N, height, width, channels) of float32 in [0, 1].

    A row is read when it is asked for: ``images[:20]`` and ``images[[3, 1]]`` are NumPy arrays, as
    is ``np.asarray(images)`` of all. `take(rows)` is a part that still reads from the files. Up to
    128 MiB of pixels stay in memory.

    Example:

    ```python
    from pathlib import Path
    from PIL import Image
    import artifex_keras as ak

    Path("dots").mkdir()
    for index in range(3):
        Image.new("L", (8, 8), 50 * index).save(Path("dots", f"{index}.png"))
    images = ak.datasets.from_image_folder("dots", stream=True).train
    print(images.shape, images[1:].max())  # (3, 8, 8, 1) 0.39215687
    ```
    """

    dtype = np.dtype("float32")
    ndim = 4

    def __init__(self, paths, pixels, changes=()):
        self._paths, self._source, self._changes = paths, pixels, changes

    @property
    def shape(self):
        return (len(self._paths), *self._source.shape)

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, rows):
        if isinstance(rows, (int, np.integer)):
            return self[[int(rows)]][0]
        paths = self.take(rows)._paths
        images = np.empty((len(paths), *self._source.shape), "float32")
        for place, path in zip(images, paths, strict=True):
            place[...] = self._source.or_another(path)
        images /= 255
        for change in self._changes:
            images = change(images)
        return images

    def __array__(self, dtype=None, copy=None):
        return self[:] if dtype is None else self[:].astype(dtype)

    def take(self, rows):
        """The rows of a slice, integers or booleans, still in files."""
        paths = self._paths[rows] if isinstance(rows, slice) else self._indexed(rows)
        return ImageFiles(paths, self._source, self._changes)

    def _indexed(self, rows):
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(int)
        return [self._paths[row] for row in rows]

    def changed(self, change):
        """The same images after a function of an array of them."""
        return ImageFiles(self._paths, self._source, (*self._changes, change))
