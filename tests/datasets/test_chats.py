"""What of a chat the assistant says, by the template's own text; rows to learn from."""

import json

import numpy as np
import pytest

from artifex_keras.datasets import CharacterTokenizer, Tokenizer
from artifex_keras.datasets.chats import chat_ids, chat_pieces
from artifex_keras.datasets.supervised import Supervised

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yo"},
    {"role": "user", "content": "1+1"},
    {"role": "assistant", "content": "2"},
]
CHARACTERS = CharacterTokenizer.of("\n" + "".join(map(chr, range(32, 127))))


def chatml(messages, add_generation_prompt=True):
    turns = [f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in messages]
    return "".join(turns) + "<|start|>assistant\n" * add_generation_prompt


def without_flag(messages):
    return chatml(messages)


def instructions(messages):
    """Llama 2's: the assistant has no header."""
    return "".join(
        f" {m['content']} </s>" if m["role"] == "assistant" else f"<s>[INST] {m['content']} [/INST]"
        for m in messages
    )


def with_its_own_system(messages):
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": "Help."}, *messages]
    return chatml(messages)


def counting(messages):
    return f"{len(messages)} messages\n{chatml(messages)}"


@pytest.mark.parametrize(
    "template, turns",
    [
        (None, [("yo", "\n"), ("2", "\n")]),
        (chatml, [("yo", "<|end|>\n"), ("2", "<|end|>\n")]),
        (without_flag, [("yo", "<|end|>\n"), ("2", "<|end|>\n")]),
        (instructions, [(" yo", " </s>"), (" 2", " </s>")]),
    ],
)
@pytest.mark.parametrize("first", [0, 1])
def test_turns_are_found_in_the_text_of_a_template(template, turns, first):
    pieces = chat_pieces(CHAT[first:], template)
    assert [(p.text, p.ending) for p in pieces if p.assistant] == turns
    text = "".join(p.text + p.ending for p in pieces)
    whole = chatml(CHAT[first:], False) if template in (chatml, without_flag) else None
    assert whole is None or text == whole
    assert text.count("1+1") == 1


def test_what_comes_after_the_last_turn_is_a_piece():
    pieces = chat_pieces(CHAT[:4], chatml)
    assert [p.assistant for p in pieces] == [False, True, False]
    assert pieces[-1].text == "<|start|>user\n1+1<|end|>\n"


def counted(messages, template, ends):
    ids, mask = chat_ids(chat_pieces(messages, template), CHARACTERS, ends)
    assert ids.dtype == "int32" and mask.dtype == "float32" and ids.shape == mask.shape
    return "".join(CHARACTERS.decode(ids[[i]]) if mask[i] else "_" for i in range(len(ids)))


def test_a_turn_ends_with_the_end_token_wherever_it_comes_from():
    """`>` stands in the template's ending: the line break after it isn't learned. `~` stands in
    none: it is put after what is said. Without any the whole ending is learned."""
    end, other = CHARACTERS.id_of(">"), CHARACTERS.id_of("~")
    assert counted(CHAT, chatml, (other, end)).replace("_", "") == "yo<|end|>2<|end|>"
    assert counted(CHAT, chatml, (other,)).replace("_", "") == "yo~2~"
    assert counted(CHAT, chatml, None).replace("_", "") == "yo<|end|>\n2<|end|>\n"
    assert counted(CHAT, None, (other,)).replace("_", "") == "yo~2~"
    assert counted(CHAT, with_its_own_system, (end,)).replace("_", "") == "yo<|end|>2<|end|>"
    assert counted(CHAT[1:], with_its_own_system, (end,)).replace("_", "") == "yo<|end|>2<|end|>"


@pytest.mark.parametrize(
    "chat, template, words",
    [
        (CHAT[:2], None, "none in row 7, whose roles are system, user"),
        (CHAT, counting, "can't be found in the text of this `chat_template`.*row 7"),
        ("hi", None, "`messages` must be a chat"),
        ([{"role": "user"}], None, "'content'"),
        (CHAT, lambda messages: 3, "must give a text"),
    ],
)
def test_chats_that_can_not_be_used(chat, template, words):
    with pytest.raises(ValueError, match=words):
        chat_pieces(chat, template, index=7)


# Rows


def arrays(rows, **options):
    options = {"tokenizer": CHARACTERS, "end_token_ids": (CHARACTERS.id_of("~"),), **options}
    return Supervised(**options).arrays(rows)


