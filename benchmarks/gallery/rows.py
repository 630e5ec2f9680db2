"""The table of the gallery: what is trained, on which data, and how it is measured."""

import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

import artifex_keras as ak
from artifex_keras import networks

__all__ = ["DATA", "ROWS", "Row", "prepared"]

DATA = {
    "mnist": "MNIST",
    "fashion": "Fashion-MNIST",
    "cifar": "CIFAR-10 subset",
    "shakespeare": "tiny Shakespeare",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the gallery.

    Attributes:
        family: the name of the model's class.
        data: a key of `DATA`.
        build: from the shape of an example and `network` to the model.
        network: the settings of its networks.
        training: `steps`, `batch_size` and arguments of `create_optimizer`.
        gpu: what one GPU trains: the same two sections.
        values: how the model wants its images, a row of `VALUES`.
        conditional: whether it learns from labels, and samples with them.
        sampling: further arguments of `sample`.
        samples: how many are compared with the test images.
        likelihood: from the model, test images and labels to nats or bits of each; None without.
        unit: of these.
        tested: how many test images have their likelihood computed.
    """

    family: str
    data: str
    build: Callable
    network: dict
    training: dict
    gpu: dict
    values: str = "unit"
    conditional: bool = False
    sampling: dict = dataclasses.field(default_factory=dict)
    samples: int = 1000
    likelihood: Callable | None = None
    unit: str = ""
    tested: int = 500


# Images, floats in [0, 1], as a model wants them


def _unit(x, generator):
    return x


def _signed(x, generator):
    return 2 * x - 1


def _binary(x, generator):
    """Each pixel is 1 with the probability of its grey level."""
    return (generator.random(x.shape, "float32") < x).astype("float32")


def _continuous(x, generator):
    """Uniform noise of a level's width makes a density of 256 levels."""
    return ((255 * x + generator.random(x.shape, "float32")) / 256).astype("float32")


def _signed_continuous(x, generator):
    return 2 * _continuous(x, generator) - 1


VALUES = {  # the name, the function, and the range
    "unit": (_unit, (0.0, 1.0)),
    "signed": (_signed, (-1.0, 1.0)),
    "binary": (_binary, (0.0, 1.0)),
    "continuous": (_continuous, (0.0, 1.0)),
    "signed_continuous": (_signed_continuous, (-1.0, 1.0)),
}


def prepared(row, x, seed):
    """Images in [0, 1] as `row`'s model wants them."""
    return VALUES[row.values][0](x, np.random.default_rng(seed))


# Models


def _kind(network):
    """Networks of `units` are fully connected, those of `filters` convolutional."""
    return "mlp" if "units" in network else "conv"


def _vae(shape, latent_dim, variance=None, reconstruction="gaussian", **network):
    encoder, decoder = {
        "mlp": (networks.mlp_encoder, networks.mlp_decoder),
        "conv": (networks.conv_encoder, networks.conv_decoder),
    }[_kind(network)]
    (widths,) = network.values()
    final = None if reconstruction == "bce" else "sigmoid"
    options = {} if variance is None else {"variance": variance}
    return ak.VAE(
        encoder(shape, latent_dim, widths),
        decoder(latent_dim, shape, widths[::-1], output_activation=final),
        reconstruction=reconstruction, ema_decay=0.99, seed=0, **options,
    )  # fmt: skip


def _gan(shape, latent_dim, filters, **options):
    generator = networks.conv_generator(
        latent_dim, shape, filters[::-1],
        num_classes=10, upsampling="resize", output_activation="tanh",
    )  # fmt: skip
    critic = networks.conv_critic(shape, filters, num_classes=10)
    return ak.GAN(generator, critic, latent_dim, ema_decay=0.99, seed=0, **options)


def _timed(shape, network, time_scale):
    """A network that knows the time and the class."""
    make = {"mlp": networks.timed_mlp, "conv": networks.unet}[_kind(network)]
    return make(shape, **network, num_classes=10, time_scale=time_scale)


def _diffusion(shape, ema_decay=0.99, prediction_type="v_prediction", **network):
    return ak.Diffusion(
        _timed(shape, network, 1.0), prediction_type=prediction_type, ema_decay=ema_decay, seed=0
    )


def _flow_matching(shape, ema_decay=0.99, **network):
    return ak.FlowMatching(_timed(shape, network, 1000.0), ema_decay=ema_decay, seed=0)


def _glow(shape, num_scales, num_steps, units):
    bijection = networks.glow(shape, num_scales, num_steps, units, first=[networks.Logit()])
    return ak.NormalizingFlow(bijection, dequantize=256, unit_interval=True, ema_decay=0.99, seed=0)


def _energy(shape, step_size, **network):
    make = {"mlp": networks.mlp_critic, "conv": networks.conv_critic}[_kind(network)]
    energy = make(shape, **network, activation="silu", name="energy")
    return ak.EnergyModel(
        energy, training_method="pcd", mcmc_steps=20, step_size=step_size, noise_scale=0.01,
        data_noise=0.03, value_range=[-1.0, 1.0], energy_regularization=0.01,
        replay_buffer_size=2000, ema_decay=0.99, seed=0,
    )  # fmt: skip


def _pixels(shape, num_levels=2, **network):
    network = networks.pixelcnn(shape, num_levels, **network)
    return ak.PixelAutoregressive(network, num_levels=num_levels, ema_decay=0.99, seed=0)


def _text(shape, vocabulary, **network):
    network = networks.CausalTransformer(vocabulary, shape[0], **network)
    return ak.Autoregressive(network, seed=0)


# Likelihoods of test images


def _importance_weighted(model, x, labels):
    return -model.log_likelihood(x, num_samples=64, batch_size=100, seed=0)


def _levels_of_density(model, x, labels):
    """Bits per dimension of 256 levels, of a density of the images in [0, 1]."""
    return _importance_weighted(model, x, labels) / (np.prod(x.shape[1:]) * np.log(2)) + 8


def _diffusion_bound(model, x, labels):
    return model.bits_per_dim(x, condition=labels, num_terms=20, seed=0)


def _ode(model, x, labels):
    """Bits per dimension of 256 levels, of a density of the images in [-1, 1]."""
    options = {"num_steps": 20, "solver": "heun", "num_probes": 1, "seed": 0}
    parts = [
        ops.convert_to_numpy(model.bits_per_dim(x[i : i + 50], labels[i : i + 50], **options))
        for i in range(0, len(x), 50)
    ]
    return np.concatenate(parts) + 7


def _flow_bound(model, x, labels):
    return model.bits_per_dim(x, num_samples=4, batch_size=50, seed=0)


def _exact_nats(model, x, labels):
    parts = [ops.convert_to_numpy(model.log_prob(x[i : i + 100])) for i in range(0, len(x), 100)]
    return -np.concatenate(parts)


NATS, BITS = "nats per image", "bits per dimension"

# Rows

ADAMW = {"optimizer_type": "adamw", "learning_rate": 1e-3}
ADAM = {"optimizer_type": "adam", "beta1": 0.5, "beta2": 0.99}


def _vae_row(data, reconstruction, network, training, gpu):
    binary = reconstruction == "bce"
    options = {} if binary else {"variance": "optimal"}
    options |= {"reconstruction": reconstruction}
    large = {"network": gpu["network"] | options, "training": gpu["training"] | ADAMW}
    return Row(
        "VAE", data, _vae, network | options, training | ADAMW, large,
        values="binary" if binary else "continuous",
        likelihood=_importance_weighted if binary else _levels_of_density,
        unit=NATS if binary else BITS,
    )  # fmt: skip


def _gan_row(data, network, training, gpu):
    loss = {"loss_type": "hinge", "r1_weight": 0.3}
    rate = ADAM | {"learning_rate": 5e-4}
    large = {"network": gpu["network"] | loss, "training": gpu["training"] | rate}
    return Row("GAN", data, _gan, network | loss, training | rate, large, values="signed",
               conditional=True)  # fmt: skip


LARGE = {"filters": (128, 256, 256), "blocks": 2, "attention": (1,), "ema_decay": 0.9995}
GPU_STEPS = {"steps": 60_000, "batch_size": 256, "optimizer_type": "adamw", "learning_rate": 2e-4}
SMALL = {"units": (512, 512, 512)}
SKIP = {"units": (512, 512, 512, 512), "skip": True}


def _diffusion_row(data, training, network=SMALL):
    """Layers narrower than an image can't pass its noise on, so these predict the image."""
    network = network | {"prediction_type": "x_start"}
    return Row(
        "Diffusion", data, _diffusion, network, training | ADAMW,
        {"network": LARGE, "training": GPU_STEPS}, values="signed", conditional=True,
        sampling={"sampler": "dpm++", "num_steps": 15, "guidance_scale": 1.5, "clip": (-1.0, 1.0)},
        likelihood=_diffusion_bound, unit=BITS, tested=100,
    )  # fmt: skip


def _matching_row(data, training, network=SKIP):
    """The skip carries the noise that a velocity holds past layers narrower than an image."""
    return Row(
        "FlowMatching", data, _flow_matching, network, training | ADAMW,
        {"network": LARGE, "training": GPU_STEPS}, values="signed_continuous", conditional=True,
        sampling={"solver": "heun", "num_steps": 12, "guidance_scale": 1.5},
        likelihood=_ode, unit=BITS, tested=100,
    )  # fmt: skip


def _glow_row(data, network, training, gpu):
    rate = ADAMW | {"gradient_clip_norm": 5.0}
    large = {"network": gpu["network"], "training": gpu["training"] | rate}
    return Row("NormalizingFlow", data, _glow, network, training | rate, large,
               likelihood=_flow_bound, unit=BITS, tested=200)  # fmt: skip


ROWS = {
    "vae-mnist": _vae_row(
        "mnist", "bce", {"latent_dim": 16, "units": (512, 256)},
        {"steps": 1200, "batch_size": 100},
        {"network": {"latent_dim": 32, "filters": (64, 128, 256)},
         "training": {"steps": 100_000, "batch_size": 256}},
    ),
    "matching-mnist": _matching_row("mnist", {"steps": 3000, "batch_size": 100}),
    "gan-mnist": _gan_row(
        "mnist", {"latent_dim": 32, "filters": (16, 32)}, {"steps": 1500, "batch_size": 64},
        {"network": {"latent_dim": 128, "filters": (128, 256)},
         "training": {"steps": 50_000, "batch_size": 128}},
    ),
    "vae-fashion": _vae_row(
        "fashion", "gaussian", {"latent_dim": 16, "units": (512, 256)},
        {"steps": 1200, "batch_size": 100},
        {"network": {"latent_dim": 48, "filters": (64, 128, 256)},
         "training": {"steps": 60_000, "batch_size": 256}},
    ),
    "diffusion-mnist": _diffusion_row("mnist", {"steps": 900, "batch_size": 100}),
    "pixels-mnist": Row(
        "PixelAutoregressive", "mnist", _pixels, {"filters": 24, "num_blocks": 4},
        {"steps": 1000, "batch_size": 64} | ADAMW | {"learning_rate": 3e-3},
        {"network": {"filters": 128, "num_blocks": 12, "dropout": 0.2},
         "training": {"steps": 60_000, "batch_size": 128} | ADAMW},
        values="binary", likelihood=_exact_nats, unit=NATS, samples=100,
    ),
    "matching-fashion": _matching_row("fashion", {"steps": 3000, "batch_size": 100}),
    "glow-mnist": _glow_row(
        "mnist", {"num_scales": 2, "num_steps": 3, "units": (32, 32)},
        {"steps": 1500, "batch_size": 64},
        {"network": {"num_scales": 2, "num_steps": 16, "units": (256, 256)},
         "training": {"steps": 50_000, "batch_size": 256}},
    ),
    "energy-mnist": Row(
        "EnergyModel", "mnist", _energy, {"units": (256, 256), "step_size": 8.0},
        {"steps": 1500, "batch_size": 64, "gradient_clip_norm": 1.0, "learning_rate": 1e-4} | ADAM,
        {"network": {"filters": (64, 128, 256), "step_size": 8.0},
         "training": {"steps": 40_000, "batch_size": 128, "gradient_clip_norm": 1.0,
                      "learning_rate": 2e-4} | ADAM},
        values="signed", sampling={"num_steps": 200},
    ),
    "vae-cifar": _vae_row(
        "cifar", "gaussian", {"latent_dim": 64, "units": (1024, 512)},
        {"steps": 2000, "batch_size": 100},
        {"network": {"latent_dim": 128, "filters": (64, 128, 256)},
         "training": {"steps": 20_000, "batch_size": 256}},
    ),
    "matching-cifar": _matching_row(
        "cifar", {"steps": 1482, "batch_size": 100}, {"units": (1024, 1024, 1024), "skip": True}
    ),
    "text-shakespeare": Row(
        "Autoregressive", "shakespeare", _text, {"num_layers": 2, "num_heads": 4, "width": 96},
        {"steps": 600, "batch_size": 16, "weight_decay": 0.1} | ADAMW | {"learning_rate": 3e-3},
        {"network": {"num_layers": 8, "num_heads": 8, "width": 512, "dropout": 0.2},
         "training": {"steps": 5000, "batch_size": 128, "weight_decay": 0.1} | ADAMW},
        unit="bits per character",
    ),
}  # fmt: skip
