"""A row for each public constructor and factory: a right call, and what its arguments may be.

An argument's kind is looked up by its name in `KINDS`; a row says where it differs. A new class
needs a row only if it has arguments without a default, or names that are not in `KINDS`.
"""

import functools
import inspect
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from families import dense, points
from fuzz.kinds import (
    activation,
    anything,
    choice,
    classes,
    count,
    decay,
    dictionary,
    either,
    flag,
    function,
    instance,
    integer,
    network,
    not_negative,
    nothing,
    number,
    optional,
    part,
    path,
    positive,
    row_of,
    seed,
    several,
    share,
    sizes,
    text,
    widths,
)

import artifex_keras as ak
from artifex_keras import (
    callbacks,
    config,
    datasets,
    distributed,
    gradient_accumulation,
    metrics,
    mixed_precision,
    models,
    networks,
    optimizers,
    planning,
    rl,
    schedulers,
    sharing,
    tracking,
    trainers,
)
from artifex_keras.models.energy.chains import SAMPLERS as CHAINS
from artifex_keras.models.energy.methods import TRAINING_METHODS
from artifex_keras.networks.bijections import Reverse
from artifex_keras.objectives import adversarial, elbo, policy, preference
from artifex_keras.objectives import diffusion as diffusion_losses
from artifex_keras.objectives import flow as flow_losses
from artifex_keras.objectives import pixels as pixel_losses
from artifex_keras.rl.algorithm import OnPolicy
from artifex_keras.rl.grpo import LOSS_TYPES
from artifex_keras.samplers import chains, noise_levels, noise_schedules

PACKAGES = (
    callbacks, config, datasets, distributed, gradient_accumulation, mixed_precision, models,
    networks, optimizers, planning, rl, schedulers, sharing, tracking, trainers,
)  # fmt: skip


# Networks and data that the calls share


@functools.cache
def encoder():
    return dense(6, 4, outputs=4, name="encoder")


@functools.cache
def decoder():
    return dense(2, 4, outputs=6, name="decoder")


@functools.cache
def generator():
    return dense(3, 4, outputs=6, name="generator")


@functools.cache
def critic():
    return dense(6, 4, name="critic")


@functools.cache
def timed():
    return networks.timed_mlp((6,), (4,))


@functools.cache
def bijection():
    return networks.realnvp((6,), 1, (4,))


@functools.cache
def transformer():
    return networks.CausalTransformer(7, 6, num_layers=1, num_heads=2, width=4)


@functools.cache
def pixel_network():
    return networks.pixelcnn((3, 2, 1), 5, filters=2, num_blocks=1, first_kernel_size=3)


@functools.cache
def vae():
    return ak.VAE(encoder(), decoder(), seed=0)


@functools.cache
def bigrams():
    from algorithms import bigrams

    return bigrams()


def a_run():
    """A new folder of a run, which has no card yet."""
    folder = Path(tempfile.mkdtemp(dir="."))
    (folder / "config.yaml").write_text("family: vae\ndata: {source: digits}\n")
    (folder / "history.csv").write_text("epoch,loss\n0,2.5\n1,1.5\n")
    return folder


def bigrams_again():
    """Another model, of other weights."""
    from algorithms import bigrams

    return bigrams(1)


def family(name):
    """A small model of a trainer's family, made once."""
    return FAMILIES[name]()


FAMILIES = {
    "VAE": vae,
    "GAN": functools.cache(lambda: ak.GAN(generator(), critic(), 3)),
    "Diffusion": lambda: ak.Diffusion(timed(), num_timesteps=8),
    "FlowMatching": lambda: ak.FlowMatching(timed()),
    "NormalizingFlow": functools.cache(lambda: ak.NormalizingFlow(bijection())),
    "EnergyModel": functools.cache(lambda: ak.EnergyModel(critic())),
    "Autoregressive": functools.cache(lambda: ak.Autoregressive(transformer())),
    "PixelAutoregressive": functools.cache(
        lambda: ak.PixelAutoregressive(pixel_network(), num_levels=5)
    ),
}


FILES = {"points.npy": None, "book.txt": "to be or not to be", "rows.jsonl": '{"prompt": "1"}'}
FILES |= {"points.csv": "1,2\n3,5"}


def write(name):
    """Writes a small file of that name, one of `FILES`, here."""
    if FILES[name] is None:
        np.save(name, DATA)
    else:
        Path(name).write_text(f"{FILES[name]}\n" * 20)


def reward(prompts, completions):
    return [0.0] * len(completions)


# What arguments of a name may be

rate = either(number(0.0), instance(keras.optimizers.schedules.LearningRateSchedule), function)
limits = optional(
    lambda value: several(number())(value) and len(value) == 2 and value[0] < value[1]
)
id_or_none = integer(0, optional=True)
ids = optional(either(integer(0), several(integer(0))))
number_or_none = number(optional=True)
positive_or_none = number(above=0.0, optional=True)
not_negative_or_none = number(0.0, optional=True)
count_or_none = integer(1, optional=True)
name_or_none = optional(text)

