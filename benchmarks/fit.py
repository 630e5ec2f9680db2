"""What a step of `fit` costs, beside the same step written by hand and beside Keras's own `fit`.

All contestants have the same networks, initial weights, Adam, noise and order of batches, taken
from NumPy arrays in host memory and shuffled anew each epoch. Before the clock starts they train
for an epoch and must arrive at the same loss. Compiling is not counted.

- `artifex_keras`: `model.fit(x, verbose=0)` with `steps_per_execution=K`;
- `by hand`: `jit` of `lax.scan` over K steps (`by_hand.py`), no metrics but the terms of the loss;
- `keras K` and `keras 1`: Keras's `fit` of a subclass with `compute_loss` (`by_keras.py`), with
  `steps_per_execution=K` and with its default of 1.
"""

import dataclasses

import keras
import numpy as np

from artifex_keras import models
from artifex_keras.networks import mlp_critic, mlp_decoder, mlp_encoder, mlp_generator
from benchmarks import by_hand, by_keras
from benchmarks.measure import interleaved, ratio, spread

__all__ = ["CASES", "Case", "measured"]

SEED = 1
OURS = "artifex_keras"


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes, and `goals`: what the ratio of our time to a contestant's must not exceed."""

    family: str
    width: int
    hidden: int
    latent_dim: int
    batch_size: int
    steps: int  # steps per execution
    executions: int  # per epoch
    epochs: int
    goals: dict
    d_steps: int = 0

    @property
    def steps_per_round(self):
        return self.steps * self.executions * self.epochs

    def data(self, executions=None):
        rows = self.batch_size * self.steps * (executions or self.executions)
        return np.random.default_rng(SEED).normal(size=(rows, self.width)).astype("float32")


CASES = {
    # Hardly any arithmetic: the price is what surrounds it.
    "vae tiny": Case(
        "vae", 8, 16, 2, 32, 32, 64, 2, {"by hand": 1.25, "keras K": 1 / 3, "keras 1": 1 / 3}
    ),
    # 784-400-20: the price is the arithmetic.
    "vae 784-400-20": Case("vae", 784, 400, 20, 128, 32, 4, 2, {"by hand": 1.05}),
    # WGAN-GP with five critic steps a batch of 5 x 32.
    "wgan-gp tiny": Case("gan", 8, 16, 2, 160, 16, 16, 2, {"by hand": 1.25}, d_steps=5),
}


def vae(case):
    def networks():
        keras.utils.set_random_seed(SEED)
        hidden = (case.hidden,)
        return (
            mlp_encoder(case.width, case.latent_dim, hidden),
            mlp_decoder(case.latent_dim, case.width, hidden),
        )

    ours = models.VAE(*networks(), seed=SEED)
    plain = {"keras K": case.steps, "keras 1": 1}
    return {
        OURS: fit_of(ours, case, case.steps),
        "by hand": by_hand.VAE(*networks(), SEED, case.batch_size, case.steps).fit,
        **{
            name: fit_of(by_keras.VAE(*networks(), SEED), case, steps)
            for name, steps in plain.items()
        },
    }


def gan(case):
    def networks():
        keras.utils.set_random_seed(SEED)
        hidden = (case.hidden,)
        return (
            mlp_generator(case.latent_dim, case.width, hidden),
            mlp_critic(case.width, hidden, activation="relu"),
        )

    ours = models.GAN(
        *networks(),
        case.latent_dim,
        loss_type="wasserstein",
        d_steps=case.d_steps,
        gp_weight=10.0,
        seed=SEED,
    )
    sizes = {"latent_dim": case.latent_dim, "d_steps": case.d_steps}
    hand = by_hand.GAN(*networks(), SEED, case.batch_size, case.steps, **sizes)
    return {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}


FAMILIES = {"vae": vae, "gan": gan}


def fit_of(model, case, steps):
    """`fit` of the Keras model as `(x, epochs) -> the last epoch's loss`."""
    model.compile(keras.optimizers.Adam(by_hand.LEARNING_RATE), steps_per_execution=steps)

    def fit(x, epochs):
        return model.fit(x, batch_size=case.batch_size, epochs=epochs, verbose=0).history["loss"][
            -1
        ]

    return fit


def checked(fits, case):
    """Compiles all contestants by one epoch, whose losses must agree."""
    losses = {}
    for name, fit in fits.items():
        np.random.seed(SEED)
        losses[name] = fit(case.data(executions=1), 1)
    if not np.allclose(list(losses.values()), losses["by hand"], rtol=1e-4):
        raise AssertionError(f"The contestants do not train the same: losses {losses}.")
    return losses["by hand"]


def measured(case, rounds):
    """Microseconds per step of each contestant, and our ratio to each of the others."""
    fits = FAMILIES[case.family](case)
    loss = checked(fits, case)
    x = case.data()

    def turn_of(fit):
        def run(turn):
            np.random.seed(turn)
            fit(x, case.epochs)

        return run

    turns = {name: turn_of(fit) for name, fit in fits.items()}
    interleaved(turns, 1)
    seconds = interleaved(turns, rounds)
    others = [name for name in fits if name != OURS]
    return {
        "sizes": {k: v for k, v in dataclasses.asdict(case).items() if k != "goals"},
        "loss_all_agree_on": loss,
        "microseconds_per_step": {
            name: spread(np.multiply(values, 1e6 / case.steps_per_round))
            for name, values in seconds["wall"].items()
        },
        "ratios": {
            name: {
                **ratio(seconds["wall"][OURS], seconds["wall"][name]),
                "cpu": ratio(seconds["cpu"][OURS], seconds["cpu"][name])["median"],
                "goal": case.goals.get(name),
            }
            for name in others
        },
    }
