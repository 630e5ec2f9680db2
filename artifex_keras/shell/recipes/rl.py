"""Fine-tuning from the shell: by rewards, and by preferences."""

import numpy as np

from artifex_keras import datasets, networks, pictures
from artifex_keras.datasets import chat_text
from artifex_keras.models import Autoregressive
from artifex_keras.rl import DPO, GRPO, KTO, PPO, REINFORCE, RLOO, RewardModel
from artifex_keras.shell import contexts
from artifex_keras.shell.recipes import text
from artifex_keras.shell.recipes.recipe import Recipe
from artifex_keras.shell.recipes.rewards import READY, rewards
from artifex_keras.trainers import (
    DPOTrainer,
    GRPOTrainer,
    KTOTrainer,
    PPOTrainer,
    REINFORCETrainer,
    RewardModelTrainer,
    RLOOTrainer,
)

__all__ = ["RECIPES"]

LOST = "they lose the beginning of the prompt, then the end of the answer"
SIDES = ("chosen", "rejected")
COMPLETION = 64  # tokens of a completion by default
NUM_PROMPTS, NUM_SHOWN = 8, 4  # prompts in the table of a run, and completions of each

# What suits each algorithm, apart from what the data say.
ON_POLICY = {
    GRPO: {"num_generations": 8},
    PPO: {"num_generations": 4},
    REINFORCE: {"num_generations": 4, "baseline": "loo"},
    RLOO: {"num_generations": 4},
}


# Settings


def _on_policy_defaults(algorithm):
    def defaults(dataset, requested):
        model, network = requested["model"], requested["network"]
        lengths = [*map(len, _prompts(dataset))]
        length = model.get("max_new_tokens") or COMPLETION
        start = network.get("from")
        if start is not None:
            room = text.start(start, None).max_length + 1
            if not model.get("max_new_tokens"):
                length = max(1, min(length, room - min(max(lengths), room)))
        else:
            room = network.get("max_length") or max(contexts.LONGEST, 2 * length)
        kept = model.get("max_prompt_length") or min(max(lengths), max(1, room - length))
        contexts.say_cut([n + length for n in lengths], kept + length, dataset.name,
                         "prompts lose their beginning")  # fmt: skip
        limit = {"max_prompt_length": kept} if kept < max(lengths) else {}
        size = contexts.fitting_rows(8, kept + length)
        model = {**ON_POLICY[algorithm], "max_new_tokens": length, **limit}
        training = _training(dataset, requested, batch_size=size, steps=200, learning_rate=1e-4)
        return _settings(dataset, requested, kept + length, model, training)

    return defaults


def _answers_defaults(columns, model):
    def defaults(dataset, requested):
        lengths = [
            1 + len(prompt) + max(len(_ids(dataset, row.get(name))) for name in columns)
            for prompt, row in zip(_prompts(dataset), _rows(dataset), strict=True)
        ]  # with the end
        start, wanted = requested["network"].get("from"), requested["model"].get("max_length")
        if start is not None and not wanted:
            wanted = text.start(start, None).max_length + 1
        wanted = wanted or requested["network"].get("max_length")
        context = contexts.default_context(lengths, wanted, dataset.name, LOST)
        size = contexts.fitting_rows(16, context)
        training = _training(dataset, requested, batch_size=size, steps=500, learning_rate=5e-5)
        training["scheduler"] = {"type": "linear"}
        return _settings(dataset, requested, context, model, training)

    return defaults


def _settings(dataset, requested, context, model, training):
    started = requested["network"].get("from") is not None
    return {
        "network": {} if started else {"max_length": context, **text.NETWORK},
        "model": {"end_token_id": text.end_of(dataset.tokenizer), **model},
        "trainer": {},
        "training": training | {"gradient_clip_norm": 1.0},
    }


def _training(dataset, requested, *, batch_size, steps, learning_rate):
    size = requested["training"].get("batch_size") or min(batch_size, len(dataset.train))
    return {
        "batch_size": size,
        "num_epochs": int(np.clip(round(steps * size / len(dataset.train)), 1, 200)),
        "optimizer": {"type": "adamw", "learning_rate": learning_rate, "weight_decay": 0.0},
    }


# What an algorithm is made of


def _policy(dataset, network, model):
    tokenizer, network = dataset.tokenizer, dict(network)
    start = network.pop("from", None)
    if start is not None:
        policy = text.start(start, tokenizer, network)
    else:
        size = tokenizer.vocabulary_size
        policy = Autoregressive(networks.CausalTransformer(size, **network))
    ends = text.token_ids("end_token_id", model["end_token_id"], tokenizer)
    return {"policy": policy, "tokenizer": tokenizer, "end_token_id": ends}


def _backbone(dataset, network, model):
    made = _policy(dataset, network, model)
    return {"backbone": made.pop("policy"), **made}


