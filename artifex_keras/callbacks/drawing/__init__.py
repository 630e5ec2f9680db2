"""Pictures of a model in training, by what the model can do: a kind is a file and a row of `KINDS`.

A kind applies to any model with the methods that it needs: a model of your own with a
`sample(n, seed=...)` is drawn like the families are.
"""

from artifex_keras.callbacks.drawing.examples import examples
from artifex_keras.callbacks.drawing.kind import Kind
from artifex_keras.callbacks.drawing.latent import LATENT
from artifex_keras.callbacks.drawing.losses import LOSSES
from artifex_keras.callbacks.drawing.pairs import COMPLETIONS, RECONSTRUCTIONS
from artifex_keras.callbacks.drawing.plane import DENSITY, ENERGY
from artifex_keras.callbacks.drawing.samples import SAMPLES
from artifex_keras.callbacks.drawing.texts import ANSWERS, TEXT
from artifex_keras.callbacks.drawing.trajectories import DENOISING, VELOCITY
from artifex_keras.callbacks.drawing.view import View

__all__ = ["KINDS", "Kind", "View", "examples"]

KINDS = {  # in the order in which they are drawn
    "samples": SAMPLES,
    "reconstructions": RECONSTRUCTIONS,
    "completions": COMPLETIONS,
    "latent": LATENT,
    "denoising": DENOISING,
    "velocity": VELOCITY,
    "density": DENSITY,
    "energy": ENERGY,
    "text": TEXT,
    "answers": ANSWERS,
    "losses": LOSSES,
}
