"""Autoregressive models of images: pixel after pixel, each from those before (1601.06759)."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from artifex_keras.aliases import Data, Tensor
from artifex_keras.arguments import checked, factor, integer, lookup
from artifex_keras.backend import compiled
from artifex_keras.models import checks, data_contract
from artifex_keras.models.base import GenerativeModel
from artifex_keras.models.batch import as_tensor
from artifex_keras.objectives import pixels
from artifex_keras.objectives.masks import sum_event
from artifex_keras.samplers.tokens import choice


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked()
class PixelAutoregressive(GenerativeModel):
    """A model of images of whole levels: `fit(images)`, then `sample(n)`, `log_prob(x)`.

    The loss is the exact -ln p(x) in nats per image, summed over its dimensions,

        ln p(x) = Σ_i ln p(x_i | x_<i),

    row by row, in each place channel by channel. Images (B, H, W, C) are floats in [0, 1], rounded
    to the nearest of `num_levels` levels, or integers, the levels themselves.

    Args:
        network: from images in [-1, 1] to parameters (B, H, W, C, P) of which those of a dimension
            depend on the dimensions before it only: `networks.pixelcnn`.
        likelihood: `"categorical"`, P = `num_levels` logits, or `"logistic_mixture"`, P = 3M for a
            mixture of M discretised logistics (1701.05517).
        num_levels: L; 256 for bytes.
        ema_decay: see `GenerativeModel`.
        seed: makes training and sampling repeatable.

    Metrics: `loss`, `bits_per_dim`.

    Example:

    ```python
    import numpy as np

    import artifex_keras as ak

    x = np.random.default_rng(0).random((32, 4, 4, 1), "float32")
    network = ak.networks.pixelcnn((4, 4, 1), 4, filters=8, num_blocks=1)
    model = ak.PixelAutoregressive(network, num_levels=4)
    model.compile("adam")
    model.fit(x, epochs=1, verbose=0)
    nats = model.log_prob(x)  # (32,)
    ```
    """

    served = ("sample", "log_prob")
    submodels = ("network",)
    options = ("likelihood", "num_levels", "ema_decay", "seed")
    unbounded = {"network": "parameters of a likelihood"}
    wants_scaled = False  # levels have their own
    remedies = ("images in [0, 1], or the whole levels that `num_levels` counts",)
    metric_names = {"bits_per_dim": "min"}

    def __init__(
        self,
        network: keras.layers.Layer,
        *,
        likelihood: str = "categorical",
        num_levels: int = 256,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.network = checks.network("network", network)
        lookup(pixels.PIXEL_LIKELIHOODS, likelihood, "pixel likelihood")
        self.likelihood = likelihood
        self.num_levels = integer("num_levels", num_levels, minimum=2)
        if network.built and isinstance(getattr(network, "input_shape", None), tuple):
            self.build(network.input_shape)

    # Building and checking

    def build(self, input_shape, condition=None):
        """Builds the network for images of this shape and checks what it gives."""
        if self.built:
            return
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "PixelAutoregressive learns images (B, height, width, channels) of one size. "
                f"Received: data of shape {tuple(input_shape)}."
            )
        shape = tuple(input_shape[1:])
        output = self.network(keras.KerasTensor((None, *shape), dtype="float32"))
        width = output.shape[-1]
        checks.same_event_shape("network", output.shape, input_shape, expected=(*shape, width))
        mixture = self.likelihood == "logistic_mixture"
        if width % 3 if mixture else width != self.num_levels:
            wanted = "a multiple of 3" if mixture else f"num_levels={self.num_levels}"
            raise ValueError(
                f"The network must give {wanted} parameters per dimension for the likelihood "
                f"{self.likelihood!r}. Received: {width}."
            )
        self.data_shape = shape
        self.finish_build((None, *shape))

    def check_batch(self, x, y):
        self._check_condition(y)
        if self.built:
            checks.data_shape(x, self.data_shape)

    def data_contract(self):
        top = self.num_levels - 1
        images = data_contract.Values(
            f"Images must be floats in [0, 1], or integers that are levels from 0 to {top}.",
            low=0,
            high=1,
            integers_to=top,
            cure=f"`num_levels` is how many levels there are: {self.num_levels}.",
        )
        return data_contract.Contract(x=images, inputs=(images,))

    def _check_condition(self, y):
        checks.unconditional(
            "PixelAutoregressive", y, "It learns the images alone: call fit(x), without targets."
        )

    # The objective

    def objective(self, batch, training):
        self._check_condition(batch.y)
        nats = -self._log_prob(self._levels(batch.x), training)
        bits = nats / (math.prod(self.data_shape) * math.log(2.0))
        return {"loss": nats, "bits_per_dim": bits}

    def _levels(self, x):
        """Whole levels as floats."""
        if "int" in keras.backend.standardize_dtype(x.dtype):
            return ops.cast(x, "float32")
        return ops.round(ops.cast(x, "float32") * (self.num_levels - 1))

    def _described(self, levels, training=False):
        """What the network says, in float32, of images of these levels."""
        x = 2.0 * levels / (self.num_levels - 1) - 1.0
        return ops.cast(self.network(x, training=training), "float32")

    def _log_prob(self, levels, training=False):
        log_prob = pixels.PIXEL_LIKELIHOODS[self.likelihood][1]
        return sum_event(log_prob(self._described(levels, training), levels, self.num_levels))

    # Use

    def call(self, inputs, training=False):
        """The network's parameters (B, H, W, C, P) for images as in `fit`."""
        if training:
            return self._described(self._levels(inputs), True)
        with self.ema_weights():
            return self._described(self._levels(inputs))

    def log_prob(self, x: Data) -> Tensor:
        """ln p(x) in nats, (B,) float32, of images as in `fit`."""
        self._check_built("log_prob", x)
        self.check_values(x)
        x = as_tensor(x)
        self.check_batch(x, None)
        return self._log_prob_program(x)

    @compiled
    def _log_prob_program(self, x):
        with self.ema_weights():
            return self._log_prob(self._levels(x))

    def bits_per_dim(self, x: Data, *, batch_size: int = 128):
        """-log2 p(x) per dimension, the mean over images as in `fit`: a float."""
        batch_size = integer("batch_size", batch_size, minimum=1)
        x = ops.convert_to_numpy(x)
        parts = [self.log_prob(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        nats = -np.mean(np.concatenate([ops.convert_to_numpy(part) for part in parts]))
        return float(nats / (math.prod(self.data_shape) * math.log(2.0)))

    def sample(self, n: int = 1, *, temperature: float = 1.0, seed: int | None = None) -> Tensor:
        """`n` images, floats in [0, 1]: dimension after dimension, in one compiled loop.

        `temperature` divides the log-probabilities of the levels: below 1 it prefers likely ones.

        Example:

        ```python
        import artifex_keras as ak

        network = ak.networks.pixelcnn((4, 4, 1), 4, filters=8, num_blocks=1)
        model = ak.PixelAutoregressive(network, num_levels=4)
        images = model.sample(2, seed=0)  # (2, 4, 4, 1)
        ```
        """
        self._check_built("sample")
        n = integer("n", n, minimum=1)
        return self._run_sampler(np.zeros((n, *self.data_shape), "float32"), 0, temperature, seed)

    def complete(
        self, images: Tensor, rows: int, *, temperature: float = 1.0, seed: int | None = None
    ) -> Tensor:
        """The images with all below their first `rows` rows sampled anew, floats in [0, 1].

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        network = ak.networks.pixelcnn((4, 4, 1), 4, filters=8, num_blocks=1)
        model = ak.PixelAutoregressive(network, num_levels=4)
        half = np.zeros((2, 4, 4, 1), "float32")
        images = model.complete(half, rows=2)  # (2, 4, 4, 1), the first two rows kept
        ```
        """
        self._check_built("complete", images)
        self.check_values(images)
        images = as_tensor(images)
        self.check_batch(images, None)
        rows = integer("rows", rows)
        if rows > self.data_shape[0]:
            raise ValueError(
                f"`rows` must be at most the images' height {self.data_shape[0]}. Received: {rows}."
            )
        return self._run_sampler(images, rows, temperature, seed)

    def _run_sampler(self, images, rows, temperature, seed):
        temperature = np.float32(factor("temperature", temperature))
        with self.drawing_from(seed):
            return self._run_sampler_program(images, temperature, n=len(images), rows=rows)

    @compiled
    def _run_sampler_program(self, images, temperature, *, n, rows):
        size = math.prod(self.data_shape)
        known = rows * math.prod(self.data_shape[1:])
        levels = ops.reshape(self._levels(images), (n, size))
        places = ops.arange(size, dtype="int32")
        levels = ops.where(places < known, levels, 0.0)
        uniforms = self.uniform((n, size))

        def draw(place, levels):
            parameters = self._described(ops.reshape(levels, (n, *self.data_shape)))
            parameters = ops.reshape(parameters, (n, size, parameters.shape[-1]))
            here = ops.take(parameters, place, axis=1)
            log_p = pixels.level_log_probs(here, self.likelihood, self.num_levels)
            sampled = choice(log_p / temperature, ops.take(uniforms, place, axis=1))
            return ops.where(places == place, ops.cast(sampled, "float32")[:, None], levels)

        with self.ema_weights():
            levels = ops.fori_loop(known, size, draw, levels)
        return ops.reshape(levels / (self.num_levels - 1), (n, *self.data_shape))
