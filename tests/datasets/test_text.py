"""Text to ids and back: characters, SentencePiece, byte pairs; the stream for people."""

import io
import json

import numpy as np
import pytest

from artifex_keras.datasets import CharacterTokenizer, TextStream, load, load_tokenizer
from artifex_keras.datasets.text import Tokenizer

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
