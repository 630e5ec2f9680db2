"""What a run won't do, or will do badly, said where `fit` begins: texts that name the cure."""

import keras
from keras import ops

from artifex_keras.models.last_layers import HALF_BOUNDED, RANGES, activations
from artifex_keras.models.remedies import rate_of, scale_of, single_optimizers
from artifex_keras.utils import warn

__all__ = ["findings", "warn_of"]

SLACK = 0.05  # how far data may lie beyond a last layer's range
BETAS = ("beta_1", "beta_2")  # the decays of an optimizer's averages
AHEAD = (1, 10, 100, 1000, 10_000)  # updates from now, at which a schedule is looked at


def findings(model, data=None, callbacks=(), sources=False):
    """What is doubtful about training a built, compiled model on these data: a list of texts.

    `sources`: whether to open what gives batches, as `remedies.scale_of` says.
    """
    found = [*_frozen(model), *_rounded(model)]
    found += [*_bounded(model), *_scale(model, data, sources)]
    found += _out_of_reach(model, data, sources)
    if not any(isinstance(c, keras.callbacks.LearningRateScheduler) for c in callbacks):
        found += _rates(model)
    return found


def warn_of(model, data, callbacks):
    """Warns once of each of the `findings`."""
    for text in findings(model, data, callbacks):
        warn(text)


def _frozen(model):
    parts = getattr(model.optimizer, "parts", None)
    trained = {name: getattr(model, name) for name in parts} if parts else {None: model}
    for name, part in trained.items():
        if not part.trainable_variables:
            what = "The model" if name is None else f"The {name}"
            yield (
                f"{what} has no weights to train: nothing will change. Set `trainable = True` on "
                "the layers that should learn, and compile again."
            )


def _rates(model):
    for optimizer in single_optimizers(model.optimizer):
        if rate_of(optimizer) == 0.0 and not _rises(optimizer):
            yield (
                f"The learning rate of {optimizer.name!r} is 0 for the whole run: nothing will "
                "change. Give `compile` an optimizer with another rate, or a schedule that hasn't "
                "ended."
            )


def _rounded(model):
    """Decays of an optimizer's averages that are 1 in the precision of the weights."""
    dtypes = sorted({variable.dtype for variable in model.trainable_variables} - {"float32"})
    for optimizer in single_optimizers(model.optimizer):
        for name in BETAS:
            beta = getattr(optimizer, name, None)
            for dtype in dtypes if isinstance(beta, float) else ():
                if beta < 1 and float(ops.cast(ops.cast(beta, dtype), "float32")) == 1:
                    yield (
                        f"The weights are {dtype}, in which {optimizer.name!r} rounds its "
                        f"{name} of {beta} to 1: it changes no weight, or makes them NaN. Give it "
                        f"`{name}=0.99`, or keep float32 weights and compute in half: dtype "
                        '"mixed_bfloat16".'
                    )


def _rises(optimizer):
    """Whether a schedule that is at 0 leaves it later."""
    schedule = optimizer.get_config().get("learning_rate")
    if not isinstance(schedule, dict):
        return False
    schedule = keras.optimizers.schedules.deserialize(schedule)
    now = int(ops.convert_to_numpy(optimizer.iterations.value))
    return any(float(schedule(now + ahead)) for ahead in AHEAD)


def _bounded(model):
    for name, what in model.unbounded.items():
        for activation in filter(None, activations(getattr(model, name))):
            if activation in HALF_BOUNDED and what in model.may_be_positive:
                continue
            yield (
                f"The {name} ends with {activation!r}, and gives {what} here, which have no "
                f"bounds: it can't give all of them, and its gradient vanishes. Take the last "
                f"{activation} away."
            )


def _out_of_reach(model, data, sources):
    """Data beyond the range of what the network that makes data ends with."""
    name = model.makes_data
    made = activations(getattr(model, name))[:1] if name else []
    reach = RANGES.get(made[0]) if made else None
    scale = scale_of(model, data, sources) if reach else None
    if scale is None or scale.is_large:  # then `_scale` says what to do
        return
    low, high = reach
    if scale.low < low - SLACK or scale.high > high + SLACK:
        yield (
            f"The {name} ends with {made[0]!r}, which gives values from {low} to {high}, and the "
            f"data have {scale}: it can't make them. Bring the data to [{low}, {high}], or choose "
            "another last activation."
        )


def _scale(model, data, sources):
    scale = scale_of(model, data, sources) if model.wants_scaled else None
    if scale is None:
        return
    if scale.is_large:
        yield (
            f"The data have {scale}, and networks as they are made learn numbers near 1: "
            f"{scale.cure}."
        )
    elif model.wants_centred and scale.is_image and 0 <= scale.low and scale.high <= 1:
        yield (
            f"The images have {scale}, and the noise that they are mixed with is centred at 0: "
            "bring them to [-1, 1] by 2 * x - 1."
        )
