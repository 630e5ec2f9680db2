"""What our distributions do beyond Keras's: take built models, and batches of any size."""

import functools

import keras

from artifex_keras.distributed.redistribute import is_sharded, layouts_of, redistribute

__all__ = ["JointLayout", "Sharding", "layout_of_axes"]


class JointLayout(keras.distribution.TensorLayout):
    """A `keras.distribution.TensorLayout` that may shard one axis over several of the mesh, as the
    rows of a batch over `("replica", "data")`."""

    def __init__(self, axes, device_mesh):
        super().__init__([None] * len(axes), device_mesh)
        self._parts = tuple(axes)

    @property
    def axes(self):
        return self._parts


def layout_of_axes(axes, mesh):
    """The layout of a tensor on `mesh`: of each axis a name, a tuple of names, or None."""
    joint = any(isinstance(part, tuple) for part in axes)
    return (JointLayout if joint else keras.distribution.TensorLayout)(axes, mesh)


class Sharding:
    """The part of a distribution that shards a model's weights and its batches.

    A model calls `shard` once it is built, so that it doesn't matter whether that was before or
    after the distribution was set.

    Attributes:
        actors: the distribution over the devices that sample while others learn, else None.
        role: of two processes what this one does, "learner" or "actor"; None where it does both.
    """

    actors = role = None

    @property
    def num_processes(self):
        """How many processes share a batch."""
        return super().num_processes if self.role is None else 1

    def layouts(self, model):
        """The layouts of a built model's weights, by path; others are replicated."""
        raise NotImplementedError

    def shard(self, model):
        """Shards a built model with its optimizer, average and seeds, unless that is done."""
        if self.actors is not None and not hasattr(model, "samples_ahead"):
            raise ValueError(
                "`actor_learner` is for algorithms that learn from completions of their own: GRPO, "
                f"PPO, REINFORCE, RLOO. Received: {type(model).__name__}. Take `data_parallel` or "
                "`model_parallel`."
            )
        if not is_sharded(model, self):  # which is asked with each batch of `train_on_batch`
            redistribute(model, self)

    def layouts_by_id(self, model):
        """The layouts of all that is kept of a built model's weights, by the variable's `id`."""
        return layouts_of(model, self)

    def get_data_layout(self, data_shape):
        """Rows over the devices; replicated where they don't divide, and the step shards them."""
        spec = [None] * len(data_shape)
        if spec and data_shape[0] % self._num_shards == 0:
            spec[0] = self.batch_dim_name
        return layout_of_axes(spec, self.device_mesh)

    @functools.cached_property
    def _num_shards(self):
        """How many shards this process's rows have."""
        return max(1, self.num_model_replicas // self.num_processes)
