"""Images altered at random each time they are seen, before they reach a model.

The layers are Keras's, or those of keras-cv (extra `cv`), which run on TensorFlow's tensors alone.
So they belong into a `tf.data` pipeline, which feeds `fit` on every backend, and not into a network
that JAX or torch is to compile.
"""

from collections.abc import Sequence
from typing import Any

import keras

from artifex_keras.aliases import Limits, Tensor
from artifex_keras.arguments import lookup
from artifex_keras.utils import optional

__all__ = ["AUGMENTATIONS", "augmentations", "augmented"]


RANGE, LOW = object(), object()  # stand for the images' range, and for its lower end
_EMPTY = {"fill_mode": "constant", "fill_value": LOW}


def _row(name, library="keras", **options):
    """What makes the layer of that name, for images in a range and from a seed."""

    def made(value_range, seed):
        stands_for = {RANGE: value_range, LOW: value_range[0]}
        given = {key: stands_for.get(value, value) for key, value in options.items()}
        layers = optional("keras_cv", "cv").layers if library == "keras_cv" else keras.layers
        return getattr(layers, name)(seed=seed, **given)

    return made


AUGMENTATIONS = {
    "flip": _row("RandomFlip", mode="horizontal"),
    "translate": _row("RandomTranslation", height_factor=0.1, width_factor=0.1, **_EMPTY),
    "rotate": _row("RandomRotation", factor=1 / 36, **_EMPTY),
    "zoom": _row("RandomZoom", height_factor=0.1, **_EMPTY),
    "shear": _row("RandomShear", x_factor=0.1, **_EMPTY),
    "brightness": _row("RandomBrightness", factor=0.1, value_range=RANGE),
    "contrast": _row("RandomContrast", factor=0.2, value_range=RANGE),
    "blur": _row("RandomGaussianBlur", kernel_size=3, sigma=1.0, value_range=RANGE),
    "hue": _row("RandomHue", factor=0.1, value_range=RANGE),
    "saturation": _row("RandomSaturation", factor=(0.3, 0.7), value_range=RANGE),
    "cutout": _row("RandomCutout", "keras_cv", height_factor=0.3, width_factor=0.3, **_EMPTY),
}


def augmentations(
    names: Sequence[Any], *, value_range: Limits = (0.0, 1.0), seed: int | None = None
):
    """The layers of those rows of `AUGMENTATIONS`, gentle ones, for images in `value_range`.

    "flip" is left and right; "translate", "zoom" and "shear" go by up to a tenth, "rotate" by up to
    10°, and fill up with the lower end of the range. "cutout" is keras-cv's.

    Raises:
        ValueError: for an unknown name.
        ImportError: for a row that needs keras-cv where there is none.

    Example:

    ```python
    import artifex_keras as ak

    layers = ak.datasets.augmentations(["flip", "translate"], value_range=(0.0, 1.0), seed=0)
    ```
    """
    names = [names] if isinstance(names, str) else list(names)
    return [
        lookup(AUGMENTATIONS, name, "augmentation")(
            tuple(value_range), None if seed is None else seed + index
        )
        for index, name in enumerate(names)
    ]


def augmented(
    images: Tensor,
    labels: Tensor = None,
    *,
    layers: Sequence[Any],
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int | None = None,
    value_range: Limits | None = None,
):
    """Batches of `images`, or of pairs with their `labels`, altered anew at each pass.

    A `tf.data.Dataset` to train on: ``model.fit(augmented(images, layers=[...]))``, on every
    backend. With a `seed`, in the layers too, a new pipeline repeats the same batches.

    Args:
        images: (N, height, width, channels) floats.
        labels: (N,) or None.
        layers: names of `AUGMENTATIONS`, Keras's or keras-cv's layers, or functions of a batch.
        batch_size: images per batch; the last batch of a pass may be smaller.
        shuffle: a new order each pass.
        seed: of the order, and of the layers given by name.
        value_range: of the images, for layers given by name and to clip to; None takes (0, 1), or
            (-1, 1) for images with negative values.

    Raises:
        ImportError: without TensorFlow.
        ValueError: for data that are no images, no layers, or an unknown name.
    """
    tensorflow = optional("tensorflow", "tensorflow")
    if len(images.shape) != 4 or "float" not in str(images.dtype):
        raise ValueError(
            "`images` must be floats (N, height, width, channels). Received: "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )
    value_range = _value_range(images) if value_range is None else tuple(value_range)
    layers = _made(layers, value_range, seed)
    arrays = images if labels is None else (images, labels)
    batches = tensorflow.data.Dataset.from_tensor_slices(arrays)
    if shuffle:
        batches = batches.shuffle(len(images), seed=seed, reshuffle_each_iteration=True)

    def altered(x, *rest):
        for layer in layers:
            x = layer(x, training=True) if hasattr(layer, "call") else layer(x)
        x = tensorflow.clip_by_value(tensorflow.cast(x, "float32"), *value_range)
        x = tensorflow.ensure_shape(x, (None, *images.shape[1:]))
        return (x, *rest) if rest else x

    # One batch after the other: side by side they would take their random numbers in any order.
    return batches.batch(batch_size).map(altered).prefetch(2)


def _made(layers, value_range, seed):
    layers = [layers] if isinstance(layers, str) or callable(layers) else list(layers)
    if not layers:
        raise ValueError("`layers` must hold at least one augmentation. Received: none.")
    made = []
    for index, layer in enumerate(layers):
        start = None if seed is None else seed + index
        named = isinstance(layer, str)
        made += augmentations(layer, value_range=value_range, seed=start) if named else [layer]
    return made


def _value_range(images):
    return (-1.0, 1.0) if images.min() < 0 else (0.0, 1.0)
