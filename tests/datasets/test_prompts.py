"""Prompts in all their forms as batches, in an order that a run can repeat."""

import json
import signal

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.callbacks import CheckpointCallback
from artifex_keras.datasets import CharacterTokenizer, PromptBatches, chat_text, load_tokenizer

TEXTS = ["abc", "b", "cabba", "ab"]
LETTERS = CharacterTokenizer("abc")
IDS = [[0, 1, 2], [1], [2, 0, 1, 1, 0], [0, 1]]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


def one(prompts, **options):
    """All prompts in one batch, in their order."""
    count = options.pop("count", 4)
    return PromptBatches(prompts, count, shuffle=False, **options)[0]


def orders(batches, epoch):
    batches.epoch = epoch
    return np.concatenate([batches[i]["row"] for i in range(batches.num_batches)]).tolist()


def prompts_of(batch):
    rows = zip(batch["prompt"], batch["prompt_length"], strict=True)
    return [row[:length].tolist() for row, length in rows]


# Forms


def jsonl(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "prompts",
    [
        TEXTS,
        IDS,
        [np.array(row) for row in IDS],
        [{"prompt": text} for text in TEXTS],
        [{"prompt": row} for row in IDS],
        {"prompt": TEXTS},
        {"prompt": IDS},
    ],
)
def test_each_form_gives_the_same_batch(prompts):
    batch = one(prompts, tokenizer=LETTERS)
    assert sorted(batch) == ["prompt", "prompt_length", "row"]
    assert {str(array.dtype) for array in batch.values()} == {"int32"}
    assert batch["prompt"].shape == (4, 16) and not batch["prompt"][1, 1:].any()
    assert prompts_of(batch) == IDS and batch["row"].tolist() == [0, 1, 2, 3]


def test_a_file_of_lines(tmp_path):
    path = jsonl(tmp_path, [{"prompt": text, "length": len(text)} for text in TEXTS])
    for given in (path, str(path)):
        batch = one(given, tokenizer=LETTERS)
        assert prompts_of(batch) == IDS and batch["length"].tolist() == [3, 1, 5, 2]


def test_the_pads_of_an_array_are_taken_off_where_they_are_named():
    array = np.array([[1, 2, 9, 9], [9, 1, 9, 9], [1, 2, 3, 4]])
    for given in (array, {"prompt": array}, ops.convert_to_tensor(array)):
        assert one(given, count=3)["prompt_length"].tolist() == [4, 4, 4]
        batch = one(given, count=3, pad_token_id=9)
        assert prompts_of(batch) == [[1, 2], [9, 1], [1, 2, 3, 4]]
        assert (batch["prompt"][0, 2:] == 9).all()


def test_a_chat_is_a_text_that_waits_for_the_answer():
    text = "user: Hi\nassistant: Yes?\nassistant: "
    assert chat_text(CHAT) == text
    assert chat_text(CHAT, lambda messages: messages[-1]["content"]) == "Yes?"
    tokenizer = CharacterTokenizer.of(text)
    for prompts in ([CHAT], [{"prompt": CHAT}], {"prompt": [CHAT]}):
        batches = PromptBatches(prompts, 1, tokenizer=tokenizer)
        assert tokenizer.decode(prompts_of(batches[0])[0]) == text
        assert batches.columns == {"prompt": [CHAT]}
    short = one([CHAT], count=1, tokenizer=tokenizer, chat_template=lambda m: m[0]["content"])
    assert tokenizer.decode(prompts_of(short)[0]) == "Hi"


def test_numbers_come_with_the_batch_and_all_else_is_a_column():
    columns = {
        "question": TEXTS,
        "answer": ["1", "2", "3", "4"],
        "level": [1, 2, 3, 4],
        "weight": [0.5, 1, 2, 3],
        "hard": [True, False, True, False],
        "target": [[1, 2], [3, 4], [5, 6], [7, 8]],
        "ragged": [[1], [2, 3], [], [4]],
        "holes": [1, None, 2, 3],
        "large": [2**40, 1, 1, 1],
        "mixed": [1, 2, "three", 4],
    }
    batches = PromptBatches(columns, 2, tokenizer=LETTERS, prompt_key="question", seed=3)
    texts = {name: columns[name] for name in ("answer", "ragged", "holes", "large", "mixed")}
    assert batches.columns == {"prompt": TEXTS} | texts
    batch = batches[1]
    kinds = {name: str(array.dtype) for name, array in batch.items()}
    own = dict.fromkeys(["prompt", "prompt_length", "row", "level", "target"], "int32")
    assert kinds == own | {"weight": "float32", "hard": "bool"}
    assert batch["level"].tolist() == [columns["level"][row] for row in batch["row"]]
    assert batch["target"].tolist() == [columns["target"][row] for row in batch["row"]]
    assert prompts_of(batch) == [IDS[row] for row in batch["row"]]


