"""What the recipes of fine-tuning share: rows as ids, answers to prompts, and what is drawn."""

from artifex_keras import pictures
from artifex_keras.datasets import chat_text
from artifex_keras.shell.recipes import text

__all__ = [
    "COMPLETION",
    "all_rows",
    "draw_answers",
    "draw_rewards",
    "ids_of",
    "no_samples",
    "prompts_of",
    "sampled",
]

SIDES = ("chosen", "rejected")
COMPLETION = 64  # tokens of a completion by default
BEGINNING = 8  # tokens of a text that has no prompt, by which it is completed
NUM_PROMPTS, NUM_SHOWN = 8, 4  # prompts in the table of a run, and completions of each


def all_rows(dataset):
    """The rows of all parts."""
    parts = (dataset.given(name) for name in ("train", "validation", "test"))
    return [row for part in parts if part is not None for row in part]


def ids_of(dataset, value):
    """The ids of a prompt or an answer; none of what isn't there, which is reported later."""
    if value is None:
        return []
    messages = [value] if isinstance(value, dict) else value
    return dataset.tokenizer.encode(value if isinstance(value, str) else chat_text(messages))


def prompts_of(dataset, rows=None):
    """The ids of the prompt of each row."""
    return [_prompt_of(dataset, row) for row in (all_rows(dataset) if rows is None else rows)]


def _prompt_of(dataset, row):
    """The ids of a prompt; of a chat what stands before its last answer, of a text its
    beginning."""
    if "prompt" in row:
        return ids_of(dataset, row["prompt"])
    if "text" in row:
        return ids_of(dataset, row["text"])[:BEGINNING]
    messages = row["messages"]
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return ids_of(dataset, messages[: turns[-1]] if turns else messages)


def _held_out(dataset):
    """Rows that weren't trained on, if there are any."""
    parts = (dataset.given(name) for name in ("test", "validation", "train"))
    return next(part for part in parts if part is not None)


def sampled(model, dataset, count, seed, *, prompt=None, length=None, temperature=None):
    """`count` texts: `prompt`, or held-out prompts, with the policy's answers. To a model of chats
    `prompt` is what the user says."""
    held_out = _held_out(dataset)
    if prompt is None:
        rows = [held_out[index % len(held_out)] for index in range(count)]
    else:
        chats = "messages" in held_out[0]
        rows = [{"prompt": [{"role": "user", "content": prompt}] if chats else prompt}] * count
    policy, own = model.policy, getattr(model, "temperature", 1.0)
    length = length or getattr(model, "max_new_tokens", None) or COMPLETION
    room = policy.max_length + 1 - min(length, policy.max_length // 2)
    room = min(room, getattr(model, "max_prompt_length", None) or room)
    return text.answers(
        policy,
        [ids[-room:] for ids in prompts_of(dataset, rows)],
        dataset.tokenizer,
        ends=model.actor.end_token_ids,
        length=length,
        temperature=own if temperature is None else temperature,
        seed=seed,
    )


def draw_answers(model, dataset, folder):
    """A file of held-out prompts with the policy's completions and their rewards."""
    rows = _held_out(dataset)[:NUM_PROMPTS]
    if hasattr(model, "table"):
        each = model.num_generations
        table = model.table(rows, count=len(rows) * each, seed=0)
        texts = [
            _format_completions(table[at : at + min(each, NUM_SHOWN)])
            for at in range(0, len(table), each)
        ]
    else:
        texts = sampled(model, dataset, len(rows), 0).tolist()
    return [pictures.texts(texts, folder / "completions.txt")]


def draw_rewards(model, dataset, folder):
    """A file of held-out pairs with the rewards of both answers."""
    rows = _held_out(dataset)[:NUM_PROMPTS]
    pairs = model.as_arrays([{key: row[key] for key in ("prompt", *SIDES)} for row in rows])
    scores = {}
    for side in SIDES:
        ids, ends = pairs[side], pairs[f"{side}_mask"].shape[1]
        last = ends - pairs[f"{side}_mask"][:, ::-1].argmax(axis=1)
        scores[side] = model.reward([row[:n] for row, n in zip(ids, last, strict=True)])
    texts = [
        "\n".join([_shown(row["prompt"]), *(
            f"> {_shown(row[side])}  ({side}, {scores[side][index]:.4g})" for side in SIDES
        )])
        for index, row in enumerate(rows)
    ]  # fmt: skip
    return [pictures.texts(texts, folder / "rewards.txt")]


def _shown(value):
    """A prompt or an answer as text."""
    if isinstance(value, str):
        return value
    return chat_text([value] if isinstance(value, dict) else value)


def no_samples(model, dataset, count, seed):
    raise ValueError(
        "A reward model has no samples: it scores texts, by `load_model(path).reward(texts)`, and "
        "is the reward of `train grpo --reward RUN/model.keras`."
    )


def _format_completions(rows):
    """A prompt, and below it some of its completions with their rewards."""
    prompt = rows[0]["prompt"]
    lines = [prompt if isinstance(prompt, str) else chat_text(prompt)]
    for row in rows:
        scores = [f"{name} {value:.4g}" for name, value in row.items() if isinstance(value, float)]
        lines.append(f"> {row['completion']}  ({', '.join(scores)})")
    return "\n".join(lines)
