"""Text as token ids and back: characters, a vocabulary from a file, another library's tokenizer."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import FilePath, Tensor
from artifex_keras.arguments import broken_rule, checked, file_path, shown
from artifex_keras.remote import local_path
from artifex_keras.trust import FileError, read_json, read_text, reading
from artifex_keras.utils import optional

__all__ = ["CharacterTokenizer", "Tokenizer", "as_tokenizer", "load_tokenizer"]

WHAT = "a tokenizer"
LARGEST_ID = 2**31  # of int32

register = keras.saving.register_keras_serializable(package="artifex_keras")


class Tokenizer:
    """`encode(text)` gives ids (T,) int32, `decode(ids)` text; ids are 0..`vocabulary_size` - 1.

    Ids are those of the text alone: none are added at its start or end. A Keras object that holds a
    tokenizer with a `get_config` can be saved with it; one of a file keeps the file's path.

    Example:

    ```python
    import numpy as np
    import artifex_keras as ak

    class Bytes(ak.datasets.Tokenizer):
        size = 256

        def encode(self, text):
            return np.frombuffer(text.encode(), "uint8").astype("int32")

        def _text(self, ids):
            return bytes(ids.tolist()).decode(errors="replace")

    print(Bytes().decode(Bytes().encode("hello")))  # hello
    ```
    """

    vocabulary_size = 0

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, (T,) int32."""
        raise NotImplementedError

    def decode(self, ids: Tensor) -> str:
        """The text of ids (T,); a list of texts for (B, T)."""
        ids = np.asarray(ids)
        return [self._text(row) for row in ids] if ids.ndim > 1 else self._text(ids)

    def _text(self, ids):
        raise NotImplementedError

    def id_of(self, piece):
        """The id of a piece of the vocabulary, such as "</s>"; None if there is none."""
        return None

    def get_config(self):
        """The arguments that make this tokenizer."""
        raise NotImplementedError(
            f"A {type(self).__name__} can't be saved: it has no `get_config`. Keep the tokenizer "
            "beside the model."
        )

    @classmethod
    def from_config(cls, config):
        """The tokenizer of that `get_config`."""
        return cls(**config)


def _characters(name, value):
    value = value.tolist() if getattr(value, "ndim", None) == 1 else value
    listed = isinstance(value, list | tuple | str)
    if not listed or not value or not all(isinstance(each, str) for each in value):
        raise broken_rule(name, value, "a text or a list of characters")
    return value


@register
@checked(characters=_characters)
class CharacterTokenizer(Tokenizer):
    """An id for each of the `characters`, in their order.

    Example:

    ```python
    import artifex_keras as ak

    tokenizer = ak.datasets.CharacterTokenizer.of("hello")
    print(tokenizer.decode(tokenizer.encode("hole")))  # hole
    ```
    """

    def __init__(self, characters: str | Sequence[str]):
        self.characters = tuple(characters)
        self.vocabulary_size = len(self.characters)
        self._ids = {character: index for index, character in enumerate(self.characters)}

    @classmethod
    def of(cls, text):
        """The tokenizer of the sorted distinct characters of `text`."""
        return cls(sorted(set(text)))

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, (T,) int32.

        Raises:
            ValueError: for a character that has none.
        """
        unknown = sorted(set(text) - set(self.characters))
        if unknown:
            raise ValueError(
                f"The vocabulary of {self.vocabulary_size} characters has no {unknown[0]!r}."
            )
        return np.fromiter((self._ids[character] for character in text), "int32", len(text))

    def _text(self, ids):
        return "".join(self.characters[index] for index in ids)

    def id_of(self, piece):
        return self._ids.get(piece)

    def get_config(self):
        return {"characters": list(self.characters)}


@register
class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, a `.model` file. Needs the package sentencepiece."""

    def __init__(self, path):
        package = optional("sentencepiece", "text")
        self.path = _file(path)
        with reading(self.path, WHAT):
            self._model = package.SentencePieceProcessor(model_file=self.path)
        self.vocabulary_size = self._model.vocab_size()

    def encode(self, text):
        return np.array(self._model.encode(text), "int32")

    def _text(self, ids):
        return self._model.decode([int(index) for index in ids])

    def id_of(self, piece):
        found = self._model.piece_to_id(piece)
        return found if self._model.id_to_piece(found) == piece else None

    def get_config(self):
        return {"path": self.path}


