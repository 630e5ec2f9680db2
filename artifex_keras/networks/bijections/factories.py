"""Ready flows: chains of bijections for events of a given shape, built."""

from collections.abc import Sequence
from typing import Any

import keras

from artifex_keras.aliases import Shape
from artifex_keras.arguments import checked, count, row_of, sizes
from artifex_keras.networks.bijections.autoregressive import MaskedAutoregressive
from artifex_keras.networks.bijections.base import Bijection, Chain, links_rule
from artifex_keras.networks.bijections.coupling import AffineCoupling, SplineCoupling
from artifex_keras.networks.bijections.elementwise import ActNorm
from artifex_keras.networks.bijections.linear import InvertibleLinear, Permutation, Reverse
from artifex_keras.networks.bijections.shapes import Flatten, Split, Squeeze
from artifex_keras.networks.bijections.transforms import TRANSFORMS
from artifex_keras.networks.rules import RULES

__all__ = ["glow", "masked_autoregressive_flow", "realnvp", "spline_flow"]

BOUND = 1.0  # of the log-scale of each layer of an affine flow
CHECKS = {
    **RULES,
    "bins": count(2, maximum=500),
    "first": links_rule,
    "transform": row_of(TRANSFORMS, "transform"),
    "units": sizes,
}


@checked(CHECKS, rest=AffineCoupling)
def realnvp(
    shape: Shape,
    num_layers: int = 8,
    units: Sequence[int] = (64, 64),
    *,
    bound: float = BOUND,
    context_dim: int | None = None,
    num_classes: int | None = None,
    first: Sequence[Bijection] = (),
    actnorm: bool = True,
    name: str = "realnvp",
    **coupling: Any,
) -> Chain:
    """A built `Chain` of affine couplings for vectors of `shape`, reordered after each one.

    Args:
        shape: of an event, D or (D,); events with more axes are flattened.
        num_layers: couplings.
        units: widths of the hidden layers of each.
        bound: of each coupling's log-scale. Eight couplings of e^5 each can blow up in the first
            steps, and then lose what lies between modes; a few of them may need more than 1.
        context_dim: the width of vectors (B, context_dim) that the flow depends on.
        num_classes: instead, the number of labels (B,) that it depends on.
        first: bijections next to the data, such as `[Logit()]`.
        actnorm: whether each coupling begins with an `ActNorm`.
        coupling: further arguments of `AffineCoupling`.

    Example:

    ```python
    import artifex_keras as ak

    flow = ak.NormalizingFlow(ak.networks.realnvp((6,), num_layers=4, units=(32,)))
    flow.compile("adam")  # then flow.fit(rows of 6 numbers)
    ```
    """

    def links(i):
        return [AffineCoupling(units, bound=bound, **coupling, name=f"{name}_coupling_{i}")]

    return _layered(links, shape, num_layers, context_dim, num_classes, first, actnorm, units, name)


@checked(CHECKS, rest=SplineCoupling)
def spline_flow(
    shape: Shape,
    num_layers: int = 4,
    units: Sequence[int] = (64, 64),
    *,
    bins: int = 8,
    bound: float = 5.0,
    context_dim: int | None = None,
    num_classes: int | None = None,
    first: Sequence[Bijection] = (),
    actnorm: bool = True,
    name: str = "spline_flow",
    **coupling: Any,
) -> Chain:
    """As `realnvp`, of rational-quadratic spline couplings: fewer of them fit sharper densities.

    The splines live on [-bound, bound], where each `ActNorm` puts what comes.

    Example:

    ```python
    import artifex_keras as ak

    flow = ak.NormalizingFlow(ak.networks.spline_flow((6,), num_layers=2, units=(32,)))
    ```
    """

    def links(i):
        options = {"bins": bins, "bound": bound, **coupling}
        return [SplineCoupling(units, **options, name=f"{name}_coupling_{i}")]

    return _layered(links, shape, num_layers, context_dim, num_classes, first, actnorm, units, name)


