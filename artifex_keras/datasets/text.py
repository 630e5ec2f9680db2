"""Text as token ids and back: characters, or a vocabulary from a file."""

import json
import sys
from pathlib import Path

import numpy as np

from artifex_keras.utils import optional

__all__ = ["CharacterTokenizer", "TextStream", "Tokenizer", "load_tokenizer"]


class Tokenizer:
    """`encode(text)` gives ids (T,) int32, `decode(ids)` text; ids are 0..`vocabulary_size` - 1."""

    vocabulary_size = 0

    def encode(self, text):
        """The ids of a text, (T,) int32."""
        raise NotImplementedError

    def decode(self, ids):
        """The text of ids (T,); a list of texts for (B, T)."""
        ids = np.asarray(ids)
        return [self._text(row) for row in ids] if ids.ndim > 1 else self._text(ids)

    def _text(self, ids):
        raise NotImplementedError


class CharacterTokenizer(Tokenizer):
    """An id for each of the `characters`, in their order."""

    def __init__(self, characters):
        self.characters = tuple(characters)
        self.vocabulary_size = len(self.characters)
        self._ids = {character: index for index, character in enumerate(self.characters)}

    @classmethod
    def of(cls, text):
        """The tokenizer of the sorted distinct characters of `text`."""
        return cls(sorted(set(text)))

    def encode(self, text):
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


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model, a `.model` file. Needs the package sentencepiece."""

    def __init__(self, path):
        package = optional("sentencepiece", "text")
        self._model = package.SentencePieceProcessor(model_file=str(path))
        self.vocabulary_size = self._model.vocab_size()

    def encode(self, text):
        return np.array(self._model.encode(text), "int32")

    def _text(self, ids):
        return self._model.decode([int(index) for index in ids])


class BytePairTokenizer(Tokenizer):
    """GPT-2's byte pairs, or others of the same files. Needs the package tokenizers.

    Args:
        vocabulary: a JSON file of pieces and their ids.
        merges: the file of merges, a pair a line.
    """

    def __init__(self, vocabulary, merges):
        package = optional("tokenizers", "text")
        pieces = json.loads(Path(vocabulary).read_text(encoding="utf-8"))
        lines = Path(merges).read_text(encoding="utf-8").splitlines()
        pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
        model = package.models.BPE(vocab=pieces, merges=[pair for pair in pairs if len(pair) == 2])
        self._model = package.Tokenizer(model)
        self._model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._model.decoder = package.decoders.ByteLevel()
        self.vocabulary_size = max(pieces.values()) + 1

    def encode(self, text):
        return np.array(self._model.encode(text).ids, "int32")

    def _text(self, ids):
        return self._model.decode([int(index) for index in ids], skip_special_tokens=False)


class JsonTokenizer(BytePairTokenizer):
    """A whole tokenizer in one `tokenizer.json`. Needs the package tokenizers."""

    def __init__(self, path):
        self._model = optional("tokenizers", "text").Tokenizer.from_file(str(path))
        self.vocabulary_size = self._model.get_vocab_size()


def load_tokenizer(path):
    """The tokenizer that a path stands for.

    A `.model` file is a SentencePiece model; a `.json` file a vocabulary of byte pairs, its merges
    in a `.bpe` or `.txt` file beside it (GPT-2's `vocab.json` or `encoder.json`), or a whole
    `tokenizer.json`; a folder holds one of these.

    Raises:
        ValueError: for another kind of file, and where the merges can't be found.
        FileNotFoundError: for a path that is not there.
        ImportError: names the extra that is missing.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no tokenizer {str(path)!r}.")
    if path.is_dir():
        path = _in_folder(path)
    if path.suffix == ".model":
        return SentencePieceTokenizer(path)
    if path.suffix != ".json":
        raise ValueError(f"A tokenizer must be a .model or .json file. Received: {str(path)!r}.")
    # A vocabulary may well have a piece "model"; there its value is a number.
    if isinstance(json.loads(path.read_text(encoding="utf-8")).get("model"), dict):
        return JsonTokenizer(path)
    return BytePairTokenizer(path, _merges(path))


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


class TextStream:
    """Prints the text of new tokens as they come: `generate(..., stream=TextStream(tokenizer))`.

    Args:
        tokenizer: turns ids into text.
        file: where to write, by default standard output.
        row: which row of the batch.
    """

    def __init__(self, tokenizer, file=None, row=0):
        self.tokenizer, self.file, self.row = tokenizer, file, row
        self._ids, self._shown = [], ""

    def __call__(self, tokens):
        self._ids.extend(int(token) for token in tokens[self.row])
        text = self.tokenizer.decode(self._ids)
        # The bytes of a character may come in several tokens: what is incomplete waits.
        while text.endswith("\ufffd"):
            text = text[:-1]
        print(text[len(self._shown) :], end="", flush=True, file=self.file or sys.stdout)
        self._shown = text
