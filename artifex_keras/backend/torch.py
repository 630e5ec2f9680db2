"""The seam on torch: the step runs eagerly, autograd gives the gradients."""

import functools

import keras
import torch
from keras import ops

SHAPES_ARE_KNOWN = True


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's steps on torch.

    Steps run eagerly: one that is `interrupted` by a part on the host is a step as any other.
    """

    interrupted = False

    def train_step(self, data):
        return self.train_on(data)

    def test_step(self, data):
        return self.test_on(data)


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


def over_rows(fn, x):
    """As it stands."""
    return fn(x)


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
    """One update."""
    with torch.no_grad():
        optimizer.apply(gradients, variables)


def compiled(method):
    """The method without a gradient's graph: torch runs eagerly."""

    @functools.wraps(method)
    def call(self, *args, **static):
        with torch.no_grad():
            return method(self, *args, **static)

    return call


def reader(model, fn, weights=False):
    """A function that gives `fn()`, scalar tensors by name, as floats, in the middle of `fit`."""

    def read():
        return {name: float(ops.convert_to_numpy(value)) for name, value in fn().items()}

    return read


def global_norm(values):
    """The root of the sum of squares over all entries of a list of tensors, in float32."""
    norms = [torch.linalg.vector_norm(value.detach().float()) for value in values]
    return torch.linalg.vector_norm(torch.stack(norms))


def device_memory():
    """`(bytes in use, the most so far)` on the current GPU; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def spread(x, axis=0):
    """`x`: Keras distributes on JAX alone."""
    return x


def shard_batches(epoch_iterator):
    """Nothing: Keras distributes on JAX alone."""
