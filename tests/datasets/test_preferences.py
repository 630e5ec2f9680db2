"""Prompts and completions as ids and masks."""

import json

import numpy as np
import pytest

from artifex_keras.datasets import (
    CharacterTokenizer,
    completions,
    load_tokenizer,
    preferences,
)

PAIRS = [
    {"prompt": [1, 2, 3], "chosen": [4, 5], "rejected": [6]},
    {"prompt": [7], "chosen": [8, 9, 9], "rejected": [8, 9, 9]},
]
LETTERS = CharacterTokenizer("abcdef")
MESSAGES = [{"role": "user", "content": "Hi"}]


def real(arrays, name):
    """`(prompt, completion)` of each row, by the mask."""
    pairs = []
    for row, mask in zip(arrays[name], arrays[f"{name}_mask"], strict=True):
        place = np.flatnonzero(mask)
        assert (np.diff(place) == 1).all() and not row[place[-1] + 1 :].any()
        pairs.append((row[: place[0]].tolist(), row[place].tolist()))
    return pairs


def cut(prompt, chosen, rejected, **options):
    """The parts of one pair: `(prompt, chosen)` and `(prompt, rejected)`."""
    arrays = preferences(
        {"prompt": [prompt], "chosen": [chosen], "rejected": [rejected]}, **options
    )
    return real(arrays, "chosen")[0], real(arrays, "rejected")[0]


def test_the_layout_by_hand():
    arrays = preferences(PAIRS, end_token_id=9, pad_token_id=10)
    assert sorted(arrays) == ["chosen", "chosen_mask", "rejected", "rejected_mask"]
    assert [str(array.dtype) for array in arrays.values()] == ["int32", "float32"] * 2
    assert {array.shape for array in arrays.values()} == {(2, 16)}
    pads = [10] * 10
    assert arrays["chosen"][0].tolist() == [1, 2, 3, 4, 5, 9, *pads]
    assert arrays["chosen_mask"][0].tolist() == [0, 0, 0, 1, 1, 1] + [0] * 10
    assert arrays["rejected"][0].tolist() == [1, 2, 3, 6, 9, 10, *pads]
    assert arrays["rejected_mask"][0].tolist() == [0, 0, 0, 1, 1] + [0] * 11
    # The second pair ends already, and stays though its completions are the same.
    assert arrays["chosen"][1].tolist() == arrays["rejected"][1].tolist()
    assert arrays["chosen"][1, :5].tolist() == [7, 8, 9, 9, 10]
    assert arrays["chosen_mask"][1].sum() == 3


def test_each_form_gives_the_same_arrays(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    columns = {name: [row[name] for row in PAIRS] for name in PAIRS[0]}
    expected = preferences(PAIRS)
    for rows in (path, str(path), columns, (row for row in PAIRS)):
        arrays = preferences(rows)
        for name in expected:
            np.testing.assert_array_equal(arrays[name], expected[name])


def test_arrays_lose_their_pads():
    rows = {
        "prompt": np.array([[1, 2, 0, 0], [3, 0, 0, 0]]),
        "chosen": np.array([[4, 0], [5, 6]]),
        "rejected": np.array([[6, 6], [7, 0]]),
    }
    arrays = preferences(rows, pad_token_id=0)
    assert real(arrays, "chosen") == [([1, 2], [4]), ([3], [5, 6])]
    assert real(arrays, "rejected") == [([1, 2], [6, 6]), ([3], [7])]


def test_texts_do_not_merge_across_the_border():
    class Pairs(CharacterTokenizer):
        """Has an id for "ab" together."""

        def encode(self, text):
            return super().encode(text.replace("ab", "f"))

    rows = [{"prompt": "ca", "chosen": "b", "rejected": "ab"}]
    arrays = preferences(rows, tokenizer=Pairs("abcdef"))
    assert real(arrays, "chosen") == [([2, 0], [1])]
    assert real(arrays, "rejected") == [([2, 0], [5])]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [([1, 2, 3, 4], [5, 6, 7]), ([1, 2, 3, 4], [8])]),
        ({"max_prompt_length": 2}, [([3, 4], [5, 6, 7]), ([3, 4], [8])]),
        ({"max_length": 7}, [([1, 2, 3, 4], [5, 6, 7]), ([1, 2, 3, 4], [8])]),
        # The longer completion decides on the prompt of both.
        ({"max_length": 5}, [([3, 4], [5, 6, 7]), ([3, 4], [8])]),
        ({"max_length": 5, "max_prompt_length": 1}, [([4], [5, 6, 7]), ([4], [8])]),
        ({"max_length": 3}, [([4], [5, 6]), ([4], [8])]),
        ({"max_length": 2}, [([4], [5]), ([4], [8])]),
        # What is cut loses its end token.
        ({"max_length": 4, "end_token_id": 0}, [([4], [5, 6, 7]), ([4], [8, 0])]),
        ({"max_length": 5, "start_token_id": 9}, [([9, 4], [5, 6, 7]), ([9, 4], [8])]),
        ({"max_length": 4, "start_token_id": 9}, [([9, 4], [5, 6]), ([9, 4], [8])]),
        ({"max_prompt_length": 3, "start_token_id": 1}, [([1, 3, 4], [5, 6, 7]), ([1, 3, 4], [8])]),
    ],
)
def test_prompts_are_cut_from_the_left_then_completions_from_the_right(options, expected):
    assert list(cut([1, 2, 3, 4], [5, 6, 7], [8], **options)) == expected