@checked(CHECKS, rest=MaskedAutoregressive)
def masked_autoregressive_flow(
    shape: Shape,
    num_layers: int = 8,
    units: Sequence[int] = (64, 64),
    *,
    context_dim: int | None = None,
    num_classes: int | None = None,
    first: Sequence[Bijection] = (),
    actnorm: bool = True,
    name: str = "maf",
    **options: Any,
) -> Chain:
    """As `realnvp`, of `MaskedAutoregressive` bijections, to which `options` go.

    An affine one's log-scales have a `bound` of 1, if `transform_options` say nothing else.

    Example:

    ```python
    import artifex_keras as ak

    bijection = ak.networks.masked_autoregressive_flow((6,), num_layers=2, num_classes=3)
    flow = ak.NormalizingFlow(bijection)  # fit(x, labels)
    ```
    """

    if options.get("transform", "affine") == "affine":
        given = options.get("transform_options") or {}
        options = {**options, "transform_options": {"bound": BOUND, **given}}

    def links(i):
        return [MaskedAutoregressive(units, **options, name=f"{name}_autoregressive_{i}")]

    return _layered(links, shape, num_layers, context_dim, num_classes, first, actnorm, units, name)


@checked(CHECKS, rest=AffineCoupling)
def glow(
    shape: Shape,
    num_scales: int = 2,
    num_steps: int = 4,
    units: Sequence[int] = (64, 64),
    *,
    context_dim: int | None = None,
    num_classes: int | None = None,
    first: Sequence[Bijection] = (),
    name: str = "glow",
    **coupling: Any,
) -> Chain:
    """A built multi-scale `Chain` for images of `shape` (H, W, C). 1807.03039.

    At each of `num_scales` pixels become channels, then come `num_steps` of ActNorm, an invertible
    linear map and an affine coupling with convolutions of `units` filters, then half of the
    channels are done. The sides must be divisible by 2 to the power of `num_scales`.

    Example:

    ```python
    import artifex_keras as ak

    flow = ak.NormalizingFlow(ak.networks.glow((8, 8, 1), num_scales=1, num_steps=2, units=(16,)))
    ```
    """

    def step(scale, i):
        tag = f"{name}_{scale}_{i}"
        return [
            ActNorm(name=f"{tag}_actnorm"),
            InvertibleLinear(seed=100 * scale + i, name=f"{tag}_linear"),
            AffineCoupling(units, **coupling, name=f"{tag}_coupling"),
        ]

    def scales(scale):
        links = [Squeeze(name=f"{name}_{scale}_squeeze")]
        for i in range(num_steps):
            links += step(scale, i)
        if scale + 1 < num_scales:
            inner = Chain(scales(scale + 1), name=f"{name}_{scale + 1}")
            links.append(Split(inner, name=f"{name}_{scale}_split"))
        return links

    links = [*first, *scales(0)]
    return _built(links, shape, context_dim, num_classes, units, name)


def _layered(links, shape, num_layers, context_dim, num_classes, first, actnorm, units, name):
    chain = [*first]
    if len(shape) > 1:
        chain.append(Flatten(name=f"{name}_flatten"))
    for i in range(num_layers):
        if actnorm:
            chain.append(ActNorm(name=f"{name}_actnorm_{i}"))
        chain += [*links(i), _reordering(i, shape, name)]
    return _built(chain, shape, context_dim, num_classes, units, name)


def _reordering(i, shape, name):
    """The halves change places after each coupling; now and then they are dealt anew."""
    if i % 2 and (len(shape) > 1 or shape[0] > 3):
        return Permutation(seed=i, name=f"{name}_permutation_{i}")
    return Reverse(name=f"{name}_reverse_{i}")


def _built(links, shape, context_dim, num_classes, units, name):
    if context_dim is not None and num_classes is not None:
        raise ValueError(
            "`context_dim` and `num_classes` exclude each other. Received: "
            f"context_dim={context_dim}, num_classes={num_classes}."
        )
    embedding = context = None
    if num_classes is not None:
        width = min(units[0], 16)
        embedding, context = keras.layers.Embedding(num_classes, width, name=f"{name}_class"), ()
    elif context_dim is not None:
        context = (context_dim,)
    chain = Chain(links, context_network=embedding, name=name)
    chain.build((None, *shape), None if context is None else (None, *context))
    return chain
