"""Sampling from several threads, also while the model is trained."""

import functools
import itertools
import secrets

from keras import ops

from artifex_keras.arguments import unknown_name
from artifex_keras.backend import FrozenScope
from artifex_keras.models.threads import READING

__all__ = ["Sampler"]

SEEDS = 2**31


class Sampler:
    """What `model.sampler()` gives: `sampler(n, seed=...)` samples with a copy of the weights.

    The threads of a server may share it. It takes the arguments of `model.sample`, and a seed gives
    the numbers that `model.sample` gives with it, in each thread. Neither waits for other threads
    nor for the model's `fit`, changes nothing of the model, and goes on with the weights of its
    making while the model is trained. The model's settings are not copied.

    The model's other methods that read weights are there too, such as `sampler.generate(prompt,
    ...)`, `sampler.encode(x)` and `sampler.log_prob(x)`.

    Without a seed each call draws one: the answers differ, and can't be repeated.
    """

    def __init__(self, model):
        self._model = model
        # A step gives the buffers of the model's own values away.
        self._values = [(variable, ops.copy(variable.value)) for variable in model.variables]
        self._seeds = itertools.count(secrets.randbelow(SEEDS))

    def __call__(self, *args, seed=None, **kwargs):
        return self._call("sample", *args, seed=seed, **kwargs)

    def __getattr__(self, name):
        readable = [each for each in READING if hasattr(self._model, each)]
        if name.startswith("_") or name not in readable:
            raise AttributeError(unknown_name(name, readable, "method of a sampler"))
        return functools.wraps(getattr(self._model, name))(functools.partial(self._call, name))

    def _call(self, name, *args, seed=None, **kwargs):
        model, seed = self._model, next(self._seeds) % SEEDS if seed is None else seed
        with FrozenScope(self._values), model._in_phase("sample"), model.drawing_from(seed):
            return getattr(model, name)(*args, **kwargs)
