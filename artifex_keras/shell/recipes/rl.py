"""Fine-tuning from the shell: by examples, rewards, preferences, and a teacher."""

import numpy as np

from artifex_keras import datasets, networks
from artifex_keras.datasets.chats import whole_chat
from artifex_keras.datasets.examples import check_turns
from artifex_keras.datasets.loading import load_examples
from artifex_keras.models import Autoregressive
from artifex_keras.rl import (
    DPO,
    GRPO,
    KTO,
    PPO,
    REINFORCE,
    RLOO,
    SFT,
    Distillation,
    RewardModel,
)
from artifex_keras.shell import contexts
from artifex_keras.shell.recipes import text
from artifex_keras.shell.recipes.answers import (
    COMPLETION,
    all_rows,
    draw_answers,
    draw_rewards,
    ids_of,
    no_samples,
    prompts_of,
    sampled,
)
from artifex_keras.shell.recipes.recipe import Recipe
from artifex_keras.shell.recipes.rewards import READY, rewards
from artifex_keras.trainers import (
    DistillationTrainer,
    DPOTrainer,
    GRPOTrainer,
    KTOTrainer,
    PPOTrainer,
    REINFORCETrainer,
    RewardModelTrainer,
    RLOOTrainer,
    SFTTrainer,
)

__all__ = ["RECIPES"]

LOST = "they lose the beginning of the prompt, then the end of the answer"
SIDES = ("chosen", "rejected")

# What suits each algorithm, apart from what the data say.
ON_POLICY = {
    GRPO: {"num_generations": 8},
    PPO: {"num_generations": 4},
    REINFORCE: {"num_generations": 4, "baseline": "loo"},
    RLOO: {"num_generations": 4},
    Distillation: {},
}


# Settings


def _on_policy_defaults(algorithm):
    def defaults(dataset, requested):
        model, network = requested["model"], requested["network"]
        lengths = [*map(len, prompts_of(dataset))]
        length = model.get("max_new_tokens") or COMPLETION
        starts = [place for place in (network.get("from"), model.get("teacher")) if place]
        if starts:
            room = min(text.start(place, None).max_length for place in starts) + 1
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
            1 + len(prompt) + max(len(ids_of(dataset, row.get(name))) for name in columns)
            for prompt, row in zip(prompts_of(dataset), all_rows(dataset), strict=True)
        ]  # with the end
        return _rows_defaults(dataset, requested, lengths, LOST, model, 5e-5)

    return defaults


def _examples_defaults(dataset, requested):
    rows = all_rows(dataset)
    if requested["model"].get("assistant_only") is not False:
        check_turns(requested["data"]["source"], rows)
    lengths = [1 + len(_all_ids(dataset, row)) for row in rows]  # with the end
    lost = LOST if "prompt" in rows[0] else "their ends are cut off"
    return _rows_defaults(dataset, requested, lengths, lost, {}, 3e-4)


def _all_ids(dataset, row):
    """The ids of a row that is learned."""
    if "messages" in row:
        return ids_of(dataset, whole_chat(row["messages"]))
    return np.concatenate([ids_of(dataset, value) for value in row.values()])


def _rows_defaults(dataset, requested, lengths, lost, model, learning_rate):
    """The settings for rows of these `lengths`, of which longer ones are cut."""
    start, wanted = requested["network"].get("from"), requested["model"].get("max_length")
    if start is not None and not wanted:
        wanted = text.start(start, None).max_length + 1
    wanted = wanted or requested["network"].get("max_length")
    context = contexts.default_context(lengths, wanted, dataset.name, lost)
    size = contexts.fitting_rows(16, context)
    training = _training(
        dataset, requested, batch_size=size, steps=500, learning_rate=learning_rate
    )
    training["scheduler"] = {"type": "linear"}
    return _settings(dataset, requested, context, model, training)


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


def _taught_policy(dataset, network, model):
    made = _policy(dataset, network, model)
    made["student"] = made.pop("policy")
    return {"teacher": _teacher(model, dataset.tokenizer), **made}


def _teacher(model, tokenizer):
    place = model.get("teacher")
    if place is None:
        raise ValueError(
            "Which teacher? --teacher RUN, or `teacher: RUN` in a config: a run of a model of "
            "text, or its model.keras, whose tokens are the student's."
        )
    return text.start(place, tokenizer, argument="teacher")


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


def _attention(config, dataset):
    """`(rows, tokens)` that a step of an algorithm attends over."""
    model, network = config["model"], config["network"]
    rows = model.get("num_generations", 2)  # completions of a prompt, or a pair of answers
    return rows * config["training"]["batch_size"], network.get("max_length")


def _recipe(model, trainer, sample=sampled, draw=draw_answers, load=datasets.load_rows, **more):
    return Recipe(
        model=model,
        trainer=trainer,
        kinds=("rows",),
        load=load,
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
        sample=no_samples,
        draw=draw_rewards,
        defaults=_answers_defaults(SIDES, {"centering": 0.01}),
        context="model.max_length",
        networks=_backbone,
        progress_metrics=("loss", "val_loss", "reward_accuracy"),
    )


def _of_examples():
    return _recipe(
        SFT,
        SFTTrainer,
        load=load_examples,
        defaults=_examples_defaults,
        context="model.max_length",
        networks=_policy,
        progress_metrics=("loss", "val_loss", "perplexity"),
    )


def _of_a_teacher():
    return _recipe(
        Distillation,
        DistillationTrainer,
        defaults=_on_policy_defaults(Distillation),
        context="network.max_length",
        networks=_taught_policy,
        model_keys=("teacher",),
        progress_metrics=("loss", "val_loss", "agreement"),
    )


RECIPES = {
    "sft": _of_examples(),
    "distillation": _of_a_teacher(),
    "grpo": _on_policy(GRPO, GRPOTrainer),
    "ppo": _on_policy(PPO, PPOTrainer),
    "reinforce": _on_policy(REINFORCE, REINFORCETrainer),
    "rloo": _on_policy(RLOO, RLOOTrainer),
    "dpo": _of_answers(DPO, DPOTrainer, SIDES),
    "reward": _of_rewards(),
    "kto": _of_answers(KTO, KTOTrainer, ("completion",)),
}
