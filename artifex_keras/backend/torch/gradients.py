"""Gradients, loops and branches on torch."""

import keras
import torch
from keras import ops

from artifex_keras.backend.torch.remat import recomputed  # noqa: F401
from artifex_keras.backend.trained import known_places


def value_and_grad(fn, variables):
    """`(loss, aux, gradients)` of `fn() -> (loss, aux)` with respect to `variables`."""
    loss, aux = fn()
    values = [variable.value for variable in variables]
    gradients = torch.autograd.grad(loss, values, allow_unused=True)
    zeroed = [
        torch.zeros_like(v) if g is None else g for g, v in zip(gradients, values, strict=True)
    ]
    return loss.detach(), _detached(aux), zeroed


def _detached(tree):
    """The logs without their graph, which would otherwise live as long as the metrics do."""
    return keras.tree.map_structure(
        lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf, tree
    )


def without_gradient(fn):
    """`fn()` as a constant, through which no gradient flows."""
    with torch.no_grad():
        return fn()


def input_gradient(fn, x):
    """The gradient of the summed `fn(x)` with respect to `x`, of the shape of `x`.

    Differentiable once more, for gradient penalties and score matching.
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        x = ops.convert_to_tensor(x)
        x = x if x.requires_grad else x.detach().requires_grad_(True)
        value = torch.sum(fn(x))
        if not value.requires_grad:
            return torch.zeros_like(x)
        (gradient,) = torch.autograd.grad(value, x, create_graph=differentiable, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


def repeat(body, xs):
    """The stacked results of `body(x)` for each row `x` of `xs`, in order."""
    rows = keras.tree.flatten(xs)[0].shape[0]
    results = [body(_row(xs, i)) for i in range(rows)]
    return keras.tree.map_structure(lambda *leaves: ops.stack(leaves), *results)


def _row(xs, i):
    return keras.tree.map_structure(lambda leaf: leaf[i], xs, none_is_leaf=False)


def when(condition, body, otherwise):
    """`body()` if `condition`, else `otherwise()`: results of one structure; one is computed."""
    return body() if bool(condition) else otherwise()


def apply_gradients(optimizer, gradients, variables):
    """One update of the variables that train, which may be fewer than the optimizer knows."""
    known_places(optimizer, variables)
    with torch.no_grad():
        optimizer.apply(gradients, variables)
