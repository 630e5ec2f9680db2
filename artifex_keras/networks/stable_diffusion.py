"""keras-cv's Stable Diffusion U-Net as a network of `[x_t, t, condition]`."""

from typing import Any

import keras

from artifex_keras.networks.timed import TimeEmbedding

__all__ = ["stable_diffusion_unet"]


def stable_diffusion_unet(unet: Any, *, name: str = "unet") -> keras.Model:
    """The network `[x_t, t, condition]` -> ε (B, height/8, width/8, 4) that `unet` is inside.

    ``Diffusion(stable_diffusion_unet(unet), noise_schedule=...)`` then trains and samples it, in
    the latents of its autoencoder and with encoded prompts (B, 77, 768) for a condition. Stable
    Diffusion's own schedule is ``NoiseSchedule("scaled_linear", 1000, beta_start=0.00085,
    beta_end=0.012)``. 2112.10752.

    Args:
        unet: a `keras_cv.models.stable_diffusion.DiffusionModel` (or `DiffusionModelV2`), or any
            model of the inputs `[latent, timestep_embedding, context]` in that order, where the
            second is ``[cos(ω t), sin(ω t)]``.
        name: of the network.

    Raises:
        ValueError: for a model that has not these inputs.

    Example:

    ```python
    import keras
    import artifex_keras as ak

    latent, time, text = keras.Input((8, 8, 4)), keras.Input((320,)), keras.Input((77, 16))
    scale = keras.layers.Dense(4)(keras.layers.Concatenate()([time, text[:, 0]]))
    unet = keras.Model([latent, time, text], latent * scale[:, None, None])  # or keras-cv's
    network = ak.networks.stable_diffusion_unet(unet)
    diffusion = ak.Diffusion(network)
    ```
    """
    inputs = getattr(unet, "inputs", None) or []
    if len(inputs) != 3 or len(inputs[1].shape) != 2:
        raise ValueError(
            "`unet` must be a model of [latent, timestep_embedding, context]. Received: inputs of "
            f"shapes {[tuple(entry.shape) for entry in inputs]}."
        )
    latent, embedding, context = inputs
    x = keras.Input(latent.shape[1:], name=f"{name}_input")
    t = keras.Input((), dtype="float32", name=f"{name}_time")
    condition = keras.Input(context.shape[1:], name=f"{name}_context")
    embedded = TimeEmbedding(embedding.shape[-1], name=f"{name}_embedding")(t)
    return keras.Model([x, t, condition], unet([x, embedded, condition]), name=name)
