"""A user's program as a checker of types reads it: `make types`. Nothing here is run."""

from typing import assert_type

import keras
import numpy as np

import artifex_keras as ak
from artifex_keras.datasets import Dataset
from artifex_keras.schedulers import Schedule

digits = ak.datasets.load("digits", validation=0.1, scale="unit")
assert_type(digits, Dataset)

# A family is a Keras model.
encoder = ak.networks.mlp_encoder((8, 8, 1), latent_dim=8, units=(128,))
assert_type(encoder, keras.Model)
vae = ak.VAE(encoder, ak.networks.mlp_decoder(8, (8, 8, 1)), beta=0.5, seed=0)
assert_type(vae, ak.VAE)
vae.compile("adam", steps_per_execution=4, on_nan="restore")
assert_type(vae.fit(digits.train, batch_size=64, epochs=2, verbose=0), keras.callbacks.History)
assert_type(vae.evaluate(digits.test), dict[str, float])
assert_type(vae.log_likelihood(digits.test, num_samples=10), np.ndarray)
images = vae.sample(16, seed=1)
ak.pictures.image_grid(images, "samples.png", columns=4)

gan = ak.GAN(ak.networks.mlp_generator(8, 64), ak.networks.mlp_critic(64), 8, r1_weight=0.1)
gan.compile(keras.optimizers.Adam(1e-4), discriminator_optimizer="adam")
diffusion = ak.Diffusion(ak.networks.unet((32, 32, 3), filters=(32, 64)), prediction_type="v")
diffusion.sample(4, num_steps=20, sampler="ddim", guidance_scale=2.0, clip=(-1.0, 1.0))
flow = ak.NormalizingFlow(ak.networks.realnvp(2, num_layers=4))
points = ak.datasets.moons(1000, noise=0.1)
assert_type(points, np.ndarray)

# A config and a trainer.
config = ak.TrainingConfig(
    batch_size=64, optimizer={"type": "adam"}, scheduler={"type": "cosine", "warmup_steps": 10}
)
assert_type(ak.TrainingConfig.from_yaml("run.yaml"), ak.TrainingConfig)
stop = ak.callbacks.EarlyStoppingCallback(patience=3, restore_best=True)
trainer = ak.VAETrainer(vae, config, digits.train, callbacks=[stop], kl_annealing=True)
assert_type(trainer, ak.VAETrainer)
assert_type(trainer.train(resume="auto"), keras.callbacks.History)

# Fine-tuning by rewards.
network = ak.networks.CausalTransformer(16, max_length=32, num_layers=2)
policy = ak.Autoregressive(network, start_token_id=0)
policy.generate([[1, 2]], max_new_tokens=8, top_k=3, end_token_id=[0, 1])


@ak.rl.traceable
def reward(prompts, completions, completion_mask) -> float:
    return 0.0


assert_type(reward(0, 0, 0), float)
grpo = ak.GRPO(policy, reward, num_generations=8, max_new_tokens=8, kl_coeff=0.1)
assert_type(grpo, ak.GRPO)

# Parts that work by themselves.
schedule = ak.create_scheduler("cosine", 1e-3, warmup_steps=100, total_steps=1000)
assert_type(schedule, Schedule)
optimizer = ak.create_optimizer("adamw", schedule, weight_decay=0.01)
assert_type(optimizer, keras.optimizers.Optimizer)
assert_type(ak.metrics.frechet_distance(points, points), float)
assert_type(ak.metrics.precision_recall(points, points, k=3), tuple[float, float])

# What a checker must find: each comment is an error itself if the line has none.
vae.sample("16")  # pyright: ignore[reportArgumentType]
ak.VAE(encoder)  # pyright: ignore[reportCallIssue]
ak.create_optimizer("adamw", lr=[1])  # further arguments are the optimizer's own
ak.networks.mlp_encoder(64, latent_dim="8")  # pyright: ignore[reportArgumentType]
config = ak.TrainingConfig(batch_size="64")  # pyright: ignore[reportArgumentType]
