"""A user's program as a checker of types reads it: `make types`. Nothing here is run."""

from typing import assert_type

import artifex_keras as ak

digits = ak.datasets.load("digits")
vae = ak.VAE(ak.networks.mlp_encoder(64, 8), ak.networks.mlp_decoder(8, 64), beta=0.5)
assert_type(vae, ak.VAE)
assert_type(ak.GRPO(vae, max), ak.GRPO)
assert_type(ak.VAETrainer(vae, ak.TrainingConfig(), digits.train), ak.VAETrainer)
