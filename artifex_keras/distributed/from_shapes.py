"""Models of a plan that are made from shapes alone, so that none of their weights is allocated."""

import math

import keras

from artifex_keras.backend import keras_internals

__all__ = ["made_from_shapes", "makes_model", "prepare"]


def makes_model(model):
    """Whether this is a callable that makes a model, and no model itself."""
    return callable(model) and not isinstance(model, keras.Model)


def made_from_shapes(make, batch):
    """`(model, batch, distribution)` of what `make()` gives, a compiled model or a trainer.

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
        trained = hasattr(made, "first_batch")
        model, first = (made.model, made.first_batch) if trained else (made, None)
        if not isinstance(model, keras.Model):
            raise ValueError(
                "`model` must be a compiled model, or a callable that makes and returns one, or a "
                f"trainer. The callable returned {model!r}."
            )
        data = first() if trained and batch is None else batch
        if data is None:
            raise ValueError("`batch` may be left out only for a callable that makes a trainer.")
        prepare(model, data)
        return model, data, made.distribution if trained else None

    model, batch, distribution = lowering.from_shapes(make_all)
    groups = (model.variables, model.metrics_variables, model.optimizer.variables)
    ready = lowering.hold_shapes(variable for group in groups for variable in group)
    if ready:
        largest = max(ready, key=lambda variable: math.prod(variable.shape))
        raise ValueError(
            "`model`, a callable, must make all weights itself, so that they can be shapes. "
            f"Received one whose {type(model).__name__} has {len(ready)} that were made before, "
            f"{largest.path!r} among them. Make them inside, or plan the model itself."
        )
    return model, batch, distribution


def prepare(model, batch):
    """Builds a compiled model and its optimizer, so that all variables of its step are there."""
    if not hasattr(model, "build_optimizer"):
        raise ValueError(
            f"`model` must be a `GenerativeModel`. Received: {type(model).__name__}. Wrap it, as "
            "in `ak.SFT(model)` or `ak.Autoregressive(model)`."
        )
    if getattr(model, "optimizer", None) is None:
        raise ValueError(
            f"`model` must be compiled before its step can be planned: {type(model).__name__} "
            "has no optimizer. Call `compile`, or use a trainer's `plan`."
        )
    if not model.built:
        keras_internals.build_from_batch(model, batch)
    model.build_optimizer()