def test_a_key_that_only_some_rows_have_is_none_in_the_others():
    rows = [{"prompt": [1]}, {"prompt": [2], "hint": "x"}]
    assert PromptBatches(rows, 2).columns == {"prompt": [[1], [2]], "hint": [None, "x"]}


def test_long_prompts_keep_their_end():
    assert prompts_of(one(IDS, max_length=2)) == [[1, 2], [1], [1, 0], [0, 1]]
    assert one(IDS, max_length=5)["prompt"].shape == (4, 5)
    assert one(IDS, max_length=1)["prompt"].ravel().tolist() == [2, 1, 0, 1]


def test_a_start_token_comes_first_once_and_stays():
    batch = one(IDS, start_token_id=2, max_length=3)
    assert prompts_of(batch) == [[2, 1, 2], [2, 1], [2, 1, 0], [2, 0, 1]]
    assert prompts_of(one(["", "c"], count=2, start_token_id=2, tokenizer=LETTERS)) == [[2], [2]]


def test_widths_are_few(backend):
    rows = [[1] * length for length in (3, 16, 17, 32, 33, 64, 65, 128)]
    widths = [PromptBatches(rows, 1, shuffle=False)[i]["prompt"].shape[1] for i in range(8)]
    if backend == "tensorflow":
        assert widths == [128] * 8
    else:
        assert widths == [16, 16, 32, 32, 64, 64, 128, 128]
    fixed = PromptBatches(rows, 1, width=130)
    assert {fixed[i]["prompt"].shape for i in range(8)} == {(1, 130)}


# Order


def test_the_order_is_a_function_of_seed_and_epoch():
    rows = [[i] for i in range(50)]
    first, second = (PromptBatches(rows, 8, seed=1) for _ in range(2))
    assert orders(first, 0) != orders(first, 1)
    assert orders(first, 3) == orders(second, 3) != orders(PromptBatches(rows, 8, seed=2), 3)
    assert len(set(orders(first, 0))) == 48 == len(orders(first, 0))
    assert orders(PromptBatches(rows, 8, shuffle=False), 5) == list(range(48))


def test_steps_go_on_where_the_last_epoch_ended():
    batches = PromptBatches(IDS, 2, shuffle=False, steps=3)
    assert orders(batches, 0) == [0, 1, 2, 3, 0, 1]
    assert orders(batches, 1) == [2, 3, 0, 1, 2, 3]


class Weighing(keras.Model):
    """Its loss is the sum of a batch, times what depends on the order of all batches before."""

    def __init__(self):
        super().__init__()
        self.seen = self.add_weight(shape=(), initializer="zeros", name="seen")
        self.built = True

    def call(self, x):
        return ops.cast(x["prompt"][:, :1], "float32") * self.seen

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(ops.cast(x["prompt"], "float32")) * (1 + self.seen)


def fitted(batches, epochs, callbacks=(), learning_rate=1e-3):
    """The loss of each epoch, and the weight in the end."""
    model = Weighing()
    model.compile(keras.optimizers.SGD(learning_rate))
    history = model.fit(batches, epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=0)
    return history.history["loss"], float(ops.convert_to_numpy(model.seen))


def seven(epoch=0):
    rows = [[1] * length for length in (3, 40, 2, 17, 5, 70, 1)]
    batches = PromptBatches(rows, 2, seed=1)
    batches.epoch = epoch
    return batches


def test_plain_fit_moves_from_epoch_to_epoch():
    """Keras also ends an epoch that never began; the first is 0 all the same."""
    batches = seven()
    losses, _ = fitted(batches, 3, learning_rate=0.0)
    sums = [[b["prompt"].sum() for b in map(seven(e).__getitem__, range(3))] for e in range(3)]
    np.testing.assert_allclose(losses, np.mean(sums, 1), rtol=1e-6)
    assert len(set(losses)) > 1  # another row is left out
    assert batches.epoch == 3