KINDS = {
    # of many
    "activation": activation,
    "output_activation": activation,
    "seed": seed,
    "name": text,
    "ema_decay": decay,
    "num_classes": classes,
    "condition_dim": optional(sizes),
    "context_dim": classes,
    "input_shape": sizes,
    "output_shape": sizes,
    "shape": sizes,
    "latent_dim": count,
    "units": widths,
    "filters": sizes,
    "dropout": number(0.0, below=1.0),
    "time_scale": positive,
    "network": network,
    "encoder": network,
    "decoder": network,
    "generator": network,
    "discriminator": network,
    "energy": network,
    "bijection": instance(networks.Bijection),
    "label_smoothing": number(0.0, maximum=1.0),
    "condition_dropout": share,
    "tokenizer": nothing,
    "max_length": count_or_none,
    "max_prompt_length": count_or_none,
    "start_token_id": id_or_none,
    "pad_token_id": id_or_none,
    "end_token_id": ids,
    "chat_template": anything,
    "prompt_key": text,
    "completion_key": name_or_none,
    "example_key": name_or_none,
    "batch_size": count,
    "shuffle": flag,
    "verbose": flag,
    "noise": not_negative,
    "std": not_negative,
    "n": count,
    "value_range": limits,
    # of optimizers and schedules
    "learning_rate": rate,
    "warmup_steps": integer(0),
    "total_steps": count_or_none,
    "min_lr": not_negative,
    "weight_decay": not_negative_or_none,
    "gradient_accumulation_steps": integer(1, optional=True),
    "clipnorm": positive_or_none,
    "clipvalue": positive_or_none,
    "global_clipnorm": positive_or_none,
    "gradient_clip_norm": positive_or_none,
    "on_nan": choice("raise", "warn", "restore"),
    "use_ema": flag,
    "ema_momentum": number(0.0, maximum=1.0),
    "ema_overwrite_frequency": count_or_none,
    "loss_scale_factor": positive_or_none,
    "beta1": decay,
    "beta2": decay,
    "beta_1": number(0.0, below=1.0),
    "beta_2": number(0.0, below=1.0),
    "adam_beta_1": number(0.0, below=1.0),
    "adam_beta_2": number(0.0, below=1.0),
    "rho": number(0.0, below=1.0),
    "momentum": share,
    "epsilon": not_negative,
    "epsilon_1": not_negative,
    "epsilon_2": not_negative,
    "amsgrad": flag,
    "centered": flag,
    "nesterov": flag,
    "relative_step": flag,
    "scale_parameter": flag,
    "clip_threshold": positive,
    "beta_2_decay": number(),
    "momentum_decay": not_negative_or_none,
    "initial_accumulator_value": not_negative,
    # of rl
    "policy": instance(keras.Layer),
    "reward_fn": optional(either(function, several(function))),
    "reward_weights": optional(several(number())),
    "reward_timeout": positive_or_none,
    "reward_retries": integer(),
    "asynchronous_rewards": flag,
    "environment": nothing,  # beside a reward
    "max_turns": nothing,
    "reference": nothing,
    "max_new_tokens": count,
    "temperature": positive,
    "num_generations": count,
    "sampling": optional(dictionary),
    "kl_coeff": not_negative,
    "kl_estimator": row_of(policy.KL_ESTIMATORS),
    "kl_in": choice("loss", "reward"),
    "reference_sync_steps": count_or_none,
    "reference_mixup": share,
    "num_epochs": count,
    "num_minibatches": count,
    "target_kl": positive_or_none,
    "mask_truncated": flag,
    "rollout_dtype": optional(choice("bfloat16", "float16", "float32")),
    "chunk_size": either(choice("auto"), count_or_none),
    "remat": choice("full", None),
    "clip_param": not_negative,
    "clip_high": not_negative_or_none,
    "entropy_coeff": number(),
    "gamma": share,
    # of files
    "path": path,
    "save_dir": path,
    "log_dir": path,
    "folder": path,
    "file": optional(path),
    "model": anything,
    "condition": anything,
    "data": anything,
    "metric": text,
    "mode": choice("auto", "min", "max"),
}  # fmt: skip


@dataclass
class Row:
    """A call that is right: `base` gives its arguments; `kinds` what differs from `KINDS`.

    `name` is that of the call, with the first argument if that is a text.
    """

    target: object
    name: str
    base: object = dict
    kinds: dict = field(default_factory=dict)
    further: tuple = ()  # arguments that its `**arguments` take
    left_out: tuple = ()  # tensors and the like, which are data

    @functools.cached_property
    def arguments(self):
        """The names of what the call takes, but for what is left out."""
        parameters = signature(self.target)
        named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        return [n for n in (*named, *self.further) if n not in self.left_out]

    def kind(self, argument):
        return self.kinds[argument] if argument in self.kinds else KINDS[argument]

    def call(self, **changes):
        base = self.base()
        for value in base.values():
            if isinstance(value, str) and value in FILES:
                write(value)
        return self.target(**{**base, **changes})


def signature(target):
    return inspect.signature(target).parameters.values()


def row(target, base=dict, further=(), /, left_out=(), **kinds):
    given = {} if callable(base) else base
    base_of = base if callable(base) else lambda: base
    first = next(iter(given.values()), None)  # what is made by a call is no text
    name = target.__name__ + (f"-{first}" if isinstance(first, str) else "")
    return Row(target, name, base_of, kinds, tuple(further), tuple(left_out))


COMMON = tuple(
    p.name for p in signature(OnPolicy) if p.kind is p.KEYWORD_ONLY and p.name != "metric_names"
)
own = {"left_out": ("kwargs",)}


def trained(trainer, model, **kinds):
    """A row of a family's trainer: what the model checks, and what trainers have in common."""
    cls = getattr(trainers, trainer)

    def base():
        return {"model": FAMILIES[model](), "config": {"num_epochs": 1}, "train_dataset": DATA}

    shared = {
        "model": instance(getattr(ak, model)),
        "config": either(dictionary, instance(ak.TrainingConfig)),
        "callbacks": optional(several(instance(keras.callbacks.Callback), least=0)),
        "gradient_accumulation_steps": count,
        "mixed_precision": choice(*mixed_precision.PRECISIONS, True, False),
        "tracking": optional(dictionary),
        "distribution": nothing,
    }
    return row(cls, base, left_out=("train_dataset", "val_dataset"), **shared, **kinds)


