"""Text to ids and back: characters, SentencePiece, byte pairs; the stream for people."""

import io
import json

import keras
import numpy as np
import pytest

from artifex_keras.datasets import (
    CharacterTokenizer,
    TextStream,
    as_tokenizer,
    load,
    load_tokenizer,
)
from artifex_keras.datasets.tokenizers import Tokenizer

TEXT = "To be, or not to be: that is the question — naïve Ünïcode, too.\n"


def test_characters_are_numbered_in_their_order():
    tokenizer = CharacterTokenizer.of("banana\n")
    assert tokenizer.characters == ("\n", "a", "b", "n") and tokenizer.vocabulary_size == 4
    np.testing.assert_array_equal(tokenizer.encode("ban"), [2, 1, 3])
    assert tokenizer.decode([2, 1, 3]) == "ban"
    assert tokenizer.decode(np.array([[2, 1], [3, 1]])) == ["ba", "na"]
    with pytest.raises(ValueError, match="has no 'o'"):
        tokenizer.encode("box")


def test_a_text_file_brings_its_tokenizer(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 20, encoding="utf-8")
    dataset = load(path, length=16)
    assert dataset.vocabulary == dataset.tokenizer.characters == tuple(sorted(set(TEXT)))
    assert dataset.tokenizer.decode(dataset.train.ravel()).startswith(TEXT)
    other = load(path, length=16, tokenizer=CharacterTokenizer.of(TEXT + "qzxjk"))
    assert other.tokenizer.vocabulary_size > dataset.tokenizer.vocabulary_size
    assert other.tokenizer.decode(other.train.ravel()).startswith(TEXT)


def test_a_sentencepiece_model_round_trips(shared_data):
    pytest.importorskip("sentencepiece")
    tokenizer = load_tokenizer(shared_data / "tokenizer" / "sentencepiece_test_model.model")
    assert tokenizer.vocabulary_size == 1000
    ids = tokenizer.encode("this is a test")
    assert ids.dtype == "int32" and tokenizer.decode(ids) == "this is a test"


def test_gpt2_byte_pairs_are_those_that_everybody_has(shared_data):
    """ "Hello world" is 15496, 995 in GPT-2; bytes of any text round-trip."""
    pytest.importorskip("tokenizers")
    tokenizer = load_tokenizer(shared_data / "tokenizer" / "gpt2_encoder.json")
    assert tokenizer.vocabulary_size == 50257
    np.testing.assert_array_equal(tokenizer.encode("Hello world"), [15496, 995])
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    import sys

    path = tmp_path / "some.model"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"artifex-keras\[text\]"):
        load_tokenizer(path)


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        load_tokenizer(tmp_path / "nowhere.model")
    (tmp_path / "some.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=".model or .json"):
        load_tokenizer(tmp_path / "some.bin")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0}))
    with pytest.raises(ValueError, match="merges"):
        load_tokenizer(tmp_path)


def test_a_stream_prints_the_text_once():
    tokenizer, out = CharacterTokenizer.of("abc"), io.StringIO()
    stream = TextStream(tokenizer, file=out, row=1)
    for piece in ([[0], [1]], [[0, 0], [2, 0]], [[1], [1]]):
        stream(np.array(piece))
    assert out.getvalue() == "bcab"


def test_a_stream_waits_for_the_rest_of_a_character():
    class Bytes(Tokenizer):
        def decode(self, ids):
            return bytes(ids).decode("utf-8", errors="replace")

    out = io.StringIO()
    stream = TextStream(Bytes(), file=out)
    shown = []
    for byte in "aü—b".encode():
        stream(np.array([[byte]]))
        shown.append(out.getvalue())
    assert shown == ["a", "a", "aü", "aü", "aü", "aü—", "aü—b"]


# Other libraries' tokenizers, and saving


class Library:
    """Encodes letters by their place in the alphabet, under names of a library's choice."""

    def __init__(self, encode, decode, size):
        setattr(self, encode, lambda text: [ord(letter) - 97 for letter in text])
        setattr(self, decode, lambda ids: bytes(97 + index for index in ids))
        if size:
            setattr(self, size, 26)