@register
class BytePairTokenizer(Tokenizer):
    """GPT-2's byte pairs, or others of the same files. Needs the package tokenizers.

    Args:
        vocabulary: a JSON file of pieces and their ids.
        merges: the file of merges, a pair a line.
    """

    def __init__(self, vocabulary, merges):
        package = optional("tokenizers", "text")
        self.vocabulary, self.merges = _file(vocabulary), _file(merges)
        pieces = _pieces(self.vocabulary)
        lines = read_text(self.merges, "a file of merges").splitlines()
        pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
        pairs = [pair for pair in pairs if len(pair) == 2]
        with reading(self.merges, "a file of merges"):
            model = package.models.BPE(vocab=pieces, merges=pairs)
        self._model = package.Tokenizer(model)
        self._model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._model.decoder = package.decoders.ByteLevel()
        self.vocabulary_size = max(pieces.values()) + 1

    def encode(self, text):
        return np.array(self._model.encode(text, add_special_tokens=False).ids, "int32")

    def _text(self, ids):
        return self._model.decode([int(index) for index in ids], skip_special_tokens=False)

    def id_of(self, piece):
        return self._model.token_to_id(piece)

    def get_config(self):
        return {"vocabulary": self.vocabulary, "merges": self.merges}


@register
class JsonTokenizer(BytePairTokenizer):
    """A whole tokenizer in one `tokenizer.json`. Needs the package tokenizers.

    Args:
        path: of the file.
        content: what such a file holds, instead of its path.
    """

    def __init__(self, path=None, *, content=None):
        package = optional("tokenizers", "text")
        self.path, self.content = None if path is None else _file(path), content
        made = package.Tokenizer
        with reading(self.path or "the content of a tokenizer", WHAT):
            self._model = made.from_str(content) if path is None else made.from_file(self.path)
        self._model.no_padding()  # a file may hold how to pad and cut batches
        self._model.no_truncation()
        self.vocabulary_size = self._model.get_vocab_size()

    def get_config(self):
        return {"content": self.content} if self.path is None else {"path": self.path}


class ForeignTokenizer(Tokenizer):
    """A tokenizer of another library behind the methods of a `Tokenizer`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self._encode, self._decode = _functions(tokenizer)
        self.vocabulary_size = _vocabulary_size(tokenizer)

    def encode(self, text):
        ids = self._encode(text)
        ids = np.asarray(ids if isinstance(ids, list | tuple) else ops.convert_to_numpy(ids))
        return ids.reshape(-1).astype("int32")

    def _text(self, ids):
        text = self._decode([int(index) for index in ids])
        if not isinstance(text, str | bytes):  # a tensor of one string
            text = np.asarray(text).item()
        return text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text


def _functions(tokenizer):
    """What encodes and decodes, without tokens at start and end."""
    if hasattr(tokenizer, "detokenize"):  # KerasHub, SentencePiece
        return tokenizer.tokenize, tokenizer.detokenize
    if hasattr(tokenizer, "convert_ids_to_tokens"):  # transformers
        return lambda text: tokenizer.encode(text, add_special_tokens=False), tokenizer.decode
    return tokenizer.encode, tokenizer.decode


def _vocabulary_size(tokenizer):
    """How many ids there are; None if the tokenizer doesn't say."""
    if hasattr(tokenizer, "convert_ids_to_tokens"):  # whose `vocab_size` leaves out added tokens
        return len(tokenizer)
    for name in ("vocabulary_size", "vocab_size"):
        size = getattr(tokenizer, name, None)
        if size is not None:
            return int(size() if callable(size) else size)
    return None