DATA = points(32)
SCHEDULE = noise_schedules.NoiseSchedule("linear", 8)
flow_options = {
    "num_layers": count,
    "first": several(instance(networks.Bijection), least=0),
    "actnorm": flag,
}
image = {"input_shape": (4, 4, 1), "filters": (2,)}
optimizer_kinds = {"name": name_or_none, "learning_rate": rate}


def rewards_base():
    return {"policy": bigrams(), "reward_fn": reward, "max_new_tokens": 2}


def answers_base():
    return {"policy": bigrams(), "end_token_id": 1, "pad_token_id": 0}


ROWS = [
    # families
    row(
        ak.VAE,
        lambda: {"encoder": encoder(), "decoder": decoder()},
        reconstruction=row_of(elbo.RECONSTRUCTIONS),
        beta=not_negative,
        kl_annealing=row_of(elbo.KL_SCHEDULES, True, False, None),
        kl_warmup_steps=integer(0),
        cyclical_period=count_or_none,
        free_bits=not_negative,
        variance=either(choice("learned", "optimal"), positive),
        num_importance_samples=count,
        capacity=not_negative_or_none,
        capacity_steps=integer(0),
        tc_weight=not_negative_or_none,
        dataset_size=count_or_none,
    ),
    row(
        ak.GAN,
        lambda: {"generator": generator(), "discriminator": critic(), "latent_dim": 3},
        loss_type=row_of(adversarial.GAN_LOSSES),
        d_steps=count,
        gp_weight=not_negative,
        r1_weight=not_negative,
        r2_weight=not_negative,
        r1_every=count,
        label_smoothing=number(0.0, maximum=0.5),
        lecam_weight=not_negative,
        lecam_decay=number(0.0, below=1.0),
        lecam_warmup=integer(0),
    ),
    row(
        ak.Diffusion,
        lambda: {"network": timed(), "num_timesteps": 8},
        noise_schedule=either(
            row_of(noise_schedules.NOISE_SCHEDULES), instance(noise_schedules.NoiseSchedule)
        ),
        num_timesteps=integer(2),
        prediction_type=row_of(noise_schedules.PREDICTION_TYPES),
        timestep_sampling=row_of(diffusion_losses.TIMESTEP_SAMPLINGS),
        loss_weighting=row_of(diffusion_losses.LOSS_WEIGHTINGS),
        snr_gamma=positive,
        null_label=id_or_none,
        zero_terminal_snr=flag,
        sigma_data=positive_or_none,
        input_shape=optional(sizes),
    ),
    row(
        ak.FlowMatching,
        lambda: {"network": timed()},
        path=row_of(flow_losses.PATHS),
        time_sampling=row_of(flow_losses.TIME_SAMPLINGS),
        sigma=not_negative,
        bridge=flag,
        coupling=choice("independent", "ot"),
        null_label=id_or_none,
        input_shape=optional(sizes),
    ),
    row(
        ak.EnergyModel,
        lambda: {"energy": critic()},
        training_method=row_of(TRAINING_METHODS),
        mcmc_steps=count,
        step_size=positive,
        noise_scale=not_negative_or_none,
        gradient_clipping=positive_or_none,
        replay_buffer_size=count,
        replay_buffer_init_prob=share,
        sigmas=either(positive, several(positive)),
        energy_regularization=not_negative,
        gradient_penalty_weight=not_negative,
        sampler=row_of(CHAINS),
        leapfrog_steps=count,
        data_noise=not_negative,
        num_classes=integer(2, optional=True),
        generative_weight=not_negative,
        divergence_threshold=positive,
        input_shape=optional(sizes),
    ),
    row(
        ak.NormalizingFlow,
        lambda: {"bijection": bijection()},
        base=choice("normal", "uniform", "logistic"),
        dequantize=integer(2, optional=True),
        unit_interval=flag,
    ),
    row(
        ak.Autoregressive,
        lambda: {"network": transformer()},
        ignore_index=integer(-(2**31)),
        label_smoothing=share,
        z_loss=not_negative,
        scheduled_sampling=choice("none", "linear", "exponential", "inverse_sigmoid", None),
        scheduled_sampling_steps=positive,
    ),
    row(
        ak.PixelAutoregressive,
        lambda: {"network": pixel_network(), "num_levels": 5},
        likelihood=row_of(pixel_losses.PIXEL_LIKELIHOODS),
        num_levels=integer(2),
    ),
    row(models.GenerativeModel, left_out=("metric_names",)),
    # algorithms
    row(
        rl.GRPO,
        rewards_base,
        COMMON,
        left_out=("kl_coeff", "num_epochs"),
        beta=not_negative,
        loss_type=row_of(LOSS_TYPES),
        scale_rewards=choice(True, False, "group", "batch", "none"),
        num_iterations=count,
        level=row_of(policy.LEVELS),
        dual_clip=number(above=1.0, optional=True),
        advantage_clip=positive_or_none,
        importance_cap=positive_or_none,
        oversample=number(1.0),
        replay_buffer_size=integer(0),
        num_generations=integer(2),
    ),
    row(
        rl.PPO,
        rewards_base,
        COMMON,
        left_out=("kl_in", "kl_estimator"),
        value=optional(network),
        value_clip=positive_or_none,
        vf_coeff=not_negative,
        gae_lambda=share,
        kl_target=positive_or_none,
        kl_horizon=positive,
    ),
    row(
        rl.REINFORCE,
        rewards_base,
        COMMON,
        left_out=("kl_in", "kl_estimator", "num_epochs", "num_minibatches", "target_kl"),
        baseline=optional(text),
        baseline_decay=number(0.0, below=1.0),
        importance_cap=positive_or_none,
    ),
    row(
        rl.DPO,
        answers_base,
        beta=positive,
        loss_type=row_of(preference.PREFERENCE_LOSSES),
        label_smoothing=share,
        reference_free=flag,
        simpo_gamma=number(),
    ),
    row(
        rl.KTO,
        answers_base,
        beta=positive,
        desirable_weight=not_negative,
        undesirable_weight=not_negative,
    ),
    row(
        rl.Distillation,
        lambda: {"student": bigrams(), "teacher": bigrams_again(), "max_new_tokens": 2},
        student=network,
        teacher=network,
        end_token_id=ids,
        pad_token_id=id_or_none,
        beta=share,
        on_policy=share,
        temperature=positive,
        top_k=integer(1, optional=True),
        max_new_tokens=integer(1),
        max_prompt_length=integer(1, optional=True),
        rollout_dtype=optional(choice("bfloat16", "float16", "float32")),
    ),
    row(
        rl.RewardModel,
        lambda: {"backbone": bigrams()},
        end_token_id=ids,
        pad_token_id=id_or_none,
        max_length=integer(2, optional=True),
        backbone=network,
        head=optional(network),
        centering=not_negative,
    ),
    row(
        rl.ProcessRewardModel,
        lambda: {"backbone": bigrams(), "separator_token_id": 1},
        separator_token_id=integer(0),
        pad_token_id=id_or_none,
        backbone=network,
        head=optional(network),
        reduction=choice("min", "product", "last"),
    ),
    row(
        rl.RLOO,
        rewards_base,
        COMMON,
        left_out=(
            "baseline",
            "baseline_decay",
            "kl_in",
            "kl_estimator",
            "num_epochs",
            "num_minibatches",
            "target_kl",
        ),
        num_generations=integer(2),
    ),
    row(rl.format_match, {"pattern": "a*"}, pattern=text),
    row(
        rl.overlong_penalty,
        {"max_tokens": 4, "soft_tokens": 2},
        max_tokens=integer(2),
        soft_tokens=integer(1),
    ),
    row(
        rl.SFT,
        answers_base,
        assistant_only=flag,
        packing=optional(row_of(datasets.packing.PACKINGS)),
        chat_template=optional(callable),
    ),
    row(rl.exact_match, column=text, extract=optional(callable)),
    row(rl.traceable, {"function": reward}, function=callable),
    # networks
    row(networks.mlp, {"input_shape": 3, "units": (2,), "output_shape": 2}),
    row(networks.mlp_encoder, {"input_shape": 3, "latent_dim": 2, "units": (2,)}),
    row(networks.mlp_decoder, {"latent_dim": 2, "output_shape": 3, "units": (2,)}),
    row(networks.mlp_generator, {"latent_dim": 2, "output_shape": 3, "units": (2,)}),
    row(networks.mlp_critic, {"input_shape": 3, "units": (2,)}, spectral_norm=flag),
    row(networks.conv_encoder, {**image, "latent_dim": 2}),
    row(
        networks.conv_decoder,
        {"latent_dim": 2, "output_shape": (4, 4, 1), "filters": (2,)},
        upsampling=choice("transpose", "resize"),
    ),
    row(
        networks.conv_generator,
        {"latent_dim": 2, "output_shape": (4, 4, 1), "filters": (2,)},
        upsampling=choice("transpose", "resize"),
        normalization=choice("batch", "layer", None),
    ),
    row(
        networks.conv_critic,
        image,
        normalization=choice("batch", "layer", None),
        spectral_norm=flag,
    ),
    row(
        networks.timed_mlp,
        {"input_shape": 3, "units": (2,)},
        residual=flag,
        skip=flag,
        units=sizes,
    ),
    row(
        networks.unet,
        {**image, "attention": None},
        blocks=count,
        attention=optional(several(integer(-1, maximum=1), least=0)),
        heads=count,
        groups=count,
    ),
    row(
        networks.dit,
        {"input_shape": (4, 4, 1), "width": 4, "depth": 1, "heads": 2},
        width=count,
        depth=count,
        heads=count,
        patch_size=count,
        mlp_ratio=count,
    ),
    row(
        networks.pixelcnn,
        {"input_shape": (3, 2, 1), "num_parameters": 2, "filters": 2, "num_blocks": 1},
        num_parameters=count,
        filters=count,
        num_blocks=integer(0),
        kernel_size=either(count, several(count)),
        first_kernel_size=either(count, several(count)),
    ),
    row(
        networks.realnvp,
        {"shape": 3, "num_layers": 1, "units": (2,)},
        ("bound", "activation"),
        bound=positive,
        **flow_options,
    ),
    row(
        networks.spline_flow,
        {"shape": 3, "num_layers": 1, "units": (2,), "bins": 2},
        ("activation",),
        bins=integer(2, maximum=500),
        bound=positive,
        **flow_options,
    ),
    row(
        networks.masked_autoregressive_flow,
        {"shape": 3, "num_layers": 1, "units": (2,)},
        ("transform", "activation"),
        transform=choice("additive", "affine", "spline"),
        **flow_options,
    ),
    row(
        networks.glow,
        {"shape": (2, 2, 1), "num_scales": 1, "num_steps": 1, "units": (2,)},
        ("bound", "activation"),
        bound=positive,
        num_scales=count,
        num_steps=count,
        first=flow_options["first"],
    ),
    row(
        networks.CausalTransformer,
        {"vocabulary_size": 5, "max_length": 4, "num_layers": 1, "num_heads": 2, "width": 4},
        vocabulary_size=count,
        max_length=count,
        num_layers=count,
        num_heads=count,
        width=count,
        num_kv_heads=count_or_none,
        mlp_width=count_or_none,
        positions=choice("rotary", "learned"),
        norm=choice("rms", "layer"),
        tied_embeddings=flag,
        remat=choice("full", "dots", None),
        scan_layers=flag,
    ),
    row(networks.ActNorm, epsilon=positive),
    row(networks.AdditiveCoupling, network=optional(network), units=sizes),
    row(
        networks.AffineCoupling,
        {},
        ("network", "activation"),
        network=optional(network),
        units=sizes,
        bound=positive,
    ),
    row(
        networks.SplineCoupling,
        {},
        ("network", "activation"),
        network=optional(network),
        units=sizes,
        bins=integer(2, maximum=500),
        bound=positive,
    ),
    row(
        networks.MaskedAutoregressive,
        transform=choice("additive", "affine", "spline"),
        units=sizes,
        transform_options=optional(dictionary),
    ),
    row(
        networks.Chain,
        lambda: {"bijections": [Reverse()]},
        bijections=several(instance(networks.Bijection), least=0),
        context_network=optional(network),
    ),
    row(networks.InvertibleLinear),
    row(networks.Inverse, lambda: {"bijection": Reverse()}),
    row(networks.Split, lambda: {"bijection": Reverse()}),
    row(networks.Squeeze, factor=count),
    row(networks.Logit, alpha=number(above=0.0, below=1.0)),
    row(networks.Permutation, order=optional(several(integer(0)))),
    row(networks.Standardise, mean=anything, std=either(positive, several(positive), anything)),
    row(networks.TimeEmbedding, {"dim": 4}, dim=integer(2), max_period=positive),
    row(
        networks.MaskedConv2D,
        {"filters": 2, "kernel_size": 3},
        filters=count,
        kernel_size=either(count, several(count)),
        mask=choice("A", "B"),
        channels=count,
    ),
    row(
        networks.SpectralNormalization,
        lambda: {"layer": keras.layers.Dense(2)},
        layer=network,
        power_iterations=count,
    ),
    # optimizers and schedules
    *(
        row(cls, **optimizer_kinds)
        for cls in (
            getattr(optimizers, n)
            for n in (
                "SGD",
                "Adafactor",
                "Adagrad",
                "Adam",
                "Lamb",
                "Nadam",
                "RMSprop",
                "ScheduleFreeAdamW",
            )
        )
    ),
    row(optimizers.Lion, **optimizer_kinds, beta_1=number(above=0.0, maximum=1.0)),
    row(optimizers.AdamW, **optimizer_kinds, weight_decay=not_negative),
    row(
        optimizers.Muon,
        **optimizer_kinds,
        adam_weight_decay=not_negative_or_none,
        exclude_layers=optional(several(text, least=0)),
        exclude_embeddings=flag,
        muon_a=number(),
        muon_b=number(),
        muon_c=number(),
        adam_lr_ratio=not_negative,
        ns_steps=count,
        rms_rate=either(not_negative, nothing),
    ),
    row(
        optimizers.OptimizerGroup,
        lambda: {"optimizers": {"a": keras.optimizers.SGD()}},
        optimizers=instance(dict),
        name=name_or_none,
    ),
    row(
        optimizers.OptaxOptimizer,
        {"transformation": "sgd", "learning_rate": 0.1},
        (),
        transformation=either(text, function),
        name=name_or_none,
    ),
    row(
        optimizers.create_optimizer,
        {},
        ("epsilon", "clipnorm", "clipvalue"),
        optimizer_type=row_of(optimizers.OPTIMIZERS),
    ),
    row(
        optimizers.create_optimizer,
        {"optimizer_type": "sgd"},
        ("momentum", "nesterov"),
        optimizer_type=row_of(optimizers.OPTIMIZERS),
    ),
    row(
        optimizers.optimizer_arguments,
        {"optimizer_type": "sgd"},
        optimizer_type=row_of(optimizers.OPTIMIZERS),
    ),
    row(
        gradient_accumulation.GradientAccumulation,
        lambda: {"inner_optimizer": keras.optimizers.SGD(), "steps": 2},
        inner_optimizer=instance(keras.optimizers.Optimizer),
        steps=count,
        name=name_or_none,
    ),
    row(
        gradient_accumulation.accumulated,
        lambda: {"optimizer": keras.optimizers.SGD()},
        optimizer=instance(keras.optimizers.Optimizer),
        steps=count_or_none,
    ),
    row(schedulers.Schedule, learning_rate=not_negative),
    row(schedulers.ConstantSchedule, learning_rate=not_negative),
    row(
        schedulers.CosineSchedule,
        {"total_steps": 10},
        learning_rate=not_negative,
        total_steps=count,
        num_cycles=count,
        cycle_growth=not_negative,
        cycle_decay=not_negative,
    ),
    row(
        schedulers.ExponentialSchedule,
        learning_rate=not_negative,
        decay_rate=number(above=0.0, maximum=1.0),
        decay_steps=positive,
    ),
    row(schedulers.InverseSqrtSchedule, learning_rate=not_negative, timescale=positive_or_none),
    row(
        schedulers.LinearSchedule,
        {"total_steps": 10},
        learning_rate=not_negative,
        total_steps=count,
    ),
    row(
        schedulers.OneCycleSchedule,
        {"total_steps": 10},
        learning_rate=not_negative,
        total_steps=count,
        div_factor=number(1.0),
    ),
    row(
        schedulers.PolynomialSchedule,
        {"total_steps": 10},
        learning_rate=not_negative,
        total_steps=count,
        power=not_negative,
    ),
    row(
        schedulers.StepSchedule,
        {"step_size": 3},
        learning_rate=not_negative,
        step_size=count_or_none,
        milestones=optional(several(integer(0))),
        gamma=number(above=0.0, maximum=1.0),
    ),
    row(
        schedulers.create_scheduler,
        {"total_steps": 10},
        ("num_cycles",),
        scheduler_type=row_of(schedulers.SCHEDULES),
        learning_rate=not_negative,
        min_lr=not_negative_or_none,
        num_cycles=count_or_none,
    ),
    row(
        schedulers.schedule_arguments,
        {"scheduler_type": "step"},
        scheduler_type=row_of(schedulers.SCHEDULES),
    ),
    # config
    row(
        config.OptimizerConfig,
        {},
        (
            "weight_decay",
            "beta1",
            "gradient_clip_norm",
            "ema_decay",
            "epsilon",
            "clipnorm",
            "gradient_accumulation_steps",
        ),
        type=row_of(optimizers.OPTIMIZERS),
        learning_rate=either(rate, dictionary),
    ),
    row(
        config.SchedulerConfig,
        {},
        ("warmup_steps", "total_steps", "min_lr", "num_cycles"),
        type=row_of(schedulers.SCHEDULES),
        min_lr=not_negative_or_none,
        num_cycles=count_or_none,
    ),
    row(
        config.TrainingConfig,
        num_epochs=count,
        optimizer=either(
            row_of(optimizers.OPTIMIZERS),
            dictionary,
            instance(config.OptimizerConfig, keras.optimizers.Optimizer),
        ),
        scheduler=optional(
            either(row_of(schedulers.SCHEDULES), dictionary, instance(config.SchedulerConfig))
        ),
        checkpoint_dir=optional(path),
        save_frequency=count_or_none,
        remat=choice("full", "dots", None),
        save_every_n_steps=count_or_none,
        save_every_n_minutes=positive_or_none,
        save_best=flag,
        max_checkpoints=count_or_none,
        log_frequency=count,
        verbose=choice("auto", 0, 1, 2),
        steps_per_execution=count,
        steps_per_epoch=count_or_none,
    ),
    row(
        mixed_precision.set_precision,
        lambda: {"model": vae(), "precision": False},
        model=network,
        precision=choice(*mixed_precision.PRECISIONS, True, False),
    ),
    # trainers
    trained("Trainer", "VAE"),
    trained(
        "VAETrainer",
        "VAE",
        beta=not_negative_or_none,
        kl_annealing=row_of(elbo.KL_SCHEDULES, True, False, None),
        free_bits=not_negative_or_none,
        kl_warmup_epochs=not_negative_or_none,
    ),
    trained(
        "GANTrainer",
        "GAN",
        d_steps=count_or_none,
        gp_weight=not_negative_or_none,
        loss_type=row_of(adversarial.GAN_LOSSES, None),
        r1_weight=not_negative_or_none,
        label_smoothing=number(0.0, maximum=0.5, optional=True),
        discriminator_optimizer=anything,
    ),
    trained(
        "DiffusionTrainer",
        "Diffusion",
        prediction_type=row_of(noise_schedules.PREDICTION_TYPES, None),
        timestep_sampling=row_of(diffusion_losses.TIMESTEP_SAMPLINGS, None),
        loss_weighting=row_of(diffusion_losses.LOSS_WEIGHTINGS, None),
        snr_gamma=positive_or_none,
        condition_dropout=optional(share),
    ),
    trained(
        "FlowTrainer",
        "FlowMatching",
        path=row_of(flow_losses.PATHS, None),
        time_sampling=row_of(flow_losses.TIME_SAMPLINGS, None),
        sigma=not_negative_or_none,
        coupling=choice("independent", "ot", None),
        condition_dropout=optional(share),
    ),
    trained(
        "EnergyTrainer",
        "EnergyModel",
        mcmc_steps=count_or_none,
        step_size=positive_or_none,
        noise_scale=not_negative_or_none,
        gradient_clipping=positive_or_none,
        replay_buffer_init_prob=optional(share),
        energy_regularization=not_negative_or_none,
        gradient_penalty_weight=not_negative_or_none,
        data_noise=not_negative_or_none,
    ),
    trained(
        "AutoregressiveTrainer",
        "Autoregressive",
        label_smoothing=optional(share),
        z_loss=not_negative_or_none,
        scheduled_sampling=choice("none", "linear", "exponential", "inverse_sigmoid", None),
        scheduled_sampling_steps=positive_or_none,
    ),
    trained("PixelAutoregressiveTrainer", "PixelAutoregressive"),
    # distributed and planning
    row(
        distributed.DeviceMesh,
        {"shape": (1, 1)},
        shape=sizes,
        axis_names=several(text),
        devices=optional(several(text)),
    ),
    row(distributed.data_parallel, num_devices=count_or_none),
    row(
        distributed.model_parallel,
        {"mesh": (1, 1)},
        mesh=either(sizes, instance(keras.distribution.DeviceMesh)),
        model=optional(network),
        layout_map=optional(dictionary),
        fsdp=flag,
        min_bytes=integer(0),
        rollout_mesh=optional(sizes),
    ),
    row(
        distributed.auto_layout_map,
        lambda: {"model": encoder(), "mesh": distributed.DeviceMesh((1, 1))},
        model=network,
        mesh=instance(keras.distribution.DeviceMesh),
        layout_map=optional(dictionary),
        fsdp=flag,
        min_bytes=integer(0),
    ),
    row(
        distributed.prefetch,
        {"batches": [1], "device": "cpu:0"},
        left_out=("batches", "device"),
        size=count,
    ),
    # runs
    row(sharing.read_run, lambda: {"folder": a_run()}, folder=path),
    row(
        sharing.write_report,
        lambda: {"runs": [a_run(), a_run()]},
        runs=either(path, several(path)),
        path=path,
    ),
    row(
        sharing.write_card,
        lambda: {"run": a_run()},
        run=path,
        path=optional(path),
        license=optional(text),
        repository=optional(text),
    ),
    # data
    row(datasets.moons, {"n": 4}),
    row(datasets.ring, {"n": 4}, modes=count, radius=positive),
    row(datasets.gaussians, {"n": 4}, side=count, spacing=positive),
    row(datasets.swiss_roll, {"n": 4}),
    row(datasets.checkerboard, {"n": 4}),
    row(datasets.digits),
    row(
        datasets.load,
        {"data": "moons", "validation": 10},
        ("count",),
        left_out=("data",),
        data=text,
        validation=optional(either(share, part)),
        test=optional(either(share, part)),
        scale=choice("unit", "symmetric"),
        count=count,
    ),
    row(datasets.from_arrays, {"arrays": {"train": DATA}, "name": "x"}, arrays=dictionary),
    row(
        datasets.from_image_folder,
        {"folder": "none"},
        image_size=optional(either(sizes, choice("auto"))),
        channels=choice(1, 3, None),
        stream=flag,
    ),
    row(datasets.from_numpy_file, {"path": "points.npy"}),
    row(datasets.from_rows_file, {"path": "rows.jsonl"}),
    row(datasets.from_table_file, {"path": "points.csv"}, left_out=("columns",)),
    row(datasets.from_text_file, {"path": "book.txt"}, length=count),
    row(
        datasets.load_rows,
        {"data": "rows.jsonl"},
        data=path,
        validation=optional(either(share, part)),
        test=optional(either(share, part)),
    ),
    row(datasets.load_tokenizer, {"path": "none"}),
    row(datasets.CharacterTokenizer, {"characters": "ab"}, characters=either(text, several(text))),
    row(
        datasets.PromptBatches,
        lambda: {"prompts": [[1, 2], [3, 4]], "batch_size": 2},
        left_out=("prompts",),
        steps=count_or_none,
        width=count_or_none,
        drop_remainder=flag,
    ),
    row(
        datasets.packed,
        {"rows": [[1, 2], [3]], "length": 2},
        left_out=("rows",),
        length=count,
        strategy=row_of(datasets.packing.PACKINGS),
    ),
    row(datasets.completions, {"rows": [{"prompt": [1], "completion": [2]}]}, left_out=("rows",)),
    row(
        datasets.preferences,
        {"rows": [{"prompt": [1], "chosen": [2], "rejected": [3]}]},
        left_out=("rows",),
    ),
    # callbacks
    row(
        callbacks.CheckpointCallback,
        {"save_dir": "checkpoints"},
        save_every_n_epochs=count_or_none,
        save_every_n_steps=count_or_none,
        save_every_n_minutes=positive_or_none,
        save_best=flag,
        max_to_keep=count_or_none,
        resume=choice("never", "auto"),
        best_to_keep=count,
        asynchronous=flag,
        heed_signals=flag,
        end_on_sigterm=flag,
    ),
    row(
        callbacks.EarlyStoppingCallback,
        patience=integer(0),
        min_delta=not_negative,
        restore_best=flag,
        restore_optimizer=flag,
        start_from_epoch=integer(0),
        stopping_threshold=number_or_none,
        divergence_threshold=number_or_none,
        stop_at_nan=flag,
    ),
    row(
        callbacks.EvaluationCallback,
        {"dataset": DATA, "every_n_steps": 2},
        left_out=("dataset",),
        every_n_steps=count,
        batch_size=count_or_none,
        steps=count_or_none,
        prefix=text,
    ),
    row(
        callbacks.LoggingCallback,
        log_every_n_steps=count,
        use_wandb=either(flag, dictionary, nothing),
        use_tensorboard=either(flag, dictionary, nothing),
        tracking=optional(dictionary),
        console=choice("auto", "log", True, False),
        norms=flag,
        performance=flag,
    ),
    row(callbacks.NaNGuard, every_n_steps=count_or_none, raises=flag),
    row(
        callbacks.ProfilingCallback,
        {"log_dir": "profile"},
        start_step=integer(0),
        num_steps=count,
        memory=flag,
        top=count,
        again=flag,
    ),
    row(
        callbacks.SampleMetricsCallback,
        {"metrics": "frechet", "data": DATA},
        left_out=("data",),
        metrics=either(row_of(metrics.METRICS), several(row_of(metrics.METRICS)), callable),
        features=optional(callable),
        num_samples=integer(4),
        every_n_epochs=count,
        sampling=optional(dictionary),
        verbose=flag,
    ),
    row(
        callbacks.VisualizationCallback,
        {"save_dir": "pictures"},
        every_n_epochs=count_or_none,
        num_samples=count,
        every_n_steps=count_or_none,
        kinds=optional(either(text, several(text))),
        prompt=anything,
        image_shape=optional(sizes),
        units=optional(dictionary),
        animate=flag,
    ),
    row(
        callbacks.export_checkpoint,
        {"save_dir": "none", "path": "x.keras"},
        step=either(choice("newest", "best"), integer(0)),
    ),
    row(
        callbacks.restore_checkpoint,
        lambda: {"model": vae(), "save_dir": "none"},
        model=network,
        step=either(choice("newest", "best"), integer(0)),
    ),
    # trackers
    # samplers
    row(
        noise_schedules.NoiseSchedule,
        {"num_timesteps": 8},
        schedule=row_of(noise_schedules.NOISE_SCHEDULES),
        num_timesteps=integer(2, optional=True),
        zero_terminal_snr=flag,
    ),
    row(
        noise_schedules.EDMSchedule,
        {"num_timesteps": 8},
        **dict.fromkeys(("sigma_min", "sigma_max", "rho", "sigma_data", "std"), positive),
        num_timesteps=integer(2),
        mean=number(),
    ),
    row(
        noise_schedules.noise_schedule,
        {"schedule": "linear", "num_timesteps": 8},
        ("beta_start", "beta_end"),
        schedule=either(
            row_of(noise_schedules.NOISE_SCHEDULES), instance(noise_schedules.NoiseSchedule)
        ),
        num_timesteps=integer(2),
        beta_start=number(above=0.0, maximum=1.0),
        beta_end=number(above=0.0, maximum=1.0),
    ),
    row(
        noise_levels.karras_sigmas,
        {"count": 4},
        count=integer(2),
        sigma_min=positive,
        sigma_max=positive,
        rho=positive,
    ),
    row(
        noise_levels.linear_alphas,
        {"num_timesteps": 4},
        num_timesteps=integer(2),
        beta_start=number(above=0.0, maximum=1.0),
        beta_end=number(above=0.0, maximum=1.0),
    ),
    row(
        noise_levels.scaled_linear_alphas,
        {"num_timesteps": 4},
        num_timesteps=integer(2),
        beta_start=number(above=0.0, maximum=1.0),
        beta_end=number(above=0.0, maximum=1.0),
    ),
    row(
        noise_levels.cosine_alphas,
        {"num_timesteps": 4},
        num_timesteps=integer(2),
        offset=not_negative,
        max_beta=number(above=0.0, maximum=1.0),
    ),
    row(
        noise_levels.sigmoid_alphas,
        {"num_timesteps": 4},
        num_timesteps=integer(2),
        start=number(),
        end=number(),
        temperature=positive,
        max_beta=number(above=0.0, maximum=1.0),
    ),
    row(
        chains.ddim_chain,
        lambda: {"schedule": SCHEDULE, "timesteps": np.array([7, 3, 0])},
        left_out=("schedule", "timesteps"),
        eta=number(above=0.0, maximum=1.0),
    ),
    row(
        chains.flow_chain,
        {"times": np.linspace(0, 1, 4)},
        left_out=("times",),
        noise_level=positive,
        path=row_of(chains.SDE_PATHS),
    ),
]

