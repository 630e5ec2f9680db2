"""A causal transformer, and the protocol by which networks offer a key-value cache.

The cache protocol. A network from ids (B, T) to logits (B, T, V) generates faster if it has

`make_cache(batch, length)`
    an empty cache for `batch` rows of `length` columns: a tensor, or tuples or dicts of tensors,
    each with the rows as its first axis.
`step(ids, positions, cache, column, visible, last=None)`
    `(logits, cache)` for ids (B, S), whose keys and values it writes into the columns `column` to
    `column + S - 1`. `positions` (B, S) or (1, S) are the ids' places in their rows, which are not
    the columns where prompts have several lengths. `visible` (B, S, length), or with 1 for B, says
    which columns each id sees. The logits are those after the last id, (B, V); with `last` (B,),
    after id number `last[b]` of row b.
`max_length` (may be missing)
    the longest row that it takes.

A network that makes its logits in two halves, `head(hidden(ids))`, lets fine-tuning make those of
completions alone, and put a value beside them.

A network whose attribute `takes_segments` is true may be called with `[ids, segments]` too, both
(B, T), and so may its `hidden`: `segments` is 1, 2, ... for the pieces of a packed row, 0 at
padding, and each piece gets the logits that it would have alone (`datasets.packed`).

`models.Autoregressive` uses it where it is there. A network without it is called on the whole row
for every token.
"""

from typing import Any

import keras
from keras import layers, ops

from artifex_keras import backend
from artifex_keras.aliases import Activation
from artifex_keras.arguments import checked, optional, row_of
from artifex_keras.backend.frozen import KeepsFrozen
from artifex_keras.backend.stacks import KeepsStacks
from artifex_keras.networks.rows import as_rows
from artifex_keras.networks.rules import RULES
from artifex_keras.networks.transformer_blocks import ACTIVATIONS, NORMS, Block, normal, rotary

__all__ = ["CausalTransformer", "rotary"]


REMAT = {"full": "full", "dots": "dots"}
POSITIONS = {"rotary": True, "learned": False}