def learned(made, row=0):
    """The text of a row, and that of the tokens that count."""
    ids, mask = made["tokens"][row], made["mask"][row] > 0
    return CHARACTERS.decode(ids).rstrip("\n"), CHARACTERS.decode(ids[mask])


def test_each_kind_of_row():
    assert learned(arrays([{"text": "ab"}])) == ("ab~", "ab~")
    rows = [{"prompt": "1+1=", "completion": "2"}]
    assert learned(arrays(rows)) == ("1+1=2~", "2~")
    chat = {"prompt": CHAT[:2], "completion": CHAT[2]}
    alike = arrays([{"messages": CHAT[:3]}])
    np.testing.assert_array_equal(arrays([chat])["tokens"], alike["tokens"])
    np.testing.assert_array_equal(arrays([chat])["mask"], alike["mask"])
    every = arrays([{"messages": CHAT[:3]}], assistant_only=False)
    assert learned(every)[1] == "system: Be brief.\nuser: hi\nassistant: yo\n~"
    assert learned(arrays({"text": ["ab", "c"]}), 1) == ("c~", "c~")


def test_files_and_ids(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": CHAT}) + "\n" for _ in range(3)))
    assert learned(arrays(path), 2)[1] == "yo~2~"
    made = Supervised(end_token_ids=(9,), pad_token_id=9).arrays([{"text": [1, 2]}, {"text": [3]}])
    np.testing.assert_array_equal(made["tokens"][:, :4], [[1, 2, 9, 9], [3, 9, 9, 9]])
    np.testing.assert_array_equal(made["mask"][:, :4], [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_a_tokenizer_brings_its_template_along():
    class Its(Tokenizer):
        encode = staticmethod(CHARACTERS.encode)
        apply_chat_template = staticmethod(chatml)

    made = arrays([{"messages": CHAT}], tokenizer=Its(), end_token_ids=None)
    assert learned(made) == (chatml(CHAT, False).rstrip("\n"), "yo<|end|>\n2<|end|>\n")


def test_what_is_too_long_is_cut_aloud():
    with pytest.warns(UserWarning, match="1 of 2 rows .* `max_length`=4 .* 7: the prompt loses"):
        made = arrays([{"prompt": "12345", "completion": "6"}, {"prompt": "1", "completion": "6"}],
                      max_length=4)  # fmt: skip
    assert learned(made) == ("456~", "6~") and learned(made, 1) == ("16~", "6~")
    with pytest.warns(UserWarning, match="the longest has 5: their ends are cut off"):
        assert learned(arrays([{"text": "abcd"}], max_length=3)) == ("abc", "abc")
    with (
        pytest.warns(UserWarning, match="their ends are cut off"),
        pytest.warns(UserWarning, match="1 of 2 rows have no token that counts within 40"),
    ):
        long = [{"role": "user", "content": "h" * 50}, CHAT[2]]
        made = arrays([{"messages": long}, {"messages": CHAT[1:3]}], max_length=40)
    assert len(made["tokens"]) == 1


def test_packed_rows():
    rows = [{"prompt": "1+1=", "completion": "2"}, {"prompt": "2=", "completion": "2"}] * 2
    made = arrays(rows, packing="best_fit", max_length=10)
    assert made["tokens"].shape == (2, 10) and made["tokens"].dtype == "int32"
    assert learned(made)[1] == "2~2~"
    np.testing.assert_array_equal(made["segments"], [[1] * 6 + [2] * 4] * 2)
    whole = arrays(rows, packing="wrapped", max_length=8)
    assert learned(whole)[0] == "1+1=2~2=" and whole["tokens"].shape == (3, 8)


@pytest.mark.parametrize(
    "rows, options, words",
    [
        ([{"txt": "a"}], {}, "Rows must have a 'text'.*the columns \\['txt'\\]"),
        ([{"text": "a"}, {"text": ""}], {}, "no tokens in row 1"),
        ([{"messages": CHAT}], {"tokenizer": None}, "Chats need a `tokenizer`"),
        ([{"text": "a"}], {"packing": "best_fit"}, "`packing` needs a `max_length`"),
        ([{"text": "a"}], {"end_token_ids": None}, "nothing to learn"),
        ([{"prompt": "a"}], {}, "'completion'"),
    ],
)
def test_rows_that_can_not_be_used(rows, options, words):
    with pytest.raises(ValueError, match=words):
        arrays(rows, **options)
