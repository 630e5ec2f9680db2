"""What callbacks add to a step of `fit`.

Contestants train the same model on the same data, an epoch at a time, in turns: one without any
callback, the others with one callback each. Before the clock starts each has trained for an epoch,
so that compiling isn't counted; a turn is one `fit` of some epochs, its begin and end included.

- `logging`: a row every 100 steps and after each epoch, into a file;
- `checkpoint`: one after each epoch, written beside the training; the last is waited for;
- the others idle: what they would do lies beyond the run's end.
"""

import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np

from artifex_keras import callbacks, models
from artifex_keras.networks import mlp_decoder, mlp_encoder
from benchmarks.measure import interleaved, ratio, spread

__all__ = ["CASES", "measured"]

NEVER = 10**9
NONE = "none"
GOALS = {"logging": 1.01, "checkpoint": 1.03}
IDLE = 1.005


@dataclasses.dataclass(frozen=True)
class Case:
    """A VAE of these sizes. A turn is `epochs` epochs of `steps` steps."""

    width: int
    hidden: int
    latent_dim: int
    batch_size: int
    steps: int
    epochs: int
    goals: dict = dataclasses.field(default_factory=dict)  # where they aren't `GOALS`

    def model(self):
        keras.utils.set_random_seed(1)
        units = (self.hidden, self.hidden)
        vae = models.VAE(
            mlp_encoder(self.width, self.latent_dim, units),
            mlp_decoder(self.latent_dim, self.width, units),
            seed=1,
        )
        vae.compile("adam")
        return vae

    def data(self):
        rows = self.batch_size * self.steps
        return np.random.default_rng(1).normal(size=(rows, self.width)).astype("float32")


CASES = {
    "a step of some milliseconds": Case(784, 512, 20, 128, 200, 3),
    # An epoch of less than a second, of which no save is a small part.
    "a tiny step": Case(8, 16, 2, 32, 1000, 3, {"checkpoint": None}),
}


def contestants(folder):
    """The callbacks of each contestant, one list for all its turns."""
    return {
        NONE: [],
        "logging": [callbacks.LoggingCallback(100, file=folder / "log.csv", console=False)],
        "checkpoint": [callbacks.CheckpointCallback(folder / "kept", max_to_keep=2, verbose=False)],
        "profiling, idle": [callbacks.ProfilingCallback(folder / "p", NEVER, verbose=False)],
        "evaluation, idle": [callbacks.EvaluationCallback(np.zeros((1, 1)), NEVER)],
        "pictures, idle": [callbacks.VisualizationCallback(folder / "v", NEVER)],
        "early stopping": [callbacks.EarlyStoppingCallback(NEVER, metric="loss")],
        "NaN guard": [callbacks.NaNGuard()],
        "a hook that does nothing": [Nothing()],
    }


class Nothing(keras.callbacks.Callback):
    """The least that a callback can do in each step."""

    def on_train_batch_begin(self, batch, logs=None):
        pass


def measured(case, rounds):
    """Microseconds per step with each callback, and the ratio to a run without any."""
    x = case.data()

    def turn_of(watching):
        model = case.model()

        def run(turn):
            np.random.seed(turn)
            model.fit(
                x, batch_size=case.batch_size, epochs=case.epochs, verbose=0, callbacks=watching
            )

        return run

    with tempfile.TemporaryDirectory() as folder:
        turns = {name: turn_of(given) for name, given in contestants(Path(folder)).items()}
        interleaved(turns, 1)
        seconds = interleaved(turns, rounds)
    steps = case.steps * case.epochs
    return {
        "sizes": {k: v for k, v in dataclasses.asdict(case).items() if k != "goals"},
        "microseconds_per_step": {
            name: spread(np.multiply(values, 1e6 / steps))
            for name, values in seconds["wall"].items()
        },
        "ratios": {
            name: {
                **ratio(seconds["wall"][name], seconds["wall"][NONE]),
                "cpu": ratio(seconds["cpu"][name], seconds["cpu"][NONE])["median"],
                "goal": {**GOALS, **case.goals}.get(name, IDLE),
            }
            for name in turns
            if name != NONE
        },
    }
