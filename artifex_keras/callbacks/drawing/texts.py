"""Texts that a model generates, and completions with their rewards."""

import numpy as np

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.arrays import to_numpy
from artifex_keras.callbacks.drawing.kind import Kind

__all__ = ["ANSWERS", "TEXT"]


def _texts(view):
    """Generated texts, or rows of ids without a tokenizer."""
    n, prompt = view.num_samples, view.prompt
    if prompt is None:
        rows = view.samples(n)
    else:
        prompt = np.asarray(view.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt)
        options = {"max_new_tokens": view.model.max_length - len(prompt), **view.sampling}
        generated = view.model.generate(np.tile(prompt, (n, 1)), seed=view.seed, **options)
        rows = np.concatenate([np.tile(prompt, (n, 1)), to_numpy(generated)], axis=1)
    return rows if view.tokenizer is None else view.tokenizer.decode(rows)


def _answers(view):
    """Completions with their rewards, as the model's `table` has them."""
    return [_format_row(row) for row in view.model.table(count=view.num_samples, seed=view.seed)]


def _format_row(row):
    parts = [f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float)]
    return f"{row['prompt']}\n> {row['completion']}\n{', '.join(parts)}"


TEXT = Kind(
    title="Texts",
    needs="`generate`",
    applies=lambda view: view.has("generate", "sample"),
    content=_texts,
    draw=lambda view, rows, path, title: pictures.texts(rows, path),
    animated=False,
    suffix=".txt",
)

ANSWERS = Kind(
    title="Answers",
    needs="a `table()` of a model that learns from rewards of texts or tokens",
    applies=lambda view: view.has("table") and getattr(view.model, "tabulates", True),
    content=_answers,
    draw=lambda view, rows, path, title: pictures.texts(rows, path),
    animated=False,
    suffix=".txt",
)