class Stop(keras.callbacks.Callback):
    """Interrupts after so many batches."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("after", [2, 3, 4, 7])
def test_a_resumed_run_sees_what_the_straight_run_sees(tmp_path, after):
    straight = fitted(seven(), 3)
    options = {"resume": "auto", "verbose": False, "end_on_sigterm": False}
    keep = lambda: CheckpointCallback(tmp_path, **options)  # noqa: E731
    fitted(seven(), 3, [Stop(after), keep()])
    assert fitted(seven(), 3, [keep()]) == straight


# Real files


def test_questions_of_gsm8k(shared_data):
    pytest.importorskip("tokenizers")
    tokenizer = load_tokenizer(shared_data / "tokenizer" / "gpt2_encoder.json")
    path = shared_data / "llm" / "gsm8k_train.jsonl"
    batches = PromptBatches(path, 16, tokenizer=tokenizer, prompt_key="question", seed=0)
    assert batches.rows == 7473 and batches.num_batches == 467
    assert sorted(batches.columns) == ["answer", "prompt"]
    batch = batches[5]
    for row, ids in zip(batch["row"], prompts_of(batch), strict=True):
        assert tokenizer.decode(ids) == batches.columns["prompt"][row]
        assert "####" in batches.columns["answer"][row]
    assert len({batches[i]["prompt"].shape for i in range(50)}) <= 4


def test_chats_of_the_preferences(shared_data):
    pytest.importorskip("tokenizers")
    tokenizer = shared_data / "tokenizer" / "gpt2_encoder.json"
    path = shared_data / "llm" / "dpo_en_demo.jsonl"
    batches = PromptBatches(path, 4, tokenizer=tokenizer, max_length=128)
    assert sorted(batches.columns) == ["chosen", "prompt", "rejected"]
    end = load_tokenizer(tokenizer).decode(prompts_of(batches[0])[0])
    assert end.endswith("\nassistant: ") and batches[0]["prompt"].shape[1] <= 128


# What is refused


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "at least one row. Received: none"),
        ({"prompt": []}, {}, "at least one row"),
        ({"prompt": [[1], [2]], "a": [1]}, {}, r"same number of rows. Received: {'prompt': 2, 'a'"),
        ([{"promt": [1]}], {}, "Unknown column 'prompt'. Did you mean 'promt'"),
        ([{"prompt": [1]}, {"promt": [1]}], {}, "Row 1 has no 'prompt'.*Did you mean 'promt'"),
        ([{"prompt": [1]}, [1]], {}, r"Each row must be a dict. Received: \[1\] in row 1"),
        ([[1], "abc"], {}, "`prompt` must be token ids where.*`tokenizer`.*'abc' in row 1"),
        ([[1], [0.5]], {}, r"integers of at least 0. Received: \[0.5\] in row 1"),
        ([[1], [True]], {}, r"Received: \[True\] in row 1"),
        ([[1], [-100]], {}, r"Received: \[-100\] in row 1"),
        ([[1], [[1], [2, 3]]], {}, r"Received: \[\[1\], \[2, 3\]\] in row 1"),
        ([1, 2], {}, "Received: 1 in row 0"),
        ([[1], None], {}, "Row 1 has no 'prompt'"),
        (["a", ""], {"tokenizer": LETTERS}, "at least one token. Received: none in row 1"),
        ([[1]], {"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ([[1]], {"max_length": 0}, "`max_length` must be an integer of at least 1"),
        ([[1]], {"max_length": 1, "start_token_id": 0}, "`max_length` .* at least 2"),
        ([[1]], {"steps": 0}, "`steps` must be"),
        ([[1] * 20], {"width": 16}, "`width` must hold.*width=16 and a prompt of 20 tokens"),
        ({"prompt": [[1]], "row": [1]}, {}, "can't be called 'row'"),
        ({"q": [[1]], "prompt": [1]}, {"prompt_key": "q"}, "can't be called 'prompt'"),
        (["a"], {"tokenizer": 3}, "`tokenizer` must have `encode`"),
        ([[{"role": "user"}]], {"tokenizer": LETTERS}, "'role' and 'content'"),
        ([[{"role": "u", "content": None}]], {"tokenizer": LETTERS}, "'content'.* must be a text"),
        ([CHAT], {"tokenizer": LETTERS, "chat_template": len}, "must give a text. Received: 2"),
    ],
)
def test_bad_input(prompts, options, message):
    with pytest.raises(ValueError, match=message):
        PromptBatches(prompts, **{"batch_size": 1, **options})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"prompt": [1]}\n[1]\n', r"a JSON object. Received: \[1\] in line 2 of '.*rows.jsonl'"),
        ('{"prompt": [1]}\n\n{"prompt"\n', "Expecting .* in line 3 of '.*rows.jsonl'"),
        ("\n", "at least one row"),
    ],
)
def test_bad_lines(tmp_path, lines, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=message):
        PromptBatches(path, 1)


def test_bad_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        PromptBatches(tmp_path / "none.jsonl", 1)
    (tmp_path / "rows.xyz").write_text("")
    with pytest.raises(ValueError, match="must end in .csv, .tsv, .parquet, .jsonl"):
        PromptBatches(tmp_path / "rows.xyz", 1)
