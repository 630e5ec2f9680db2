"""Autoregressive models from the shell: of texts, and of images pixel by pixel."""

import numpy as np
from keras import ops

from artifex_keras import networks, pictures
from artifex_keras.models import Autoregressive, PixelAutoregressive
from artifex_keras.shell import contexts
from artifex_keras.shell.recipes import text
from artifex_keras.shell.recipes.recipe import Recipe, training_settings
from artifex_keras.trainers import AutoregressiveTrainer, PixelAutoregressiveTrainer

__all__ = ["RECIPES"]

LEVELS = (2, 17, 256)  # numbers of levels that images are likely to have
CATEGORIES = 32  # up to so many levels each gets a probability of its own


def _defaults(dataset, requested):
    training = training_settings(
        dataset,
        requested,
        steps=2000,
        batch_size=contexts.fitting_rows(16, dataset.shape[0]),
        optimizer={"type": "adamw", "learning_rate": 1e-3, "weight_decay": 0.1},
    )
    if not requested["training"].get("num_epochs"):
        size = requested["training"].get("batch_size") or training["batch_size"]
        training["num_epochs"] = int(np.clip(round(2000 * size / len(dataset.train)), 1, 500))
    return {
        "network": {} if requested["network"].get("from") else text.NETWORK,
        "model": {"ema_decay": None},
        "trainer": {},
        "training": training,
    }


def _networks(dataset, network, model):
    network = dict(network)
    start = network.pop("from", None)
    if start is not None:
        return {"network": text.start(start, dataset.tokenizer, network).network}
    if dataset.tokenizer is not None:
        size = dataset.tokenizer.vocabulary_size
    else:
        parts = (dataset.train, dataset.validation, dataset.test)
        size = 1 + max(int(part.max()) for part in parts if part is not None)
    return {"network": networks.CausalTransformer(size, dataset.shape[0], **network)}


def _sample_rows(model, dataset, count, seed, *, prompt=None, length=None, temperature=1.0):
    """`count` rows of `length` tokens, or of the context, after `prompt`, a text.

    A text longer than the context is generated in pieces; each sees the last half context before
    it. Texts without a prompt begin after a new line. A model trained on answers ends its answers,
    and without a prompt takes prompts from the data.
    """
    tokenizer = dataset.tokenizer
    if dataset.train_labels is not None:
        prompts = _prompts(dataset, count) if prompt is None else [tokenizer.encode(prompt)] * count
        ends, length = dataset.end_token_id, length or model.max_length
        options = {"ends": ends, "length": length, "temperature": temperature, "seed": seed}
        return text.answers(model, prompts, tokenizer, **options)
    if tokenizer is None:
        if prompt is not None:
            raise ValueError("A prompt needs data that are text: these are bare ids.")
        return ops.convert_to_numpy(model.sample(count, length, temperature=temperature, seed=seed))
    begin = tokenizer.encode("\n" if prompt is None and _has_lines(tokenizer) else prompt or "")
    if not len(begin):
        return ops.convert_to_numpy(model.sample(count, length, temperature=temperature, seed=seed))
    window = max(model.max_length // 2, 1)
    rows = np.tile(begin, (count, 1))
    total = len(begin) + (length or model.max_length)
    step = 0
    while rows.shape[1] < total:
        seen = rows[:, -window:]
        new = min(total - rows.shape[1], model.max_length + 1 - seen.shape[1])
        piece_seed = None if seed is None else seed + step
        made = model.generate(seen, new, temperature, seed=piece_seed)
        rows = np.concatenate([rows, ops.convert_to_numpy(made)], axis=1)
        step += 1
    return rows if prompt is not None else rows[:, len(begin) :]


def _prompts(dataset, count):
    """The prompts of `count` rows, as ids."""
    held_out = "train" if dataset.validation is None else "validation"
    rows, masks = dataset.part(held_out)
    begins = masks.argmax(axis=1)
    return [rows[i % len(rows)][: begins[i % len(rows)]] for i in range(count)]


def _has_lines(tokenizer):
    characters = getattr(tokenizer, "characters", None)
    return characters is None or "\n" in characters


RECIPE = Recipe(
    model=Autoregressive,
    trainer=AutoregressiveTrainer,
    defaults=_defaults,
    networks=_networks,
    network_keys=text.NETWORK_KEYS,
    kinds=("tokens",),
    load=text.load,
    sample=_sample_rows,
    context="data.length",
    attention=lambda config, dataset: (config["training"]["batch_size"], dataset.shape[0]),
    fallbacks={"images": "pixel-autoregressive"},
    progress_metrics=("loss", "val_loss", "perplexity"),
    units={"loss": "nats per token"},
)


def _pixel_defaults(dataset, requested):
    levels = requested["model"].get("num_levels") or _levels(dataset.train)
    likelihood = "categorical" if levels <= CATEGORIES else "logistic_mixture"
    return {
        "network": {"filters": 48, "num_blocks": 4, "dropout": 0.1},
        "model": {"likelihood": likelihood, "num_levels": levels, "ema_decay": 0.995},
        "trainer": {},
        "training": training_settings(
            dataset,
            requested,
            steps=2000,
            batch_size=32,
            optimizer={"type": "adamw", "learning_rate": 2e-3},
        ),
    }


def _levels(images):
    """The smallest likely number of levels that leaves the images, in [0, 1], as they are."""
    some = images[:1000]
    for levels in LEVELS:
        scaled = some * (levels - 1)
        if np.abs(scaled - np.round(scaled)).max() < 1e-3:
            return levels
    return LEVELS[-1]


def _pixel_networks(dataset, network, model):
    mixture = model["likelihood"] == "logistic_mixture"
    network = dict(network)
    components = network.pop("num_mixtures", 10)
    parameters = 3 * components if mixture else model["num_levels"]
    return {"network": networks.pixelcnn(dataset.shape, parameters, **network)}


def _draw_completions(model, dataset, folder):
    """Held-out images above what the model makes of their upper halves."""
    held_out = (dataset.train if dataset.validation is None else dataset.validation)[:20]
    completed = model.complete(held_out, dataset.shape[0] // 2, seed=0)
    return [
        pictures.reconstructions(
            held_out,
            ops.convert_to_numpy(completed),
            folder / "completions.png",
            title=f"Upper halves of {dataset.name} it was not trained on, completed",
            labels=("original", "completed"),
        )
    ]


PIXELS = Recipe(
    model=PixelAutoregressive,
    trainer=PixelAutoregressiveTrainer,
    scale="unit",
    kinds=("images",),
    defaults=_pixel_defaults,
    networks=_pixel_networks,
    network_keys=(
        "filters", "num_blocks", "kernel_size", "first_kernel_size", "dropout", "num_mixtures"
    ),
    draw=_draw_completions,
    fallbacks={"tokens": "autoregressive"},
    progress_metrics=("loss", "val_loss", "bits_per_dim"),
    units={"loss": "nats"},
)  # fmt: skip

RECIPES = {"autoregressive": RECIPE, "pixel-autoregressive": PIXELS}
