"""Where the outputs of layers lie: pinned to the rows of their devices, by their shape."""

import functools

from artifex_keras.distributed.mesh import CONTEXT, num_shards, row_axes
from artifex_keras.distributed.sharding import JointLayout, layout_of_axes

__all__ = ["PinnedOutput", "rows_of"]


def rows_of(mesh):
    """The axes of `mesh` that the rows of a batch lie over: a name, or a tuple of several.

    That for FSDP comes first. Where it comes after another one, XLA gets products wrong whose rows
    and columns are both sharded: to meet the weight's shards it exchanges the rows of the two axes,
    and takes what comes out for rows in the old order.
    """
    rows = row_axes(mesh.axis_names)[::-1]
    return rows if len(rows) > 1 else rows[0]


class PinnedOutput(JointLayout):
    """The layout of what a layer gives: its rows over their devices, replicated over the others.

    Of vectors (B, T, C) the tokens lie over the axis "context" of the mesh, if it has one.

    What a table of embeddings gives as a head are logits (..., V). With the vocabulary over an axis
    of the mesh they stay sharded over it, as whatever is made of them then is: log-probabilities,
    entropies and the likeliest token need a number of each shard, and nothing gathers the table.

    Args:
        mesh: a `keras.distribution.DeviceMesh`.
        vocabulary: `(V, axis)` of a table that makes logits, with the axis of the mesh that its
            vocabulary lies over, or None; None for layers that make none.
        looks_up: whether it is a table that ids are looked up in. Rows that the devices don't
            divide are then replicated: XLA pads them, and adds the gradients of the padding to the
            table where its vocabulary is sharded too.
    """

    def __init__(self, mesh, vocabulary=None, looks_up=False):
        super().__init__((rows_of(mesh),), mesh)
        self.vocabulary, self.looks_up = vocabulary, looks_up
        axes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        self.context, self.num_rows = axes.get(CONTEXT, 1), num_shards(self.axes[0], axes)
        self.for_shape = functools.cache(self._for_shape)

    def _for_shape(self, shape):
        """The layouts of an output of that shape, to be taken one after the other."""
        spec = [self.axes[0]] + [None] * (len(shape) - 1)
        if self.looks_up and shape and not _divides(self.num_rows, shape[0]):
            spec[0] = None
        cuts_rows = len(shape) == 3 and self.context > 1 and _divides(self.context, shape[1])
        if cuts_rows:
            spec[1] = CONTEXT
        makes_logits = self.vocabulary is not None and shape[-1:] == (self.vocabulary[0],)
        if makes_logits and len(shape) > 1:
            spec[-1] = self.vocabulary[1]
        steps = [spec]
        if cuts_rows and self.looks_up and not makes_logits:
            # By way of the table's width: from both at once XLA knows no way but to gather all.
            steps = [[spec[0], None, CONTEXT], spec]
        return tuple(layout_of_axes(each, self.device_mesh) for each in steps)


def _divides(count, size):
    """Whether a size is known, as in an exported program it may not be, and `count` divides it."""
    return isinstance(size, int) and size % count == 0