def _rewarded_policy(dataset, network, model):
    return {"reward_fn": _rewards(model), **_policy(dataset, network, model)}


def _rewards(model):
    if model.get("reward") is None:
        raise ValueError(
            "Which reward? --reward FILE.py, or `reward: FILE.py` in a config: a file with a "
            "function reward(prompts, completions, **columns); ready ones: "
            f"{', '.join(READY)}."
        )
    return rewards(model["reward"])


def _rewarded(model, settings):
    """A loaded model with the rewards of its settings: functions are not saved with it."""
    model.reward_fn = _rewards(settings)
    return model


# Prompts and answers


def _rows(dataset):
    parts = (dataset.given(name) for name in ("train", "validation", "test"))
    return [row for part in parts if part is not None for row in part]


def _ids(dataset, value):
    """The ids of a prompt or an answer; none of what isn't there, which is reported later."""
    if value is None:
        return []
    messages = [value] if isinstance(value, dict) else value
    return dataset.tokenizer.encode(value if isinstance(value, str) else chat_text(messages))


def _prompts(dataset, rows=None):
    return [_ids(dataset, row["prompt"]) for row in (_rows(dataset) if rows is None else rows)]


def _held_out(dataset):
    """Rows that weren't trained on, if there are any."""
    parts = (dataset.given(name) for name in ("test", "validation", "train"))
    return next(part for part in parts if part is not None)


def _sampled(model, dataset, count, seed, *, prompt=None, length=None, temperature=None):
    """`count` texts: `prompt`, or held-out prompts, with the policy's answers."""
    if prompt is None:
        held_out = _held_out(dataset)
        rows = [held_out[index % len(held_out)] for index in range(count)]
    else:
        rows = [{"prompt": prompt}] * count
    policy, own = model.policy, getattr(model, "temperature", 1.0)
    length = length or getattr(model, "max_new_tokens", COMPLETION)
    room = policy.max_length + 1 - min(length, policy.max_length // 2)
    room = min(room, getattr(model, "max_prompt_length", None) or room)
    return text.answers(
        policy,
        [ids[-room:] for ids in _prompts(dataset, rows)],
        dataset.tokenizer,
        ends=model.actor.end_token_ids,
        length=length,
        temperature=own if temperature is None else temperature,
        seed=seed,
    )


def _draw_answers(model, dataset, folder):
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
        texts = _sampled(model, dataset, len(rows), 0).tolist()
    return [pictures.texts(texts, folder / "completions.txt")]


def _draw_rewards(model, dataset, folder):
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


def _no_samples(model, dataset, count, seed):
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


def _attention(config, dataset):
    """`(rows, tokens)` that a step of an algorithm attends over."""
    model, network = config["model"], config["network"]
    rows = model.get("num_generations", 2)  # completions of a prompt, or a pair of answers
    return rows * config["training"]["batch_size"], network.get("max_length")


def _recipe(model, trainer, sample=_sampled, draw=_draw_answers, **more):
    return Recipe(
        model=model,
        trainer=trainer,
        kinds=("rows",),
        load=datasets.load_rows,
        network_keys=(*text.NETWORK_KEYS, "max_length"),
        sample=sample,
        draw=draw,
        attention=_attention,
        units={"completion_length": "tokens", "kl": "nats", "entropy": "nats"},
        **more,
    )


def _on_policy(model, trainer):
    return _recipe(
        model,
        trainer,
        defaults=_on_policy_defaults(model),
        networks=_rewarded_policy,
        model_keys=("reward",),
        context="network.max_length",
        restore=_rewarded,
        progress_metrics=("reward", "val_reward", "completion_length"),
    )


def _of_answers(model, trainer, columns):
    return _recipe(
        model,
        trainer,
        defaults=_answers_defaults(columns, {"beta": 0.1}),
        context="model.max_length",
        networks=_policy,
        progress_metrics=("loss", "val_loss", "reward_accuracy"),
    )


def _of_rewards():
    return _recipe(
        RewardModel,
        RewardModelTrainer,
        sample=_no_samples,
        draw=_draw_rewards,
        defaults=_answers_defaults(SIDES, {"centering": 0.01}),
        context="model.max_length",
        networks=_backbone,
        progress_metrics=("loss", "val_loss", "reward_accuracy"),
    )


RECIPES = {
    "grpo": _on_policy(GRPO, GRPOTrainer),
    "ppo": _on_policy(PPO, PPOTrainer),
    "reinforce": _on_policy(REINFORCE, REINFORCETrainer),
    "rloo": _on_policy(RLOO, RLOOTrainer),
    "dpo": _of_answers(DPO, DPOTrainer, SIDES),
    "reward": _of_rewards(),
    "kto": _of_answers(KTO, KTOTrainer, ("completion",)),
}
