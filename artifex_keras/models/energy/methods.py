"""How an energy is trained: what each method adds to the loss, and where its negatives start."""

import math
from collections.abc import Callable
from typing import NamedTuple

from keras import ops

from artifex_keras.backend import input_gradient
from artifex_keras.objectives import energy as energies
from artifex_keras.objectives.masks import sum_event

__all__ = ["TRAINING_METHODS", "Method", "Negatives"]


class Negatives(NamedTuple):
    """Where the chains of a step ended: states (B, ...), conditions or None, acceptance or None."""

    x: object
    y: object
    acceptance: object


class Method(NamedTuple):
    """A row of `TRAINING_METHODS`.

    `terms(model, x, y, positive, negatives, training)` gives the loss and what else is logged;
    `start(model, x, y)` the negatives' first states, conditions and places, None without negatives.
    `keeps_chains`: the chains' ends are kept in a buffer, for a later step to continue.
    `takes_sigmas`: it learns at the noise levels `sigmas`.
    """

    terms: Callable
    start: Callable | None = None
    keeps_chains: bool = False
    takes_sigmas: bool = False


# What the methods add to the terms


def _contrastive(model, x, y, positive, negatives, training):
    if training:
        negative = model._training_energies(negatives.x, negatives.y)
    else:
        negative = model._energies(negatives.x, negatives.y)
    terms = {
        "loss": energies.contrastive_divergence(
            positive, negative, regularization=model.energy_regularization
        ),
        "energy_neg": negative,
        "energy_gap": negative - positive,
    }
    if negatives.acceptance is not None:
        terms["acceptance"] = negatives.acceptance
    return terms


def _exact_score_matching(model, x, y, positive, negatives, training):
    """tr ∇s from D copies of each example, one for each direction."""
    dims = math.prod(model.data_shape)
    copies = ops.repeat(x, dims, axis=0)
    labels = None if y is None else ops.repeat(y, dims, axis=0)
    rows = ops.shape(x)[0]
    directions = ops.broadcast_to(ops.eye(dims)[None], (rows, dims, dims))
    directions = ops.reshape(directions, (-1, *model.data_shape))

    def along(copies):
        return sum_event(-model._slope(copies, labels, training) * directions)

    second = sum_event(input_gradient(along, copies) * directions)
    trace = ops.sum(ops.reshape(second, (rows, dims)), axis=1)
    score = -model._slope(x, y, training)
    return _regularised(model, energies.score_matching(score, trace), positive)


def _sliced_score_matching(model, x, y, positive, negatives, training):
    probe = ops.where(model.uniform(ops.shape(x)) < 0.5, -1.0, 1.0)
    product = input_gradient(lambda x: sum_event(-model._slope(x, y, training) * probe), x)
    score = -model._slope(x, y, training)
    loss = energies.sliced_score_matching(score, product, probe)
    return _regularised(model, loss, positive)


def _denoising_score_matching(model, x, y, positive, negatives, training):
    noise = model.normal(ops.shape(x))
    levels = ops.convert_to_tensor(model.noise_levels, dtype="float32")
    sigma, scale = levels[0], 1.0
    if model.annealed:
        which = model.uniform((ops.shape(x)[0],)) * len(model.noise_levels)
        sigma = ops.take(levels, ops.cast(ops.floor(which), "int32"), axis=0)
        scale = _beside(sigma, x)
    noisy = x + _beside(sigma, x) * noise
    score = -model._slope(noisy, y, training) / scale
    total = energies.denoising_score_matching(score, noise, sigma)
    return _regularised(model, total / math.prod(model.data_shape), positive)


def _regularised(model, loss, positive):
    return {"loss": loss + model.energy_regularization * ops.square(positive)}


# Where negatives start


def _from_data(model, x, y):
    return x, y, None


def _from_buffer(model, x, y):
    """The chains that go on, or start anew: states, conditions, and their places."""
    rows = ops.shape(x)[0]
    if isinstance(rows, int) and rows > model.replay_buffer_size:
        raise ValueError(
            "`replay_buffer_size` must be at least the batch size. Received: "
            f"replay_buffer_size={model.replay_buffer_size}, a batch of {rows} examples."
        )
    places = model.buffer.places(model.uniform((1,)), model.uniform((rows,)))
    states, conditions, started = model.buffer.at(places)
    anew = model.uniform((rows,)) >= model.replay_buffer_init_prob
    if y is not None:
        anew = ops.logical_or(anew, ops.logical_not(started))
        conditions = ops.where(_beside(anew, y), ops.cast(y, conditions.dtype), conditions)
    states = ops.where(_beside(anew, states), model._fresh(rows), states)
    return states, conditions, places


def _beside(values, like):
    """`values` (B,) or () with axes of length 1 appended up to the rank of `like`."""
    if len(values.shape) == 0:
        return values
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


TRAINING_METHODS = {
    "cd": Method(_contrastive, _from_data),
    "pcd": Method(_contrastive, _from_buffer, keeps_chains=True),
    "score_matching": Method(_exact_score_matching),
    "sliced_score_matching": Method(_sliced_score_matching),
    "denoising_score_matching": Method(_denoising_score_matching, takes_sigmas=True),
}
