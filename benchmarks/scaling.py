"""What a step costs on many devices, on paper: bytes on the wire and least times at 8, 64, 256.

A transformer of 10 million weights and a U-Net of 3 million, with as many rows on each device in
every case, under data parallelism (DP), with sharded weights (FSDP), with weights sharded within
groups (FSDP in groups), and with sharded layers besides (FSDPxTP). Where libtpu is installed the
step is compiled for grids of TPU v5e; elsewhere for as many virtual CPUs, whose compiler never
makes a reduce-scatter. No TPU is needed, and nothing is timed. The transformer's embedding is its
head, too: both parts of its gradient are sent.
"""

import math
import time

import keras
import numpy as np

from artifex_keras import models, networks
from artifex_keras.planning import plan

__all__ = ["CASES", "DEVICES", "LAYOUTS", "measured"]

CHIP = "v5e"
DEVICES = (8, 64, 256)
LAYERS = {8: 2, 64: 4, 256: 4}  # devices that a layer is cut over, of FSDPxTP
GROUPS = {8: 4, 64: 32, 256: 32}  # devices that weights are sharded over, of FSDP in groups
SEED, VOCABULARY, LENGTH, IMAGE = 0, 8192, 256, (16, 16)


def transformer(rows):
    """A language model of 2 layers, width 512, with AdamW: the model and a batch."""
    network = networks.CausalTransformer(
        VOCABULARY, LENGTH, num_layers=2, num_heads=8, width=512, norm="layer"
    )
    model = models.Autoregressive(network, seed=SEED)
    return model, (np.zeros((rows, LENGTH), "int32"),)


def unet(rows):
    """A diffusion model of images of 16 x 16 x 3, filters 64 and 128: the model and a batch."""
    network = networks.unet((*IMAGE, 3), (64, 128))
    model = models.Diffusion(network, ema_decay=None, seed=SEED)
    return model, (np.zeros((rows, *IMAGE, 3), "float32"),)


CASES = {"transformer": (transformer, 8), "unet": (unet, 8)}  # with rows of a device
LAYOUTS = {
    "DP": lambda devices: (devices,),
    "FSDP": lambda devices: (devices, 1),
    "FSDP in groups": lambda devices: (devices // GROUPS[devices], GROUPS[devices], 1),
    "FSDPxTP": lambda devices: (devices // LAYERS[devices], LAYERS[devices]),
}


def measured(case, layout, devices):
    """The plan of a case as a dict, with the seconds that it took to compile."""
    make, rows = CASES[case]
    shape = LAYOUTS[layout](devices)
    keras.utils.set_random_seed(SEED)
    model, batch = make(rows * math.prod(shape[:2] if len(shape) > 2 else shape[:1]))
    model.compile("adamw")
    began = time.perf_counter()
    made = plan(model, batch, target=f"tpu:{CHIP}-{devices}", mesh=shape)
    return {**made.to_dict(), "seconds_to_compile": time.perf_counter() - began}
