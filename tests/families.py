"""A row for each family: by it the family inherits the tests of the whole frame.

A row makes a small model from a seed, says what it trains on, and what `sample` gives. Everything
that a test of the frame needs is in the row, nothing of the frame's tests is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np

from artifex_keras.models import (
    GAN,
    VAE,
    Autoregressive,
    Diffusion,
    EnergyModel,
    FlowMatching,
    NormalizingFlow,
    PixelAutoregressive,
)
from artifex_keras.networks import CausalTransformer, pixelcnn, realnvp, spline_flow, timed_mlp


@dataclass(frozen=True)
class Family:
    """One way to set a family up. `labels` says whether it is trained on (x, y)."""

    name: str
    make: Callable
    data: Callable
    event_shape: tuple
    labels: bool = False
    classes: int = 3

    def arrays(self, rows=48):
        """What `fit` takes: `(x,)` or `(x, y)`."""
        x = self.data(rows)
        return (x, np.arange(rows) % self.classes) if self.labels else (x,)

    def sample(self, model, n, seed):
        labels = {"condition": np.arange(n) % self.classes} if self.labels else {}
        return keras.ops.convert_to_numpy(model.sample(n, seed=seed, **labels))


def points(rows, width=6):
    """Rows of values in (0, 1), the same each time."""
    return np.random.default_rng(7).uniform(0.05, 0.95, (rows, width)).astype("float32")


def levels(rows, width=6, count=5):
    """Rows of whole levels 0..count-1."""
    return np.floor(points(rows, width) * count).astype("float32")


def dense(inputs, *widths, outputs=1, name=None, norm=False):
    """A small functional network with its weights drawn from the seed of the moment."""
    entry = keras.Input((inputs,))
    x = entry
    for i, width in enumerate(widths):
        x = keras.layers.Dense(width, activation="tanh", name=f"{name}_hidden_{i}")(x)
        if norm:
            x = keras.layers.BatchNormalization(name=f"{name}_norm_{i}")(x)
    return keras.Model(entry, keras.layers.Dense(outputs, name=f"{name}_out")(x), name=name)


def labelled(width, outputs, name, classes=3):
    """A network of `[x, labels]`."""
    x, y = keras.Input((width,)), keras.Input((), dtype="int32")
    embedded = keras.layers.Embedding(classes, 4, name=f"{name}_embedding")(y)
    h = keras.layers.Concatenate(name=f"{name}_join")([x, embedded])
    h = keras.layers.Dense(8, activation="tanh", name=f"{name}_hidden")(h)
    return keras.Model([x, y], keras.layers.Dense(outputs, name=f"{name}_out")(h), name=name)


def vae(*, norm=False, levels=None, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        decoder = dense(2, 8, outputs=6 * (levels or 1), name="decoder", norm=norm)
        if levels:
            out = keras.layers.Reshape((6, levels), name="levels")(decoder.output)
            decoder = keras.Model(decoder.input, out, name="decoder")
        return VAE(
            dense(6, 8, outputs=4, name="encoder", norm=norm),
            decoder,
            seed=seed,
            **{**options, **more},
        )

    return make


def gan(*, norm=False, conditional=False, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        if conditional:
            networks = labelled(3, 6, "generator"), labelled(6, 1, "discriminator")
        else:
            networks = (
                dense(3, 8, outputs=6, name="generator", norm=norm),
                dense(6, 8, name="discriminator", norm=norm),
            )
        return GAN(*networks, 3, seed=seed, **{**options, **more})

    return make


def flow(make_bijection, *arguments, width=6, chain=None, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        bijection = make_bijection((width,), *arguments, **(chain or {}))
        random = np.random.default_rng(seed)
        for weight in bijection.trainable_weights:
            if "head" in weight.path:  # zero at first, which hides the layers before it
                weight.assign(random.normal(0, 0.1, weight.shape))
        return NormalizingFlow(bijection, seed=seed, **{**options, **more})

    return make


def timed(num_classes, seed, **options):
    network = timed_mlp((6,), (8,), num_classes=num_classes, **options)
    # Of zeros, as it is made, nothing before it would move in the first step.
    kernel = network.get_layer("network_output").kernel
    kernel.assign(np.random.default_rng(seed).normal(0, 0.3, kernel.shape))
    return network


def flow_matching(*, num_classes=None, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        network = timed(num_classes, seed, time_scale=100)
        return FlowMatching(network, **{"seed": seed, **options, **more})

    return make


def diffusion(*, num_classes=None, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        network = timed(num_classes, seed)
        return Diffusion(network, **{"num_timesteps": 60, "seed": seed, **options, **more})

    return make


def energy(*, num_classes=None, **options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        network = dense(6, 8, outputs=num_classes or 1, name="energy")
        common = {"num_classes": num_classes, "mcmc_steps": 3, "step_size": 0.1, "seed": seed}
        return EnergyModel(network, **{**common, **options, **more})

    return make


def tokens(rows, width=6, count=7):
    """Rows of token ids."""
    return levels(rows, width, count).astype("int32")


def images(rows):
    """Images of 3 x 2 pixels of two channels in (0, 1)."""
    return points(rows, 12).reshape(rows, 3, 2, 2)


def autoregressive(**options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        network = CausalTransformer(7, 6, num_layers=1, num_heads=2, width=8, num_kv_heads=1)
        return Autoregressive(network, seed=seed, **{**options, **more})

    return make


def pixel(**options):
    def make(seed=0, **more):
        keras.utils.set_random_seed(seed)
        network = pixelcnn((3, 2, 2), 6, filters=8, num_blocks=1, first_kernel_size=3)
        return PixelAutoregressive(network, seed=seed, **{**options, **more})

    return make


FAMILIES = [
    Family("vae", vae(), points, (6,)),
    Family(
        "vae-everything",
        vae(
            norm=True,
            reconstruction="bce",
            ema_decay=0.9,
            beta=0.5,
            kl_annealing="linear",
            kl_warmup_steps=5,
            free_bits=0.1,
        ),
        points,
        (6,),
    ),
    Family(
        "vae-gaussian",
        vae(reconstruction="gaussian", kl_annealing="cyclical", cyclical_period=4),
        points,
        (6,),
    ),
    Family(
        "vae-categorical",
        vae(reconstruction="categorical", levels=5, num_importance_samples=3),
        levels,
        (6,),
    ),
    Family("gan", gan(norm=True), points, (6,)),
    Family(
        "wgan-gp",
        gan(loss_type="wasserstein", gp_weight=10.0, d_steps=5, ema_decay=0.9),
        points,
        (6,),
    ),
    Family(
        "gan-conditional",
        gan(conditional=True, loss_type="hinge", r1_weight=0.5, r1_every=2),
        points,
        (6,),
        labels=True,
    ),
    Family(
        "gan-relativistic",
        gan(
            loss_type="relativistic", r1_weight=0.5, r2_weight=0.5, lecam_weight=0.1, lecam_warmup=1
        ),
        points,
        (6,),
    ),
    Family(
        "energy-pcd",
        energy(
            training_method="pcd",
            replay_buffer_size=64,
            energy_regularization=0.1,
            gradient_penalty_weight=0.1,
            value_range=(-1.0, 2.0),
            data_noise=0.01,
            ema_decay=0.9,
        ),
        points,
        (6,),
    ),
    Family(
        "energy-dsm",
        energy(training_method="denoising_score_matching", sigmas=(0.1, 0.3, 1.0)),
        points,
        (6,),
    ),
    Family("energy-jem", energy(num_classes=3, generative_weight=0.5), points, (6,), labels=True),
    Family("flow", flow(realnvp, 2, (8,)), points, (6,)),
    Family(
        "flow-spline-conditional",
        flow(
            spline_flow,
            2,
            (8,),
            chain={"bins": 4, "num_classes": 3, "actnorm": False},
            ema_decay=0.9,
        ),
        points,
        (6,),
        labels=True,
    ),
    Family("flow-matching", flow_matching(time_sampling="logit_normal"), points, (6,)),
    Family(
        "flow-matching-conditional",
        flow_matching(
            num_classes=3,
            coupling="ot",
            sigma=0.1,
            bridge=True,
            condition_dropout=0.3,
            ema_decay=0.9,
        ),
        points,
        (6,),
        labels=True,
    ),
    Family("diffusion", diffusion(ema_decay=None), points, (6,)),
    Family("diffusion-edm", diffusion(noise_schedule="edm"), points, (6,)),
    Family(
        "diffusion-conditional",
        diffusion(
            num_classes=3,
            prediction_type="v_prediction",
            loss_weighting="min_snr",
            timestep_sampling="stratified",
            condition_dropout=0.3,
            ema_decay=0.9,
        ),
        points,
        (6,),
        labels=True,
    ),
    Family(
        "autoregressive",
        autoregressive(scheduled_sampling="linear", label_smoothing=0.1, pad_token_id=6),
        tokens,
        (6,),
    ),
    Family("pixel", pixel(likelihood="logistic_mixture", num_levels=9), images, (3, 2, 2)),
]
NAMES = [family.name for family in FAMILIES]

# One row of each kind, the one with the most in it, for tests of what knows nothing of families.
FEW_NAMES = [
    "vae-everything",
    "gan-conditional",
    "autoregressive",
    "energy-pcd",
    "flow-spline-conditional",
    "flow-matching-conditional",
    "diffusion-conditional",
    "pixel",
]
# Those whose steps ask most of a framework: batch statistics, two optimizers, chains in a loop.
SEAM_NAMES = ["vae-everything", "gan-conditional", "energy-pcd"]
FEW = [FAMILIES[NAMES.index(name)] for name in FEW_NAMES]
