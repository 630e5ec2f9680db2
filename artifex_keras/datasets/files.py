"""Folders of images, text files and files of rows as a `Dataset`."""

import dataclasses
from pathlib import Path

import numpy as np

from artifex_keras.arguments import (
    broken_rule,
    checked,
    count,
    file_path,
    one_of,
    optional,
    sizes,
    text,
    unknown_name,
)
from artifex_keras.datasets.dataset import Dataset
from artifex_keras.datasets.rows import columns_of, required, shown
from artifex_keras.datasets.text import chat_text, is_chat
from artifex_keras.datasets.tokenizers import CharacterTokenizer, as_tokenizer
from artifex_keras.trust import read_text, reading

__all__ = ["from_image_folder", "from_rows_file", "from_text_file"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
# Folders of these names divide the data; all others are classes.
PART_FOLDERS = {"train": "train", "validation": "validation", "valid": "validation",
                "val": "validation", "test": "test"}  # fmt: skip


def _image_size(name, value):
    size = sizes(name, value)
    if len(size) > 2:
        raise broken_rule(name, value, "an integer or (height, width)")
    return size if len(size) == 2 else size[0]


@checked(folder=file_path, image_size=optional(_image_size), channels=one_of(1, 3, None))
def from_image_folder(folder, *, image_size=None, channels=None):
    """The images of a folder, in [0, 1]; its sub-folders, if there are any, are their classes.

    Sub-folders `train`, `validation` (`val`, `valid`) and `test` hold one part each instead.
    `image_size`, an integer or (height, width), scales each image to cover that size and cuts
    out its centre; without it all images must have the same size. `channels` is 1 for grey, 3 for
    colour, by default 3 if any image has colours. Files are taken in the order of their names.

    Raises:
        ValueError: for no images, images of several sizes, a file that is no image, or images
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
    parts = _part_folders(folder)
    listed = {part: _listed(place) for part, place in parts.items()}
    class_names = sorted({name for files in listed.values() for _, name in files} - {None})
    paths = [path for files in listed.values() for path, _ in files]
    if channels is None:
        channels = 3 if any(map(_has_colours, paths)) else 1
    dataset = Dataset(folder.name, "images", None, class_names=tuple(class_names) or None)
    for part, files in listed.items():
        images = _stacked([path for path, _ in files], image_size, channels)
        changed = {part: images}
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
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise ValueError(f"No images in {str(folder)!r}: looked for {', '.join(SUFFIXES)}.")
    inside = [path.relative_to(folder).parts[:-1] for path in paths]
    if any(inside) and not all(inside):
        loose = paths[inside.index(())]
        raise ValueError(
            "Images must all be in sub-folders, which are their classes, or none of them. "
            f"Received: {str(folder)!r}, where {loose.name!r} is outside."
        )
    return [(path, parts[0] if parts else None) for path, parts in zip(paths, inside, strict=True)]


def _opened(path):
    """The image at `path`, upright."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        return ImageOps.exif_transpose(image)


def _has_colours(path):
    from PIL import Image

    with reading(path, "an image"), Image.open(path) as image:
        return image.mode not in ("1", "L", "LA", "La", "I", "F") and image.mode[:2] != "I;"


def _pixels(path, image_size, channels):
    """One image as float32 (H, W, channels) in [0, 1]."""
    from PIL import Image, ImageOps

    image = _opened(path)
    if image.mode[:1] == "I":  # sixteen bits, which Pillow would clip and not scale
        image = Image.fromarray((np.asarray(image) / 257).round().astype("uint8"))
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        image = ImageOps.fit(image, image_size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(image, "float32") / 255
    return pixels[..., None] if channels == 1 else pixels


def _stacked(paths, image_size, channels):
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = []
    for path in paths:
        with reading(path, "an image"):
            images.append(_pixels(path, size, channels))
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                "Images must have the same size, or `image_size` must be given. Received: "
                f"{paths[0].name!r} of {images[0].shape[:2]}, {path.name!r} of {image.shape[:2]}."
            )
    return np.stack(images)


@checked(path=file_path, length=count())
def from_text_file(path, *, length=128, tokenizer=None):
    """A UTF-8 text as rows of `length` ids, in order, without overlap.

    Ids are those of `tokenizer`, the path of one (see `load_tokenizer`), or a `Tokenizer`; without
    one they index `vocabulary`, the sorted distinct characters. An incomplete last row is left out.

    Raises:
        ValueError: for a file that is not UTF-8, or shorter than one row.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("book.txt").write_text("to be or not to be, that is the question")
    dataset = ak.datasets.from_text_file("book.txt", length=8)
    print(dataset.train.shape, dataset.tokenizer.decode(dataset.train[0]))  # (5, 8) to be or
    ```
    """
    content = read_text(path)
    tokenizer = CharacterTokenizer.of(content) if tokenizer is None else as_tokenizer(tokenizer)
    vocabulary = getattr(tokenizer, "characters", None)
    what = "tokens" if vocabulary is None else "characters"
    tokens = tokenizer.encode(content)
    rows = len(tokens) // length
    if not rows:
        raise ValueError(
            f"A text must have at least `length` {what}. Received: {len(tokens)} in "
            f"{str(path)!r}, length={length}."
        )
    tokens = tokens[: rows * length].reshape(rows, length)
    return Dataset(Path(path).name, "tokens", tokens, vocabulary=vocabulary, tokenizer=tokenizer)


@checked(path=file_path, prompt_key=text, completion_key=optional(text))
def from_rows_file(path, *, prompt_key="prompt", completion_key=None, tokenizer=None):
    """The rows of a .jsonl file, an object a line, or of a .txt file, whose lines are prompts.

    Each row is a dict with a "prompt", a text or a chat; that is what the file calls `prompt_key`.
    What it calls `completion_key` is the "completion", if that is given. Without a `tokenizer`, the
    path of one or a `Tokenizer`, there is one of all characters in the file and the end of a line,
    by which an answer then ends.

    Raises:
        ValueError: for a file without rows, and for a row without a prompt.

    Example:

    ```python
    from pathlib import Path
    import artifex_keras as ak

    Path("sums.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}')
    dataset = ak.datasets.from_rows_file(Path("sums.jsonl"))
    print(dataset.train[0])  # {'prompt': '1+1=', 'answer': '2'}
    ```
    """
    if path.suffix == ".txt":
        lines = read_text(path).splitlines()
        columns = columns_of({"prompt": [line for line in lines if line.strip()]})
    else:
        columns = columns_of(path)
    if prompt_key not in columns:
        message = unknown_name(prompt_key, columns, "column")
        raise ValueError(f"{message} `prompt_key` says which one holds the prompts.")
    for index, prompt in enumerate(required(columns, prompt_key)):
        if not isinstance(prompt, str) and not is_chat(prompt):
            raise ValueError(
                f"`{prompt_key}` must be a text or a chat. Received: {shown(prompt)} in row "
                f"{index}."
            )
    renamed = {"prompt": columns.pop(prompt_key)}
    if completion_key is not None:
        renamed["completion"] = required(columns, completion_key)
        del columns[completion_key]
    rows = _rows({**columns, **renamed})
    if tokenizer is None:
        tokenizer = CharacterTokenizer.of("\n" + "".join(map(_characters, rows)))
    return Dataset(path.name, "rows", rows, tokenizer=as_tokenizer(tokenizer))


def _rows(columns):
    """Columns as dicts in an array (N,)."""
    rows = zip(*columns.values(), strict=True)
    return np.array([dict(zip(columns, row, strict=True)) for row in rows], object)


def _characters(value):
    """All text in a row."""
    if is_chat(value):
        return chat_text(value)
    if isinstance(value, dict):
        return "".join(map(_characters, value.values()))
    if isinstance(value, list):
        return "".join(map(_characters, value))
    return "" if value is None or isinstance(value, bool) else str(value)
