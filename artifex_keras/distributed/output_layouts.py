"""Where the outputs of layers lie: pinned to the rows of their devices, by their shape."""

import functools

from artifex_keras.distributed.mesh import row_axes
from artifex_keras.distributed.sharding import JointLayout, layout_of_axes

__all__ = ["PinnedOutput", "rows_of"]


def rows_of(mesh):
    """The axes of `mesh` that the rows of a batch lie over: a name, or a tuple of several."""
    rows = row_axes(mesh.axis_names)
    return rows if len(rows) > 1 else rows[0]


class PinnedOutput(JointLayout):
    """The layout of what a layer gives: its rows over their devices, replicated over the others.

    What a table of embeddings gives as a head are logits (..., V). With the vocabulary over an axis
    of the mesh they stay sharded over it, as whatever is made of them then is: log-probabilities,
    entropies and the likeliest token need a number of each shard, and nothing gathers the table.

    Args:
        mesh: a `keras.distribution.DeviceMesh`.
        vocabulary: `(V, axis)` of a table whose vocabulary lies over that axis; or None.
    """

    def __init__(self, mesh, vocabulary=None):
        super().__init__((rows_of(mesh),), mesh)
        self.vocabulary = vocabulary
        self.for_shape = functools.cache(self._for_shape)

    def _for_shape(self, shape):
        """The layout of an output of that shape."""
        rows = self.axes[0]
        if self.vocabulary is None or len(shape) < 2 or shape[-1] != self.vocabulary[0]:
            return self
        between = [None] * (len(shape) - 2)
        return layout_of_axes((rows, *between, self.vocabulary[1]), self.device_mesh)
