"""The blocks of a causal transformer: attention, with and without a cache, and a network of two
layers."""

from keras import initializers, layers, ops

from artifex_keras import backend
from artifex_keras.networks.context import attended_over_context

__all__ = ["ACTIVATIONS", "NORMS", "Block", "normal", "rotary"]


def rotary(x, positions, base=10000.0):
    """`x` (B, T, H, D) turned by its positions (B, T) or (1, T) (2104.09864): the pair (i, i + D/2)
    of channels by the angle ``position · base^(-2i/D)``. Inner products of two such vectors depend
    on the difference of their positions alone."""
    half = x.shape[-1] // 2
    frequencies = ops.power(base, -ops.arange(half, dtype="float32") / half)
    angles = ops.cast(positions, "float32")[..., None, None] * frequencies
    cos, sin = ops.cos(angles), ops.sin(angles)
    first, second = ops.split(ops.cast(x, "float32"), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return ops.cast(ops.concatenate(turned, axis=-1), x.dtype)


def _gelu(x):
    return ops.gelu(x, approximate=True)


def _swiglu(x):
    return ops.silu(x[..., 0, :]) * x[..., 1, :]


ACTIVATIONS = {"gelu": (_gelu, 1), "swiglu": (_swiglu, 2)}  # and of how many parts what it takes is
NORMS = {
    "rms": layers.RMSNormalization,
    "layer": lambda **options: layers.LayerNormalization(epsilon=1e-5, **options),
}


class RowDense(layers.Dense):
    """A `Dense` whose vectors come as rows already. Files find a layer by the name of its class:
    those of earlier versions have this one.

    One of several parts gives its outputs (..., parts, units / parts), so that a device which has
    some units of a part has those of the others too. Its weights are those of a `Dense`.
    """

    num_parts = 1

    def __call__(self, inputs, *args, **kwargs):
        made = super().__call__(inputs, *args, **kwargs)
        if self.num_parts == 1 or made.shape[-1] != self.units:
            return made
        shape = (*ops.shape(made)[:-1], self.num_parts, self.units // self.num_parts)
        return backend.over_model(ops.reshape(made, shape))

    def call(self, inputs, training=None):
        if self.num_parts == 1 or not backend.moves_weights(inputs):
            return super().call(inputs, training=training)
        shape = (-1, self.num_parts, self.units // self.num_parts)
        kernel = backend.over_model(ops.reshape(ops.convert_to_tensor(self.kernel), shape))
        return ops.tensordot(inputs, kernel, axes=1)

    def quantize(self, mode=None, type_check=True, **options):
        super().quantize(mode, type_check=False, **options)  # Keras leaves out what subclasses it


class Attention(layers.Layer):
    """Causal self-attention with `num_kv_heads` ≤ `num_heads` heads of keys and values, each shared
    by a group of query heads (2305.13245). It takes and gives vectors (B, T, C) or, from `as_rows`,
    (B·T, C)."""

    def __init__(self, width, num_heads, num_kv_heads, rotates, deviation, **kwargs):
        super().__init__(**kwargs)
        self.heads = {"query": num_heads, "key": num_kv_heads, "value": num_kv_heads}
        self.rotates = rotates
        self.head_width = width // num_heads
        self.projections = {
            name: dense(count * self.head_width, f"{self.name}_{name}")
            for name, count in self.heads.items()
        }
        self.out = dense(width, f"{self.name}_out", deviation)

    def build(self, input_shape):
        for projection in self.projections.values():
            projection.build(input_shape)
        self.out.build((*input_shape[:-1], self.heads["query"] * self.head_width))

    def _projected(self, name, x, positions):
        shape = (-1, ops.shape(positions)[1], self.heads[name], self.head_width)
        made = ops.reshape(self.projections[name](x), shape)
        return rotary(made, positions) if self.rotates and name != "value" else made

    def call(self, x, positions, visible=None):
        query, key, value = (self._projected(name, x, positions) for name in self.heads)
        shards = backend.num_context_shards(query.shape[1])
        if shards > 1:
            attended = attended_over_context(query, key, value, visible, shards)
            return self._joined(attended, x)
        if self.heads["key"] == 1:  # Keras on TensorFlow doesn't broadcast one head
            key, value = (ops.repeat(part, self.heads["query"], axis=2) for part in (key, value))
        seen = {"is_causal": True} if visible is None else {"mask": visible[:, None]}
        return self._joined(ops.dot_product_attention(query, key, value, **seen), x)

    def _joined(self, attended, x):
        shape = (*ops.shape(x)[:-1], self.heads["query"] * self.head_width)
        return self.out(ops.reshape(attended, shape))

    # With a cache. Its heads come before its columns, (B, heads, columns, width): a product over
    # the columns then needs no other order, which would be a copy of the cache for every token.

    def empty(self, batch, length):
        """An empty cache: keys and values."""
        shape = (batch, self.heads["key"], length, self.head_width)
        return tuple(ops.zeros(shape, self.compute_dtype) for _ in range(2))

    def step(self, x, positions, cache, column, visible):
        """`(output, cache)` of what is new, which sees what is `visible` of the cache."""
        query, *new = (self._projected(name, x, positions) for name in self.heads)
        zero = ops.zeros_like(column)
        cache = tuple(
            ops.slice_update(
                old,
                [zero, zero, column, zero],
                ops.cast(ops.transpose(part, (0, 2, 1, 3)), old.dtype),
            )
            for old, part in zip(cache, new, strict=True)
        )
        return self._joined(self._attended_columns(query, *cache, visible), x), cache

    def _attended_columns(self, query, keys, values, visible):
        """Queries (B, S, heads, width) that look at the columns of a cache."""
        rows, length, width = *ops.shape(query)[:2], self.head_width
        heads = self.heads["key"]
        group = self.heads["query"] // heads
        query = ops.reshape(query, (rows, length, heads, group, width))
        query = ops.transpose(query, (0, 2, 3, 1, 4)) * width**-0.5
        query = ops.reshape(query, (rows, heads, group * length, width))
        scores = ops.matmul(query, ops.transpose(keys, (0, 1, 3, 2)))
        scores = ops.reshape(scores, (rows, heads, group, length, -1))
        scores = ops.where(visible[:, None, None], ops.cast(scores, "float32"), -1e30)
        weights = ops.cast(_softmax(scores), values.dtype)
        weights = ops.reshape(weights, (rows, heads, group * length, -1))
        attended = ops.reshape(ops.matmul(weights, values), (rows, heads, group, length, width))
        return ops.transpose(attended, (0, 3, 1, 2, 4))


def _softmax(scores):
    """Softmax over the last axis. Over a single key, as with a prompt of one token, Keras's own
    warns that it may be a mistake."""
    if scores.shape[-1] == 1:
        return ops.exp(ops.log_softmax(scores, axis=-1))
    return ops.softmax(scores, axis=-1)


class Block(layers.Layer):
    """Attention and a network of two layers, each after a norm and added to its input."""

    def __init__(self, width, mlp_width, norm, activation, dropout, deviation, attention, **kwargs):
        super().__init__(**kwargs)
        self.activation, factor = ACTIVATIONS[activation]
        name = self.name
        self.attention = Attention(
            width, deviation=deviation, name=f"{name}_attention", **attention
        )
        self.norms = [NORMS[norm](name=f"{name}_norm_{i}") for i in (1, 2)]
        self.up = dense(factor * mlp_width, f"{name}_up", num_parts=factor)
        self.down = dense(width, f"{name}_down", deviation)
        self.dropouts = [layers.Dropout(dropout, name=f"{name}_dropout_{i}") for i in (1, 2)]

    def build(self, input_shape):
        for layer in (self.attention, *self.norms, self.up):
            layer.build(input_shape)
        self.down.build((*input_shape[:-1], self.down_inputs))

    @property
    def down_inputs(self):
        """The inputs of the second layer."""
        return self.up.units // self.up.num_parts

    def call(self, x, positions, visible=None, training=False):
        attended = self.attention(self.norms[0](x), positions, visible=visible)
        return self._after(x, attended, training)

    def step(self, x, positions, cache, column, visible):
        """`(output, cache)`: see `Attention.step`."""
        normed = self.norms[0](x)
        attended, cache = self.attention.step(normed, positions, cache, column, visible)
        return self._after(x, attended, False), cache

    def _after(self, x, attended, training):
        x = x + self.dropouts[0](attended, training=training)
        h = self.down(self.activation(self.up(self.norms[1](x))))
        return x + self.dropouts[1](h, training=training)


def dense(units, name, deviation=0.02, num_parts=1):
    """A layer without biases, for vectors (B, T, C) or rows of them."""
    layer = RowDense(units, use_bias=False, kernel_initializer=normal(deviation), name=name)
    layer.num_parts = num_parts
    return layer


def normal(deviation):
    """Normal numbers of that deviation, for the first weights."""
    return initializers.RandomNormal(stddev=deviation)