@checked()
def as_tokenizer(tokenizer: Any):
    """The `Tokenizer` that `tokenizer` stands for.

    | `tokenizer` | gives |
    |---|---|
    | a `Tokenizer` | itself |
    | a path | `load_tokenizer(path)` |
    | a `Tokenizer` of the package tokenizers | its copy; can be saved |
    | one with `tokenize` and `detokenize`, such as KerasHub's | a wrapper |
    | one with `encode` and `decode`, such as those of transformers | a wrapper |

    Whatever the library, `encode` adds no tokens at start and end of a text where it can be asked
    not to; those come from arguments such as `start_token_id`.

    Raises:
        ValueError: for anything else, and for a tokenizer that pads.

    Example:

    ```python
    import artifex_keras as ak

    class Digits:  # as any library's: `encode` and `decode`
        def encode(self, text):
            return [int(character) for character in text]

        def decode(self, ids):
            return "".join(str(int(i)) for i in ids)

    tokenizer = ak.datasets.as_tokenizer(Digits())
    print(tokenizer.encode("123"))  # [1 2 3]
    ```
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | Path):
        return load_tokenizer(file_path("tokenizer", tokenizer))
    if hasattr(tokenizer, "get_vocab_size") and hasattr(tokenizer, "to_str"):
        return JsonTokenizer(content=tokenizer.to_str())
    if getattr(tokenizer, "sequence_length", None):
        raise ValueError(
            "`tokenizer` must not pad: make it without a `sequence_length`. Received: "
            f"sequence_length={tokenizer.sequence_length}."
        )
    for pair in (("tokenize", "detokenize"), ("encode", "decode")):
        if all(callable(getattr(tokenizer, name, None)) for name in pair):
            return ForeignTokenizer(tokenizer)
    raise ValueError(
        "`tokenizer` must have `encode` and `decode`, or be the path of one. Received: "
        f"{tokenizer!r}."
    )


@checked(path=file_path)
def load_tokenizer(path: FilePath) -> Tokenizer:
    """The tokenizer that a path stands for.

    A `.model` file is a SentencePiece model; a `.json` file a vocabulary of byte pairs, its merges
    in a `.bpe` or `.txt` file beside it (GPT-2's `vocab.json` or `encoder.json`), or a whole
    `tokenizer.json`; a folder holds one of these.

    Raises:
        ValueError: for another kind of file, and where the merges can't be found.
        FileNotFoundError: for a path that is not there.
        ImportError: names the extra that is missing.
    """
    path = local_path(path, "tokenizer").expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no tokenizer {str(path)!r}.")
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path)
    if path.suffix != ".json":
        raise ValueError(f"A tokenizer must be a .model or .json file. Received: {str(path)!r}.")
    # A vocabulary may well have a piece "model"; there its value is a number.
    content = read_json(path, WHAT)
    if not isinstance(content, dict):
        raise FileError(f"{str(path)!r} must hold a JSON object, as a tokenizer or vocabulary.")
    if isinstance(content.get("model"), dict):
        return JsonTokenizer(path)
    return BytePairTokenizer(path, _merges(path))


def _file(path):
    """The whole path of a file, by which another process finds it."""
    path = local_path(path, "tokenizer").expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"There is no tokenizer file {str(path)!r}.")
    return str(path)


def _pieces(path):
    """The pieces of a vocabulary in a JSON file, and their ids."""
    pieces = read_json(path, "a vocabulary")
    if not isinstance(pieces, dict) or not pieces:
        raise FileError(f"{str(path)!r} must hold a JSON object of pieces and their ids.")
    for piece, index in pieces.items():
        if type(index) is not int or not 0 <= index < LARGEST_ID:
            raise FileError(
                f"{str(path)!r} must give each piece an id from 0. Received: {shown(index)} for "
                f"{shown(piece)}."
            )
    if len(set(pieces.values())) < len(pieces):
        twice = collections.Counter(pieces.values()).most_common(1)[0][0]
        raise FileError(f"{str(path)!r} must give each piece an id of its own. Received: {twice} "
                        "for several.")  # fmt: skip
    return pieces


def _in_folder(folder):
    for pattern in ("tokenizer.json", "*.model", "*vocab.json", "*encoder.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise ValueError(f"There is no tokenizer in the folder {str(folder)!r}.")


def _merges(path):
    """The file of merges beside a vocabulary: the one whose name begins alike, or the only one."""
    found = [*path.parent.glob("*.bpe"), *path.parent.glob("*merges*.txt")]
    alike = [other for other in found if other.name.split("_")[0] == path.name.split("_")[0]]
    for choice in (alike, found):
        if len(choice) == 1:
            return choice[0]
    raise ValueError(
        f"The merges of {path.name!r} must be in one .bpe or merges.txt file beside it. Received: "
        f"{[other.name for other in found]}."
    )
