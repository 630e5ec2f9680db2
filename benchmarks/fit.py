"""What a step of `fit` costs, beside the same step written by hand and beside Keras's own `fit`.

All contestants have the same networks, initial weights, Adam, noise and order of batches, taken
from NumPy arrays in host memory and shuffled anew each epoch. Before the clock starts they train
for an epoch and must arrive at the same loss. Compiling is not counted.

- `artifex_keras`: `model.fit(x, verbose=0)` with `steps_per_execution=K`;
- `by hand`: `jit` of `lax.scan` over K steps (`by_hand.py`), no metrics but the terms of the loss;
  The families whose networks are ready ones call the same network statelessly (`statelessly.py`);
- `keras K` and `keras 1`: Keras's `fit` of a subclass with `compute_loss` (`by_keras.py`), with
  `steps_per_execution=K` and with its default of 1;
- `torch`: an eager loop of networks of the same sizes (`by_torch.py`), where torch is installed;
  its weights and noise are its own, and so is its loss.
"""

import dataclasses
import importlib.util

import keras
import numpy as np

from artifex_keras import models, networks
from artifex_keras.networks import mlp_critic, mlp_decoder, mlp_encoder, mlp_generator
from benchmarks import by_hand, by_keras, statelessly
from benchmarks.measure import interleaved, ratio, spread

__all__ = ["CASES", "Case", "measured"]

SEED = 1
VOCABULARY = 65
OURS, TORCH = "artifex_keras", "torch"


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
    options: dict = dataclasses.field(default_factory=dict)  # what only this family has

    @property
    def steps_per_round(self):
        return self.steps * self.executions * self.epochs

    def data(self, executions=None):
        rows = self.batch_size * self.steps * (executions or self.executions)
        if self.family == "autoregressive":
            ids = np.random.default_rng(SEED).integers(VOCABULARY, size=(rows, self.width + 1))
            return ids.astype("int32")
        return np.random.default_rng(SEED).normal(size=(rows, self.width)).astype("float32")


# The price is the arithmetic; torch should take half as long again.
COMPUTE = {"by hand": 1.05, "torch": 1 / 1.5}

CASES = {
    # Hardly any arithmetic: the price is what surrounds it.
    "vae tiny": Case(
        "vae", 8, 16, 2, 32, 32, 64, 2, {"by hand": 1.25, "keras K": 1 / 3, "keras 1": 1 / 3}
    ),
    # 784-400-20: the price is the arithmetic.
    "vae 784-400-20": Case("vae", 784, 400, 20, 128, 32, 4, 2, {"by hand": 1.05}),
    # WGAN-GP with five critic steps a batch of 5 x 32.
    "wgan-gp tiny": Case("gan", 8, 16, 2, 160, 16, 16, 2, {"by hand": 1.25}, {"d_steps": 5}),
    "diffusion mlp": Case("diffusion", 64, 256, 0, 128, 32, 4, 2, COMPUTE),
    "flow realnvp": Case("flow", 16, 64, 0, 256, 32, 4, 2, COMPUTE, {"num_layers": 6}),
    "energy cd-10": Case(
        "energy", 64, 256, 0, 128, 16, 4, 2, COMPUTE, {"mcmc_steps": 10, "step_size": 0.01}
    ),
    "transformer": Case(
        "autoregressive", 64, 128, 0, 12, 8, 3, 1, COMPUTE, {"num_layers": 4, "num_heads": 4}
    ),
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
        d_steps=case.options["d_steps"],
        gp_weight=10.0,
        seed=SEED,
    )
    sizes = {"latent_dim": case.latent_dim, **case.options}
    hand = by_hand.GAN(*networks(), SEED, case.batch_size, case.steps, **sizes)
    return {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}


def diffusion(case):
    units = 3 * (case.hidden,)

    def network():
        keras.utils.set_random_seed(SEED)
        return networks.timed_mlp((case.width,), units)

    average = {"ema_decay": statelessly.AVERAGE}
    ours = models.Diffusion(network(), noise_schedule="linear", seed=SEED, **average)
    hand = statelessly.Diffusion(network(), SEED, case.batch_size, case.steps)
    fits = {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}
    return with_torch(fits, "Diffusion", case.width, units, case.batch_size)


def flow(case):
    units = (case.hidden, case.hidden)

    def network():
        keras.utils.set_random_seed(SEED)
        return networks.realnvp(case.width, units=units, actnorm=False, **case.options)

    ours = models.NormalizingFlow(network(), seed=SEED)
    hand = statelessly.Flow(network(), SEED, case.batch_size, case.steps)
    fits = {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}
    if importlib.util.find_spec("zuko") is None:
        return fits
    return with_torch(fits, "Flow", case.width, case.options["num_layers"], units, case.batch_size)


def energy(case):
    def network():
        keras.utils.set_random_seed(SEED)
        return mlp_critic(case.width, (case.hidden, case.hidden), activation="silu")

    ours = models.EnergyModel(network(), training_method="cd", seed=SEED, **case.options)
    hand = statelessly.Energy(network(), SEED, case.batch_size, case.steps, **case.options)
    return {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}


def transformer(case):
    keras.utils.set_random_seed(SEED)
    return networks.CausalTransformer(
        VOCABULARY, 4 * case.width, width=case.hidden, norm="layer", **case.options
    )


def autoregressive(case):
    ours = models.Autoregressive(transformer(case), seed=SEED)
    hand = statelessly.LanguageModel(transformer(case), SEED, case.batch_size, case.steps)
    fits = {OURS: fit_of(ours, case, case.steps), "by hand": hand.fit}
    sizes = VOCABULARY, case.width, *case.options.values(), case.hidden, case.batch_size
    return with_torch(fits, "LanguageModel", *sizes)


def with_torch(fits, name, *sizes):
    """`fits` and that of the class of `by_torch`, where torch is installed."""
    if importlib.util.find_spec("torch") is None:
        return fits
    from benchmarks import by_torch

    return {**fits, TORCH: getattr(by_torch, name)(*sizes).fit}


FAMILIES = {
    "vae": vae,
    "gan": gan,
    "diffusion": diffusion,
    "flow": flow,
    "energy": energy,
    "autoregressive": autoregressive,
}


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
    same = [loss for name, loss in losses.items() if name != TORCH]
    if not np.allclose(same, losses["by hand"], rtol=1e-4):
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