@pytest.mark.parametrize(
    ("names", "size"),
    [
        (("tokenize", "detokenize", "vocabulary_size"), 26),
        (("encode", "decode", "vocab_size"), 26),
        (("encode", "decode", None), None),
    ],
)
def test_a_tokenizer_of_another_library_is_taken(names, size):
    tokenizer = as_tokenizer(Library(*names))
    assert isinstance(tokenizer, Tokenizer) and tokenizer.vocabulary_size == size
    ids = tokenizer.encode("bad")
    assert ids.dtype == "int32" and ids.tolist() == [1, 0, 3]
    assert tokenizer.decode(ids) == "bad" and tokenizer.decode([[0], [1]]) == ["a", "b"]
    assert tokenizer.encode("").shape == (0,) and as_tokenizer(tokenizer) is tokenizer
    with pytest.raises(NotImplementedError, match="can't be saved"):
        keras.saving.serialize_keras_object(tokenizer)


def test_a_tokenizer_of_keras_hub_is_taken():
    hub = pytest.importorskip("keras_hub")
    pieces = {piece: index for index, piece in enumerate(["b", "u", "t", "bu", "tt", "butt"])}
    made = hub.tokenizers.BytePairTokenizer(pieces, ["b u", "t t", "bu tt"])
    tokenizer = as_tokenizer(made)
    assert tokenizer.vocabulary_size == 6 and tokenizer.encode("buttu").tolist() == [5, 1]
    assert tokenizer.decode([5, 1]) == "buttu"
    made = hub.tokenizers.BytePairTokenizer(pieces, ["b u", "t t", "bu tt"], sequence_length=4)
    with pytest.raises(ValueError, match="must not pad.*sequence_length=4"):
        as_tokenizer(made)


def whole_tokenizer():
    """One of the package tokenizers that pads, cuts, and adds tokens of its own."""
    package = pytest.importorskip("tokenizers")
    words = {"[BOS]": 0, "to": 1, "be": 2, "[UNK]": 3}
    made = package.Tokenizer(package.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = package.pre_tokenizers.Whitespace()
    made.post_processor = package.processors.TemplateProcessing("[BOS] $A", None, [("[BOS]", 0)])
    made.enable_padding(length=8)
    made.enable_truncation(2)
    return made


def test_a_tokenizer_of_the_package_gives_the_ids_of_the_text_alone(tmp_path):
    made = whole_tokenizer()
    made.save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (as_tokenizer(made), as_tokenizer(tmp_path), as_tokenizer(str(tmp_path))):
        assert tokenizer.vocabulary_size == 4
        assert tokenizer.encode("to be to be").tolist() == [1, 2, 1, 2]
        assert tokenizer.decode([1, 2]) == "to be"
    assert len(made.encode("to")) == 8  # is as it was


@pytest.mark.parametrize("wrong", [3, object(), print])
def test_what_is_no_tokenizer_cannot_be_taken(wrong):
    with pytest.raises(ValueError, match="`tokenizer` must have `encode` and `decode`"):
        as_tokenizer(wrong)


def test_tokenizers_survive_saving(tmp_path, shared_data):
    pytest.importorskip("tokenizers")
    pytest.importorskip("sentencepiece")
    whole_tokenizer().save(str(tmp_path / "tokenizer.json"))
    folder = shared_data / "tokenizer"
    tokenizers = [
        CharacterTokenizer.of("to be"),
        load_tokenizer(folder / "gpt2_encoder.json"),
        load_tokenizer(folder / "sentencepiece_test_model.model"),
        load_tokenizer(tmp_path),
        as_tokenizer(whole_tokenizer()),
    ]
    for tokenizer in tokenizers:
        text = json.dumps(keras.saving.serialize_keras_object(tokenizer))
        back = keras.saving.deserialize_keras_object(json.loads(text))
        assert type(back) is type(tokenizer)
        assert back.vocabulary_size == tokenizer.vocabulary_size
        np.testing.assert_array_equal(back.encode("to be"), tokenizer.encode("to be"))
    (tmp_path / "tokenizer.json").unlink()
    config = keras.saving.serialize_keras_object(tokenizers[3])
    with pytest.raises(FileNotFoundError, match="no tokenizer file .*tokenizer.json"):
        keras.saving.deserialize_keras_object(config)
