"""Trains a row of the gallery, measures it, and keeps what came out."""

import json
import math
import time
from pathlib import Path

import numpy as np
from keras import ops

import artifex_keras as ak
from artifex_keras import datasets, metrics
from artifex_keras.atomic import write_text
from artifex_keras.trust import load_model, read_json
from benchmarks.gallery.drawing import save_sheet, sheet
from benchmarks.gallery.rows import VALUES, prepared

__all__ = ["run", "train"]

CLASSES = 10
EXAMPLES = 60_000  # that the classifier of a data set sees, some of them again
CONTEXT, TEXT = 128, 400  # characters that a model of text sees, and that are shown


class Clock:
    """Seconds since it was made: those of a wall clock, and those that the processor worked."""

    def __init__(self):
        self.began = time.perf_counter(), time.process_time()

    def read(self):
        wall, cpu = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        return {"cpu": round(cpu, 1), "wall": round(wall, 1)}


def load(row, path):
    """The data of a row: images in [0, 1] with their labels, or a text."""
    if row.data == "shakespeare":
        return datasets.load(path, length=CONTEXT, validation=0, test=0.1)
    return datasets.load(path, validation=0)


def sections(row, gpu=False):
    """The settings of the networks and of the training."""
    return (row.gpu["network"], row.gpu["training"]) if gpu else (row.network, row.training)


def build(row, dataset, gpu=False):
    network, _ = sections(row, gpu)
    if row.data == "shakespeare":
        network = {"vocabulary": dataset.tokenizer.vocabulary_size, **network}
    return row.build(dataset.shape, **network)


def train(row, model, x, labels, *, gpu=False, steps=None, verbose=0):
    """Trains a model for about so many steps, on as many images as make whole epochs of them."""
    settings = dict(sections(row, gpu)[1])
    steps = steps or settings.pop("steps")
    settings.pop("steps", None)
    batch_size = min(settings.pop("batch_size"), len(x))
    epochs = -(-steps * batch_size // len(x))
    steps_per_epoch = max(1, steps // epochs)
    rows = steps_per_epoch * batch_size
    rate = ak.create_scheduler(
        "cosine", settings.pop("learning_rate"),
        warmup_steps=min(100, steps // 10), total_steps=epochs * steps_per_epoch,
    )  # fmt: skip
    model.compile(ak.create_optimizer(learning_rate=rate, **settings))
    given = (x[:rows], labels[:rows]) if row.conditional else (x[:rows],)
    model.fit(*given, batch_size=batch_size, epochs=epochs, verbose=verbose)
    return epochs * steps_per_epoch


def run(name, row, path, folder, *, gpu=False, steps=None):
    """Trains and measures a row; the model, a picture and the numbers are written to `folder`."""
    folder = Path(folder)
    dataset = load(row, path)
    x, labels = dataset.part("train")
    model = build(row, dataset, gpu)
    text = row.data == "shakespeare"
    clock = Clock()
    steps = train(
        row, model, x if text else prepared(row, x, 0), labels, gpu=gpu, steps=steps, verbose=2
    )
    result = {
        "family": row.family,
        "data": row.data,
        "gpu": gpu,
        "steps": steps,
        "batch_size": sections(row, gpu)[1]["batch_size"],
        "weights": int(sum(math.prod(v.shape) for v in model.trainable_variables)),
        "seconds": {"training": clock.read()},
    }
    model.save(folder / f"{name}.keras")
    result |= text_numbers(model, dataset, name, folder) if text else {}
    result |= {} if text else measured(row, model, dataset, name, folder, result["seconds"])
    write_text(folder / f"{name}.json", json.dumps(result, indent=2) + "\n")
    return result


def measured(row, model, dataset, name, folder, seconds):
    """The likelihood of test images, and distances of samples from them."""
    found, clock = {}, Clock()
    images, labels = dataset.part("test")
    if row.likelihood is not None:
        values = row.likelihood(model, prepared(row, images[: row.tested], 1), labels[: row.tested])
        found["likelihood"] = {
            "value": float(values.mean()),
            "error": float(values.std() / np.sqrt(len(values))),
            "unit": row.unit,
            "images": len(values),
        }
        seconds["likelihood"] = clock.read()
    clock = Clock()
    samples = sampled(row, model, row.samples)
    seconds["sampling"] = clock.read()
    save_sheet(sheet(samples), folder / f"{name}.png")
    return found | distances(row.data, dataset, samples, folder)


def sampled(row, model, count):
    """Images in [0, 1]; where the model knows classes, class by class in turn."""
    options = dict(row.sampling)
    if row.conditional:
        options["condition"] = np.arange(count) % CLASSES
    low, high = VALUES[row.values][1]
    samples = ops.convert_to_numpy(model.sample(count, seed=0, **options))
    return np.clip((samples - low) / (high - low), 0, 1)


def distances(data, dataset, samples, folder):
    """Fréchet distance, precision and recall of samples beside the test images."""
    features = classifier(data, dataset, folder)
    test, labels = dataset.part("test")
    real = metrics.extracted(features, test)
    generator = np.random.default_rng(0)
    some = generator.choice(len(dataset.train), len(samples), replace=False)
    floor = metrics.extracted(features, dataset.train[some])
    names = ["frechet", "precision_recall"]
    found = metrics.measured(names, real, metrics.extracted(features, samples), seed=0)
    return {
        "samples": len(samples),
        **read_json(Path(folder) / f"features-{data}.json"),
        "frechet": found["frechet_distance"],
        "precision": found["precision"],
        "recall": found["recall"],
        "floor": metrics.measured("frechet", real, floor)["frechet_distance"],
    }


def classifier(data, dataset, folder):
    """The features of a data set: of the classifier in `folder`, or of a new one, kept there."""
    path = Path(folder) / f"features-{data}.keras"
    if not path.exists():
        epochs = max(1, round(EXAMPLES / len(dataset.train)))
        features = metrics.classifier_features(
            dataset.train, dataset.train_labels, epochs=epochs, seed=0
        )
        features.save(path)
        accuracy = {"classifier_accuracy": round(features.accuracy, 4)}
        write_text(path.with_suffix(".json"), json.dumps(accuracy) + "\n")
    return load_model(path)


def text_numbers(model, dataset, name, folder):
    """Bits per character of the text's end, and a sample of text."""
    bits = [
        -ops.convert_to_numpy(model.log_prob(dataset.test[i : i + 64])) / np.log(2)
        for i in range(0, len(dataset.test), 64)
    ]
    rows = np.concatenate(bits).ravel()
    prompt = dataset.tokenizer.encode("\n")
    made = ops.convert_to_numpy(model.generate(prompt[None], CONTEXT, 0.8, seed=0))[0]
    text = dataset.tokenizer.decode(made)
    write_text(Path(folder) / f"{name}.txt", text + "\n")
    return {
        "likelihood": {
            "value": float(rows.mean()),
            "error": float(rows.std() / np.sqrt(len(rows))),
            "unit": "bits per character",
            "images": len(dataset.test),
        },
        "text": text,
    }
