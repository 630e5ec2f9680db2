"""Data to begin with, and a user's own: `load` takes a name, a file, a folder or an array."""

from artifex_keras.datasets.arrays import from_arrays, from_numpy_file
from artifex_keras.datasets.augmentation import AUGMENTATIONS, augmentations, augmented
from artifex_keras.datasets.dataset import Dataset
from artifex_keras.datasets.files import from_rows_file, from_text_file
from artifex_keras.datasets.images import ImageFiles, from_image_folder
from artifex_keras.datasets.loading import load, load_rows
from artifex_keras.datasets.named import cifar10, digits, fashion_mnist, mnist
from artifex_keras.datasets.packing import packed
from artifex_keras.datasets.preferences import completions, preferences
from artifex_keras.datasets.prompts import PromptBatches
from artifex_keras.datasets.tables import Columns, from_table_file
from artifex_keras.datasets.text import TextStream, chat_text
from artifex_keras.datasets.tokenizers import (
    CharacterTokenizer,
    Tokenizer,
    as_tokenizer,
    load_tokenizer,
)
from artifex_keras.datasets.toys import (
    checkerboard,
    gaussians,
    moons,
    ring,
    standardise,
    swiss_roll,
)

__all__ = [
    "AUGMENTATIONS",
    "CharacterTokenizer",
    "Columns",
    "Dataset",
    "ImageFiles",
    "PromptBatches",
    "TextStream",
    "Tokenizer",
    "as_tokenizer",
    "augmentations",
    "augmented",
    "checkerboard",
    "chat_text",
    "cifar10",
    "completions",
    "digits",
    "fashion_mnist",
    "from_arrays",
    "from_image_folder",
    "from_numpy_file",
    "from_rows_file",
    "from_table_file",
    "from_text_file",
    "gaussians",
    "load",
    "load_rows",
    "load_tokenizer",
    "mnist",
    "moons",
    "packed",
    "preferences",
    "ring",
    "standardise",
    "swiss_roll",
]