@keras.saving.register_keras_serializable(package="artifex_keras")
@checked(
    RULES,
    activation=row_of(ACTIVATIONS, "activation"),
    norm=row_of(NORMS, "norm"),
    positions=row_of(POSITIONS, "positions"),
    remat=optional(row_of(REMAT, "remat")),
)
class CausalTransformer(KeepsFrozen, KeepsStacks, keras.Model):
    """A transformer from ids (B, T) to logits (B, T, V) in float32, where logits t depend on ids up
    to t alone; with a key-value cache.

    Called with `[ids, segments]`, both (B, T), it keeps the pieces of a packed row apart: an id
    sees those before it of its own segment alone, and positions begin anew in each. Segment 0 is
    padding. `datasets.packed` makes such rows, which may be longer than `max_length` where no
    piece is.

    Args:
        vocabulary_size: V; ids are 0..V-1.
        max_length: the longest row, in tokens.
        num_layers: blocks.
        num_heads: heads of queries; must divide `width`.
        width: of the vectors between blocks.
        num_kv_heads: heads of keys and values; must divide `num_heads`, which it is by default.
        mlp_width: of the hidden layers, by default 4·`width`, or 8/3 of it for `"swiglu"`.
        positions: `"rotary"` turns queries and keys, `"learned"` adds a vector for each place.
        norm: `"rms"` or `"layer"`, before each part of a block and before the logits.
        activation: `"gelu"`, or `"swiglu"` (2002.05202).
        dropout: the share of each part's output that training drops, and of the embeddings.
        tied_embeddings: the logits' matrix is that of the embeddings.
        remat: what of a block the gradient finds again instead of keeping it: None keeps all,
            "full" computes each block once more, "dots" all of it but the products with weights
            (on JAX, where it saves nothing on a CPU; elsewhere it is "full"). The numbers are the
            same.
        scan_layers: on JAX a program has one block for all, in a scan: tracing and compiling take
            as long for 32 blocks as for two. The weights of all blocks are one variable for each of
            a block's, (layers, ...), so that a step makes no copy of them. The numbers, weight
            files, checkpoints and `get_weights()` are those of False; files load either way.
            Blocks must stay equal: LoRA, `quantize` and freezing one of them are refused, and so
            are optimizers that look at a whole weight (Lamb, Muon, Adafactor, `clipnorm`). Take
            `remat` with it: without, a scan keeps more for the gradient than blocks in a row. Set
            here alone. On TensorFlow and torch blocks stay in a row, and have variables each.

    Raises:
        ValueError: for sizes that don't divide each other, and for unknown names.

    Example:

    ```python
    import numpy as np
    import artifex_keras as ak

    network = ak.networks.CausalTransformer(100, max_length=32, num_layers=2, width=64)
    logits = network(np.zeros((4, 16), "int32"))
    print(logits.shape)  # (4, 16, 100)
    model = ak.Autoregressive(network)
    ```
    """

    takes_segments = True
    remat_modes = tuple(REMAT)

    def __init__(
        self,
        vocabulary_size: int,
        max_length: int,
        *,
        num_layers: int = 4,
        num_heads: int = 4,
        width: int = 128,
        num_kv_heads: int | None = None,
        mlp_width: int | None = None,
        positions: str = "rotary",
        norm: str = "rms",
        activation: Activation = "gelu",
        dropout: float = 0.0,
        tied_embeddings: bool = True,
        remat: str | None = None,
        scan_layers: bool = False,
        name: str = "transformer",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        _, factor = ACTIVATIONS[activation]
        rotates = POSITIONS[positions]
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        _check(num_heads, width, num_kv_heads, rotates)
        if mlp_width is None:
            mlp_width = 4 * width if factor == 1 else 8 * -(-width // 3)
        self.options = {
            "vocabulary_size": vocabulary_size,
            "max_length": max_length,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "width": width,
            "num_kv_heads": num_kv_heads,
            "mlp_width": mlp_width,
            "positions": positions,
            "norm": norm,
            "activation": activation,
            "dropout": dropout,
            "tied_embeddings": tied_embeddings,
            "remat": remat,
            "scan_layers": scan_layers,
        }
        self.vocabulary_size, self.max_length = vocabulary_size, max_length
        # The logits are made, and the rows of the table kept, in float32 under every policy.
        self.embedding = layers.ReversibleEmbedding(
            vocabulary_size,
            width,
            tie_weights=tied_embeddings,
            embeddings_initializer=normal(0.02),
            dtype="float32",
            name=f"{name}_embedding",
        )
        self.places = None
        if not rotates:
            self.places = layers.Embedding(
                max_length, width, embeddings_initializer=normal(0.02), name=f"{name}_places"
            )
        attention = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "rotates": rotates}
        deviation = 0.02 / (2 * num_layers) ** 0.5
        self.dropout = layers.Dropout(dropout, name=f"{name}_dropout")
        blocks = [
            Block(width, mlp_width, norm, activation, dropout, deviation, attention,
                  name=f"{name}_block_{i}")
            for i in range(num_layers)
        ]  # fmt: skip
        self.stack = None
        if scan_layers and num_layers > 1 and backend.Stacked is not None:
            with keras.name_scope(name):  # as in `build`
                for block in blocks:
                    block.build((None, None, width))
            self.stack = backend.Stacked(blocks, dtype=self.dtype_policy, name=f"{name}_blocks")
            # Past Keras, which would find their weights in two places.
            object.__setattr__(self, "blocks", tuple(blocks))
        else:
            self.blocks = blocks
        self.norm = NORMS[norm](name=f"{name}_norm")
        self.build((None, max_length))

    def build(self, input_shape):
        if self.built:
            return
        vectors = (None, None, self.options["width"])
        for layer in (self.embedding, self.places):
            if layer is not None:
                layer.build((None, None))
        for layer in (*(self.blocks if self.stack is None else ()), self.norm):
            layer.build(vectors)
        self.built = True

    def call(self, ids, positions=None, padding_mask=None, training=False):
        """The logits (B, T, V) of `ids` (B, T), or of packed rows `[ids, segments]`.

        `padding_mask` (B, T) is 0 on padding, which then no id sees; places are counted from the
        first real id of a row, unless `positions` (B, T) says otherwise. Rows that are padded on
        the right alone need no mask: nothing real comes after the padding.
        """
        return self.head(self.hidden(ids, positions, padding_mask, training))

    def hidden(self, ids, positions=None, padding_mask=None, training=False):
        """The vectors (B, T, width) of which `head` makes the logits; see `call`."""
        ids, segments = _parted(ids)
        length = ops.shape(ids)[1]
        visible = None
        if segments is not None:
            _check_segments(ids, segments, padding_mask)
            visible = _within_segments(segments, length)
            if positions is None:
                positions = ops.sum(ops.cast(visible, "int32"), axis=-1) - 1
        elif padding_mask is not None:
            mask = ops.cast(padding_mask, "bool")
            visible = _visible(mask, length)
            if positions is None:
                positions = ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1
        if positions is None:
            positions = ops.arange(length, dtype="int32")[None]
        x = backend.over_context(self._embedded(ids, positions, training))

        def run(block, x):
            return block(x, positions, visible=visible, training=training)

        x = backend.through_layers(run, self.blocks, x, remat=self.remat, stack=self.stack)
        return ops.reshape(self.norm(x), (-1, length, self.options["width"]))

    @property
    def remat(self):
        """What the gradient finds again; it may be set before `compile`."""
        return self.options["remat"]

    @remat.setter
    def remat(self, mode):
        self.options["remat"] = optional(row_of(REMAT, "remat"))("remat", mode)

    def head(self, hidden):
        """The logits (B, T, V) of vectors that `hidden` has made."""
        logits = self.embedding(as_rows(hidden), reverse=True)
        return ops.reshape(logits, (*ops.shape(hidden)[:-1], self.vocabulary_size))

    def _embedded(self, ids, positions, training=False):
        """What the first block takes: vectors (B, T, width), or rows of them."""
        x = self.embedding(ids)
        if self.places is not None:
            # Padding may stand before the first place and behind the last.
            x = x + self.places(ops.clip(positions, 0, self.max_length - 1))
        return self.dropout(as_rows(ops.cast(x, self.compute_dtype)), training=training)

    def make_cache(self, batch, length):
        """An empty cache: a pair of keys and values for each block."""
        return tuple(block.attention.empty(batch, length) for block in self.blocks)

    def step(self, ids, positions, cache, column, visible, last=None):
        """`(logits, cache)`: see the protocol in this module."""
        column = ops.cast(column, "int32")
        x = backend.spread(self._embedded(ids, positions))
        filled = []
        for block, part in zip(self.blocks, cache, strict=True):
            x, part = block.step(x, positions, part, column, visible)
            filled.append(part)
        x = ops.reshape(x, (-1, ops.shape(ids)[1], self.options["width"]))
        if last is None:
            x = x[:, -1]
        else:
            x = ops.take_along_axis(x, ops.cast(last, "int32")[:, None, None], axis=1)[:, 0]
        return self.embedding(self.norm(x), reverse=True), tuple(filled)

    def compute_output_shape(self, input_shape):
        packed = isinstance(input_shape[0], list | tuple)
        return (*(input_shape[0] if packed else input_shape), self.vocabulary_size)

    def get_config(self):
        options = {**self.options}
        for name in ("remat", "scan_layers"):
            if not options[name]:  # so that earlier versions read the file
                del options[name]
        return {
            "name": self.name,
            "dtype": self.dtype_policy,
            **options,
            **self.frozen_config(),
        }


def _visible(mask, length):
    """(B, T, T): each id sees the real ones up to itself, and padding itself, for the softmax."""
    places = ops.arange(length, dtype="int32")
    causal = places <= places[:, None]
    return ops.logical_or(ops.logical_and(causal, mask[:, None]), places == places[:, None])


def _parted(inputs):
    """`(ids, segments)` of what the network was called with; segments are None where none are."""
    pair = isinstance(inputs, list | tuple) and len(inputs) == 2
    if pair and all(len(getattr(part, "shape", ())) == 2 for part in inputs):
        return inputs
    return inputs, None


def _check_segments(ids, segments, padding_mask):
    if tuple(ids.shape) != tuple(segments.shape):
        raise ValueError(
            "`segments` must have the shape of the ids. Received: [ids, segments] of shapes "
            f"{tuple(ids.shape)} and {tuple(segments.shape)}."
        )
    if padding_mask is not None:
        raise ValueError("`segments` say by 0 what is padding: leave `padding_mask` out.")


def _within_segments(segments, length):
    """(B, T, T): each id sees those of its segment up to itself; padding sees padding."""
    places = ops.arange(length, dtype="int32")
    same = segments[:, :, None] == segments[:, None]
    return ops.logical_and(places <= places[:, None], same)


def _check(num_heads, width, num_kv_heads, rotates):
    if width % num_heads:
        raise ValueError(
            f"`num_heads` must divide `width`. Received: num_heads={num_heads}, width={width}."
        )
    if num_heads % num_kv_heads:
        raise ValueError(
            "`num_kv_heads` must divide `num_heads`. Received: num_kv_heads="
            f"{num_kv_heads}, num_heads={num_heads}."
        )
    if rotates and width // num_heads % 2:
        raise ValueError(
            "Rotary positions need heads of an even width. Received: width // num_heads = "
            f"{width // num_heads}."
        )
