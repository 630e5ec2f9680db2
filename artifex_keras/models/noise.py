"""Where a model's noise comes from: a stream for each purpose, all of them weights."""

import contextlib
import random
import threading

import keras
import numpy as np
from keras import ops

from artifex_keras.arguments import random_seed
from artifex_keras.backend import keras_internals, spread


class NoiseStreams:
    """The part of a model that draws noise.

    Training, evaluation and sampling have a stream each, so that looking at a run in the middle
    doesn't change the run. Evaluation starts its stream anew each time: the same weights give the
    same numbers.
    """

    def make_streams(self):
        """Creates the streams from `self.seed`, or from Python's random numbers without one."""
        first = random.randint(1, 10**9) if self.seed is None else self.seed
        self._train_seed = keras.random.SeedGenerator(first, name="train_seed")
        self._evaluation_seed = keras.random.SeedGenerator(first, name="evaluation_seed")
        self._sampling_seed = keras.random.SeedGenerator(first + 1, name="sampling_seed")
        self._first_seed = first
        self._phases = threading.local()  # what each thread is at

    @property
    def seed_generator(self):
        """The stream that noise is drawn from at this moment: training, evaluation or sampling."""
        return {
            "train": self._train_seed,
            "evaluate": self._evaluation_seed,
            "sample": self._sampling_seed,
        }[getattr(self._phases, "now", "sample")]

    def normal(self, shape, rows=0):
        """Standard normal noise, float32, from the stream of the moment.

        Many devices draw a share of the rows each, the same numbers as one; `rows` says which axis
        they are, None that each draws all.
        """
        noise = keras.random.normal(shape, dtype="float32", seed=self.seed_generator)
        return noise if rows is None else spread(noise, rows)

    def uniform(self, shape, rows=0):
        """Noise uniform on [0, 1), float32, drawn like `normal`."""
        noise = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return noise if rows is None else spread(noise, rows)

    @contextlib.contextmanager
    def _in_phase(self, phase):
        before, self._phases.now = getattr(self._phases, "now", "sample"), phase
        try:
            yield
        finally:
            self._phases.now = before

    def reseed(self, seed):
        """Starts all noise anew at `seed`, that of layers (dropout, say) included."""
        object.__setattr__(self, "seed", random_seed("seed", seed))
        self.restart_streams(self.seed)
        nested = self._layer_seeds()
        starts = np.random.SeedSequence(self._first_seed).generate_state(len(nested)) // 2
        for stream, start in zip(nested, starts, strict=True):
            stream.state.assign(np.array([start, 0]))

    def restart_streams(self, seed):
        """Starts the model's own streams as those of a model made with that seed."""
        self._first_seed = first = random.randint(1, 10**9) if seed is None else seed
        own = (self._train_seed, self._evaluation_seed, self._sampling_seed)
        for stream, start in zip(own, (first, first, first + 1), strict=True):
            stream.state.assign(np.array([start, 0]))

    @contextlib.contextmanager
    def drawing_from(self, seed):
        """Sampling inside starts at `seed` and leaves the model's own stream as it was.

        With `seed=None` it goes on with the model's stream.
        """
        if seed is None:
            yield
            return
        state = self._sampling_seed.state
        before = ops.convert_to_numpy(state.value).copy()
        state.assign(np.array([random_seed("seed", seed), 0]))
        try:
            yield
        finally:
            state.assign(before)

    def reset_metrics(self):
        """Resets the metrics, and the noise of evaluation: each evaluation sees the same."""
        super().reset_metrics()
        self._evaluation_seed.state.assign(np.array([self._first_seed, 0]))

    def _saved_seeds(self):
        """The streams that go on from step to step; evaluation starts anew each time."""
        own = {seed.name: seed for seed in (self._train_seed, self._sampling_seed)}
        return own | {f"layer_{i}_seed": seed for i, seed in enumerate(self._layer_seeds())}

    def _layer_seeds(self):
        """The seeds of the networks' layers, as dropout has them."""
        layers = keras_internals.all_layers(self, include_self=False)
        return [seed for layer in layers for seed in keras_internals.seed_generators(layer)]
