"""What every source of data becomes: arrays that are checked, scaled and divided."""

import dataclasses

import numpy as np

from artifex_keras.arguments import broken_rule, lookup, number

__all__ = ["SCALES", "Dataset", "checked", "divide", "rescale"]

PARTS = ("train", "validation", "test")

# From [0, 1] to the range that a network's output is to have.
SCALES = {"unit": lambda x: x, "symmetric": lambda x: 2 * x - 1}


@dataclasses.dataclass(frozen=True, repr=False)
class Dataset:
    """Arrays to train, validate and test with, and what is known about them.

    `train`, `validation` and `test` are arrays (N, *shape), the latter two None where there are
    none; the labels, (N,) integers or None, go with them. `kind` is

    - "images": float32, channels last, in [0, 1] (`scale` "unit") or [-1, 1] ("symmetric");
    - "vectors": float32 rows;
    - "tokens": int32 rows of ids, which index `vocabulary` where the source was a text; labels may
      be booleans of their shape then, which of them are to be learned;
    - "rows": dicts of a "prompt" and what belongs to it, in arrays of objects.

    `class_names` are the names that integer labels index, if the classes have names. `tokenizer`
    turns a text into ids and back; `end_token_id` is the one that ends a row, if there is one.
    `columns` are the `Columns` of a table, which bring vectors back into its units.

    Example:

    ```python
    import artifex_keras as ak

    dataset = ak.datasets.load("digits")
    images, labels = dataset.part("train")
    print(images.shape, dataset.num_classes)  # (1000, 8, 8, 1) 10
    ```
    """

    name: str
    kind: str
    train: np.ndarray
    validation: np.ndarray | None = None
    test: np.ndarray | None = None
    train_labels: np.ndarray | None = None
    validation_labels: np.ndarray | None = None
    test_labels: np.ndarray | None = None
    class_names: tuple | None = None
    vocabulary: tuple | None = None
    tokenizer: object = None
    end_token_id: int | None = None
    scale: str = "unit"
    columns: object = None

    @property
    def shape(self):
        """The shape of one example."""
        return self.train.shape[1:]

    @property
    def num_classes(self):
        """How many classes the labels distinguish; None without labels."""
        if self.train_labels is None:
            return None
        return len(self.class_names or ()) or int(self.train_labels.max()) + 1

    def part(self, name):
        """`(examples, labels)` of "train", "validation" or "test"; either may be None."""
        return getattr(self, name), getattr(self, f"{name}_labels")

    def given(self, name):
        """What a model of the data is given of a part: its examples, with a mask of the tokens
        that are to be learned where there is one; rows as a list; None for no such part."""
        examples, labels = self.part(name)
        if self.kind == "rows" and examples is not None:
            return examples.tolist()
        return examples if labels is None or labels.ndim == 1 else (examples, labels)

    def __repr__(self):
        sizes = [f"{len(x)} {p}" for p in PARTS if (x := self.part(p)[0]) is not None]
        shape = "" if self.kind == "rows" else f" of shape {self.shape}"
        return f"Dataset({self.name}: {', '.join(sizes)} {self.kind}{shape})"


def checked(dataset):
    """`dataset`, after a look at every part.

    Raises:
        ValueError: for no examples, examples of another shape than the training ones, NaN or
            infinite numbers, or labels that are not one per example.
    """
    for name in PARTS:
        x, labels = dataset.part(name)
        if x is None:
            continue
        where = f"the {name} part of {dataset.name!r}"
        if not len(x):
            raise ValueError(f"There are no examples in {where}.")
        if x.shape[1:] != dataset.shape:
            raise ValueError(
                f"Examples must all have the same shape. Received: {x.shape[1:]} in {where}, "
                f"{dataset.shape} in the train part."
            )
        if isinstance(x, np.ndarray) and (bad := np.size(x) - int(np.isfinite(x).sum())):
            raise ValueError(f"Data must be finite. Received: {bad} NaN or infinite in {where}.")
        if labels is not None and labels.shape != (len(x),):
            raise ValueError(
                "There must be one label for each example. "
                f"Received: labels of shape {labels.shape} for {len(x)} examples in {where}."
            )
    return dataset


def _replace_parts(dataset, change):
    """`dataset` with the examples of each part changed."""
    parts = {name: getattr(dataset, name) for name in PARTS}
    changed = {
        name: x.changed(change) if hasattr(x, "changed") else change(x)
        for name, x in parts.items()
        if x is not None
    }
    return dataclasses.replace(dataset, **changed)


def rescale(dataset, scale):
    """`dataset` with its images, which lie in [0, 1], brought to the range called `scale`.

    Raises:
        ValueError: for an unknown scale, or one other than "unit" for data that are no images.
    """
    change = lookup(SCALES, scale, "scale")
    if scale == dataset.scale:
        return dataset
    if dataset.kind != "images":
        raise ValueError(f"`scale` is for images. Received: scale={scale!r} for {dataset.kind}.")
    return dataclasses.replace(_replace_parts(dataset, change), scale=scale)


def divide(dataset, validation=None, test=None, seed=0):
    """`dataset` with a validation and a test part taken out of its training part.

    `validation` and `test` are shares below 1 or numbers of examples, by default a tenth each,
    and 0 for none. A part that the data came with is kept, and may not be asked for again.
    Examples are permuted by `seed` first; with None they stay in order and the parts are taken
    from the end, test last.

    Raises:
        ValueError: if a part is there already, or nothing would be left to train on.
    """
    counts = {
        "validation": _count(dataset, "validation", validation),
        "test": _count(dataset, "test", test),
    }
    total = len(dataset.train)
    left = total - sum(counts.values())
    if left < 1:
        raise ValueError(f"Nothing would be left to train on. Received: {counts} of {total}.")
    if left == total:
        return dataset
    order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
    ends = {"train": (0, left), "validation": (left, left + counts["validation"])}
    ends["test"] = (ends["validation"][1], total)
    sizes = {"train": left, **counts}
    rows = {name: order[slice(*ends[name])] for name in PARTS if sizes[name]}
    take = getattr(dataset.train, "take" if hasattr(dataset.train, "changed") else "__getitem__")
    changed = {name: take(index) for name, index in rows.items()}
    if dataset.train_labels is not None:
        changed |= {f"{name}_labels": dataset.train_labels[i] for name, i in rows.items()}
    return dataclasses.replace(dataset, **changed)


def _count(dataset, name, amount):
    if getattr(dataset, name) is not None:
        if amount is not None:
            raise ValueError(
                f"{dataset.name!r} comes with a {name} part of its own. Received: {name}={amount}."
            )
        return 0
    amount = number(name, 0.1 if amount is None else amount, minimum=0.0)
    if amount > 1 and amount != int(amount):
        raise broken_rule(name, amount, "a share below 1 or a number of examples")
    return int(amount) if amount >= 1 else int(len(dataset.train) * amount)
