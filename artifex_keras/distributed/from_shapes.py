"""Models that are made from shapes alone, so that none of their weights is allocated."""

import math
from typing import NamedTuple

import keras

from artifex_keras.arguments import shown
from artifex_keras.backend import keras_internals

__all__ = ["BUILT", "PLANNED", "made_from_shapes", "makes_model", "prepare"]


class Asked(NamedTuple):
    """What errors say of a callable that makes a model: its name as an argument, what it must
    return, and another way to what was asked for."""

    name: str
    returns: str
    otherwise: str


PLANNED = Asked(
    "`model`, a callable,",
    "a compiled model, or a trainer",
    "plan the finished model itself",
)
BUILT = Asked(
    "`make`",
    "a compiled model",
    "load values into the model that `build_sharded` returns",
)


def makes_model(model):
    """Whether this is a callable that makes a model, and no model itself."""
    return callable(model) and not isinstance(model, keras.Model)


def made_from_shapes(make, batch, asked):
    """`(model, batch, distribution)` of what `make()` gives, a compiled model or, of `PLANNED`, a
    trainer.

    Its variables hold shapes. Of a trainer the batch is by default its first, and the distribution
    its own; of a model that is None. To be called where Keras's global state is kept.

    Raises:
        ValueError: for what isn't a compiled model or a trainer, and for a model whose weights
            were made before.
    """
    from artifex_keras.backend import lowering

    keras.distribution.set_distribution(None)  # the plan's own says where what lies

    def make_all():
        made = make()
        trained = asked is PLANNED and hasattr(made, "first_batch")
        model, first = (made.model, made.first_batch) if trained else (made, None)
        if not isinstance(model, keras.Model):
            raise ValueError(f"{asked.name} must return {asked.returns}. It returned {made!r}.")
        data = first() if trained and batch is None else batch
        if data is None:
            raise ValueError(
                "`batch` may be left out only where a trainer is planned. Received: batch=None."
            )
        prepare(model, data)
        return model, data, made.distribution if trained else None

    model, batch, distribution = lowering.from_shapes(make_all, asked)
    groups = (model.variables, model.metrics_variables, model.optimizer.variables)
    ready = lowering.hold_shapes(variable for group in groups for variable in group)
    if ready:
        largest = max(ready, key=lambda variable: math.prod(variable.shape))
        raise ValueError(
            f"{asked.name} must make all weights itself, so that they can be shapes. Received one "
            f"whose {type(model).__name__} has {len(ready)} that were made before, "
            f"{largest.path!r} among them. Make them inside, or {asked.otherwise}."
        )
    return model, batch, distribution


def prepare(model, batch):
    """Builds a compiled model and its optimizer, so that all variables of its step are there.

    Raises:
        ValueError: for another model, and for a batch that isn't one of arrays.
    """
    if not hasattr(model, "build_optimizer"):
        raise ValueError(
            f"The model must be a `GenerativeModel`. Received: {type(model).__name__}. Wrap it, as "
            "in `ak.SFT(model)` or `ak.Autoregressive(model)`."
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"The model must be compiled: {type(model).__name__} has no optimizer, which its step "
            "needs. Call `compile`, or plan a trainer."
        )
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise ValueError(
            "`batch` must be arrays, as a step takes them: token ids, and no texts. Received: "
            f"batch={shown(batch)}."
        )
    if not model.built:
        keras_internals.build_from_batch(model, batch)
    model.build_optimizer()