@pytest.mark.parametrize(
    ("count", "options", "width"),
    [(12, {}, 16), (13, {}, 32), (70, {}, 128), (70, {"max_length": 40}, 40)],
)
def test_the_width_is_that_of_the_longest(count, options, width):
    rows = [*PAIRS, {"prompt": [1, 1, 1, 1], "chosen": [1] * count, "rejected": [1]}]
    assert preferences(rows, **options)["rejected_mask"].shape == (3, width)


def test_chats_and_messages():
    tokenizer = CharacterTokenizer.of("user: Hi\nassistant: Hello! Bye.")
    answer = {"role": "assistant", "content": "Hello!"}
    more = [answer, {"role": "user", "content": "Bye."}]
    for chosen in ("Hello!", answer, [answer]):
        rows = [{"prompt": MESSAGES, "chosen": chosen, "rejected": more}]
        arrays = preferences(rows, tokenizer=tokenizer)
        texts = [tuple(map(tokenizer.decode, real(arrays, n)[0])) for n in ("chosen", "rejected")]
        prompt = "user: Hi\nassistant: "
        assert texts == [(prompt, "Hello!"), (prompt, "Hello!\nuser: Bye.")]
    rows = [{"prompt": MESSAGES, "chosen": answer, "rejected": more}]
    with pytest.raises(ValueError, match="`rejected` must be one message.*2 messages in row 0"):
        preferences(rows, tokenizer=tokenizer, chat_template=lambda messages: "Hi")
    rows[0]["rejected"] = "Bye."
    arrays = preferences(rows, tokenizer=tokenizer, chat_template=lambda messages: "Hi")
    assert tokenizer.decode(real(arrays, "rejected")[0][0]) == "Hi"


def test_completions_for_fine_tuning():
    rows = [{"prompt": "ab", "completion": "c"}, {"prompt": "d", "completion": "ef"}]
    arrays = completions(rows, tokenizer=LETTERS, end_token_id=6, start_token_id=7)
    assert sorted(arrays) == ["mask", "tokens"]
    assert arrays["tokens"][:, :6].tolist() == [[7, 0, 1, 2, 6, 0], [7, 3, 4, 5, 6, 0]]
    assert arrays["mask"][:, :6].tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 1, 0]]


def test_labels_say_which_completions_are_wanted():
    rows = [{"prompt": [1], "completion": [2], "label": label} for label in (True, False, 1, 0.0)]
    label = completions(rows)["label"]
    assert label.dtype == "float32" and label.tolist() == [1, 0, 1, 0]
    columns = {"prompt": [[1]] * 2, "completion": [[2]] * 2, "label": np.array([False, True])}
    assert completions(columns)["label"].tolist() == [0, 1]


def test_real_pairs(shared_data):
    pytest.importorskip("tokenizers")
    tokenizer = load_tokenizer(shared_data / "tokenizer" / "gpt2_encoder.json")
    path = shared_data / "llm" / "dpo_en_demo.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    whole = preferences(path, tokenizer=tokenizer, end_token_id=50256, pad_token_id=50256)
    assert len(whole["chosen"]) == 300 and whole["chosen"].shape[1] % 64 == 0
    for name in ("chosen", "rejected"):
        for row, ids, mask in zip(rows, whole[name], whole[f"{name}_mask"], strict=True):
            assert tokenizer.decode(ids[mask == 1]) == row[name] + "<|endoftext|>"
    first = np.flatnonzero(whole["chosen_mask"][0])[0]
    prompt = tokenizer.decode(whole["chosen"][0, :first])
    assert prompt == f"user: {rows[0]['prompt'][0]['content']}\nassistant: "
    short = preferences(path, tokenizer=tokenizer, max_length=256, max_prompt_length=128)
    assert short["chosen"].shape == (300, 256)
    first = short["chosen_mask"].argmax(1)
    np.testing.assert_array_equal(first, short["rejected_mask"].argmax(1))
    assert first.min() >= 1 and first.max() <= 128
    assert min(short["chosen_mask"].sum(1).min(), short["rejected_mask"].sum(1).min()) >= 1


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"chosen": None}, {}, "Row 0 has no 'chosen'"),
        ({"chosen": []}, {}, "`chosen` must not be empty. Received: no tokens in row 0"),
        ({"rejected": ""}, {"tokenizer": LETTERS, "end_token_id": 1}, "`rejected` must not be"),
        ({"prompt": []}, {}, "A prompt must have at least one token. Received: none in row 0"),
        ({"chosen": "ab"}, {}, "`chosen` must be token ids where there is no `tokenizer`"),
        ({"chosen": [0.5]}, {}, "`chosen` must be texts"),
        ({"chosen": {"content": "a"}}, {"tokenizer": LETTERS}, "'role' and 'content'"),
        ({}, {"max_length": 1}, "`max_length` must be an integer of at least 2"),
        ({}, {"max_length": 2, "start_token_id": 0}, "`max_length` .* at least 3"),
        ({}, {"max_prompt_length": 0}, "`max_prompt_length` .* at least 1"),
        ({}, {"end_token_id": -1}, "`end_token_id` must be"),
    ],
)
def test_bad_input(change, options, message):
    with pytest.raises(ValueError, match=message):
        preferences([PAIRS[0] | change, PAIRS[1]], **options)


def test_missing_columns_and_labels():
    with pytest.raises(ValueError, match="Unknown column 'rejected'. Did you mean 'reject'"):
        preferences([{"prompt": [1], "chosen": [1], "reject": [1]}])
    with pytest.raises(ValueError, match="`label` must be True or False. Received: 2 in row 1"):
        completions({"prompt": [[1]] * 2, "completion": [[1]] * 2, "label": [1, 2]})
    with pytest.raises(ValueError, match="Row 1 has no 'label'"):
        completions({"prompt": [[1]] * 2, "completion": [[1]] * 2, "label": [True, None]})
