"""What the recipes of text share: where they start, what ends an answer, answers to prompts."""

from pathlib import Path

import numpy as np
from keras import ops

from artifex_keras import datasets, endings
from artifex_keras.arguments import integer, unknown_name
from artifex_keras.datasets.dataset import divide
from artifex_keras.datasets.shards import found_files
from artifex_keras.models import Autoregressive
from artifex_keras.shell import contexts
from artifex_keras.trust import load_model

__all__ = ["NETWORK", "NETWORK_KEYS", "answers", "end_of", "load", "start", "token_ids"]

NETWORK = {"num_layers": 4, "num_heads": 4, "width": 128, "dropout": 0.0}
NETWORK_KEYS = (
    "from",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "width",
    "mlp_width",
    "positions",
    "norm",
    "activation",
    "dropout",
    "tied_embeddings",
    "scan_layers",
)

PARTS = ("validation", "test", "seed")  # options that say how data are divided
ENDS = ("<|endoftext|>", "<|im_end|>", "</s>", "<eos>", "\n")  # pieces that end a text, if there


def end_of(tokenizer):
    """The id by which a tokenizer's texts end; None if it has none."""
    found = (tokenizer.id_of(piece) for piece in ENDS)
    return next((index for index in found if index is not None), None)


def token_ids(name, value, tokenizer):
    """Ids as they are, and those of pieces of a tokenizer; of one, or of a list of them."""
    if isinstance(value, list):
        return [token_ids(name, each, tokenizer) for each in value]
    if not isinstance(value, str):
        return value
    found = tokenizer.id_of(value)
    if found is None:
        raise ValueError(
            f"`{name}` must be an id, or a piece of the tokenizer's. Received: {name}={value!r}, "
            f"which the vocabulary of {tokenizer.vocabulary_size} hasn't got."
        )
    return found


def load(source, *, length=None, **options):
    """The dataset of a text or of arrays; of a .jsonl, .csv, .tsv or .parquet file the tokens of
    prompts and completions, of which those of completions are to be learned."""
    if not _holds_rows(source):
        return datasets.load(source, **({} if length is None else {"length": length}), **options)
    parts = {name: options.pop(name) for name in PARTS if name in options}
    rows = datasets.load_rows(source, validation=0, test=0, **options)
    end = end_of(rows.tokenizer)
    form = {"tokenizer": rows.tokenizer, "end_token_id": end, "pad_token_id": end}
    given = rows.given("train")
    if given and "completion" not in given[0]:
        raise ValueError(
            f"{unknown_name('completion', given[0], 'column')} `completion_key` "
            "(--set completion_key=NAME) says which one holds the answers."
        )
    longest = integer("length", length, minimum=2, optional=True)
    rows_of_tokens = datasets.completions(given, max_length=longest, **form)
    width = rows_of_tokens["mask"].shape[1]
    if longest is None and width > contexts.LONGEST:
        lengths = width - rows_of_tokens["mask"][:, ::-1].argmax(axis=1)
        lost = "they lose the beginning of the prompt, then the end of the answer"
        longest = contexts.default_context(lengths.tolist(), None, rows.name, lost)
        rows_of_tokens = datasets.completions(given, max_length=longest, **form)
    dataset = datasets.Dataset(
        rows.name,
        "tokens",
        rows_of_tokens["tokens"],
        train_labels=rows_of_tokens["mask"].astype(bool),
        tokenizer=rows.tokenizer,
        end_token_id=end,
    )
    return divide(dataset, **parts)


def _holds_rows(source):
    if not isinstance(source, (str, Path, list)):
        return False
    path = (found_files(source) or [Path(str(source))])[0]
    return path.suffix.lower() in endings.TABLES


def start(place, tokenizer, others=(), argument="from"):
    """The autoregressive model that a run's folder or a .keras file holds, to be trained further.

    Args:
        place: the folder or the file.
        tokenizer: what makes the ids that it is to see.
        others: keys that describe a new network, beside which there would be none.
        argument: what errors call it.

    Raises:
        ValueError: for a model of another kind or another vocabulary, and for such keys.
    """
    if others:
        raise ValueError(
            f"`from` brings its network along: there is no use for {', '.join(sorted(others))}. "
            f"Received: from={str(place)!r}."
        )
    path = Path(place)
    path = path / "model.keras" if path.is_dir() else path
    if not path.is_file():
        what = "to start from" if argument == "from" else f"for `{argument}`"
        raise ValueError(f"There is no model {what} at {str(path)!r}.")
    model = load_model(path, compile=False)
    model = getattr(model, "policy", model)
    if not isinstance(model, Autoregressive):
        raise ValueError(
            f"`{argument}` must be a run or a file of an autoregressive model. Received: "
            f"{str(place)!r}, which holds a {type(model).__name__}."
        )
    size = None if tokenizer is None else tokenizer.vocabulary_size
    if size is not None and size > model.vocabulary_size:
        raise ValueError(
            f"The model that `{argument}` names must know all tokens of the data. Received: "
            f"{model.vocabulary_size} tokens in {str(place)!r}, {size} in the tokenizer."
        )
    model.load_ema_weights()
    return model


def answers(model, prompts, tokenizer, *, ends, length, temperature=1.0, seed=None):
    """Texts: each prompt, a row of ids, with what the model makes of it, up to `length` tokens or
    its end, or what its context holds."""
    longest = max(map(len, prompts))
    room = max(1, model.max_length + 1 - longest)
    generated = model.generate(
        prompts, min(length, room), temperature, end_token_id=ends, seed=seed
    )
    rows = zip(prompts, ops.convert_to_numpy(generated), strict=True)
    return np.array([_text(tokenizer, prompt, completion, ends) for prompt, completion in rows])


def _text(tokenizer, prompt, completion, ends):
    ended = np.flatnonzero(np.isin(completion, [] if ends is None else ends))
    kept = completion[: ended[0]] if len(ended) else completion
    return tokenizer.decode(np.concatenate([prompt, kept]))