BY_NAME = {row.name: row for row in ROWS}

# What has no row: its arguments are data, or what other rows check, or it starts processes.
NOT_CALLED = {
    gradient_accumulation.innermost, gradient_accumulation.portable,
    gradient_accumulation.weighing, gradient_accumulation.with_weights,
    callbacks.BaseCallback,
    config.dump_yaml, config.parse_yaml,
    datasets.Columns, datasets.Dataset, datasets.ImageFiles, datasets.TextStream,
    datasets.Tokenizer, datasets.augmentations,
    datasets.augmented, datasets.chat_text, datasets.cifar10, datasets.fashion_mnist,
    datasets.mnist, datasets.standardise,
    rl.ToolEnvironment,  # its arguments are those of what derives from it
    distributed.DataParallel, distributed.DataParallelTrainer, distributed.Layouts,
    distributed.ModelParallel, distributed.ModelParallelTrainer, distributed.OwnRows,
    distributed.actor_learner,  # for two devices
    distributed.build_sharded, distributed.initialize, distributed.launch,
    distributed.memory_report, distributed.place, distributed.plan, distributed.redistribute,
    models.Batch,
    networks.Affine, networks.Bijection, networks.Flatten, networks.Reverse,
    networks.stable_diffusion_unet,
    optimizers.is_decayed,
    planning.Chip, planning.Plan, planning.Target,
    rl.gsm8k_answer, rl.math_answer,
    datasets.as_tokenizer,
    tracking.Guarded, tracking.RowFile, tracking.Rows, tracking.Tracker, tracking.Trackers,
    tracking.active, tracking.description,
    trainers.DPOTrainer, trainers.DistillationTrainer, trainers.GRPOTrainer, trainers.KTOTrainer,
    trainers.PPOTrainer,
    trainers.REINFORCETrainer, trainers.RLOOTrainer, trainers.RewardModelTrainer,
    trainers.ProcessRewardModelTrainer,
    trainers.SFTTrainer,
}  # fmt: skip


def public_calls():
    """The functions and classes in the lists of the packages."""
    names = [(package, name) for package in PACKAGES for name in package.__all__]
    found = [getattr(package, name) for package, name in names]
    return {each for each in found if callable(each) and hasattr(each, "__name__")}
