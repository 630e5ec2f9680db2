"""`artifex-keras evaluate RUN --metrics ...`: samples of a run beside examples it hasn't seen."""

from keras import ops

from artifex_keras import metrics

__all__ = ["lines_of", "sample_metrics"]


def sample_metrics(run, model, dataset, part, *, names, count, seed, features=None):
    """How far samples of a run are from the examples of a part of its data: a text that says what
    was compared, and the metrics by name.

    Args:
        run: a `Run`.
        model: its model.
        dataset: its data.
        part: the part that samples are compared with: "test", "validation" or "train".
        names: the metrics, rows of `metrics.METRICS`.
        count: how many samples.
        seed: the seed of the samples and of the metrics.
        features: "classifier" for those of a small classifier trained on the labels of the
            training part, "examples" for none; None for a classifier where images have labels.

    Raises:
        ValueError: for data of text, or a classifier without labels.
    """
    if dataset.kind not in ("images", "vectors"):
        raise ValueError(
            f"--metrics compares images and vectors. Received: a run that learns {dataset.kind}."
        )
    extractor, where = _extractor(dataset, features, seed)
    real = metrics.extracted(extractor, dataset.part(part)[0])
    samples = run.recipe.sample(model, dataset, count, seed)
    generated = metrics.extracted(extractor, ops.convert_to_numpy(samples))
    found = metrics.measured(names, real, generated, seed=seed, errors=True)
    return f"{count} samples beside {len(real)} examples of the {part} part, {where}", found


def _extractor(dataset, features, seed):
    """What gives the features, and the words for it."""
    labelled = dataset.train_labels is not None and dataset.train_labels.ndim == 1
    if features is None:
        features = "classifier" if labelled and dataset.kind == "images" else "examples"
    if features == "examples":
        return None, "as they are"
    if not labelled:
        raise ValueError(
            "--features classifier needs labels, one for each example. Received: data without. "
            "Use --features examples."
        )
    model = metrics.classifier_features(dataset.train, dataset.train_labels, seed=seed)
    return model, f"in features of a classifier of its labels (accuracy {model.accuracy:.3f})"


def lines_of(found):
    """A line for each metric, with its error and its bias where they are known."""
    for name, value in found.items():
        if name.endswith(("_error", "_bias")):
            continue
        line = f"{name:24} {value:.6g}"
        if f"{name}_error" in found:
            line += f" ± {found[f'{name}_error']:.2g}"
        if f"{name}_bias" in found:
            line += f"; equal distributions would give {found[f'{name}_bias']:.2g} at this size"
        yield line
