"""What our distributions do beyond Keras's: take built models, and batches of any size."""

import functools

import keras

from artifex_keras.distributed.redistribute import is_sharded, redistribute

__all__ = ["Sharding"]


class Sharding:
    """The part of a distribution that arranges a model's weights and the data it is given.

    A model calls `shard` once it is built, so that it doesn't matter whether that was before or
    after the distribution was set.
    """

    def layouts(self, model):
        """The layouts of a built model's weights, by path; what isn't there is held whole."""
        raise NotImplementedError

    def shard(self, model):
        """Lays a built model out, with its optimizer, its average and its noise, unless it is."""
        if not is_sharded(model, self):  # which is asked with each batch of `train_on_batch`
            redistribute(model, self)

    def get_data_layout(self, data_shape):
        """Rows over the devices; whole on each where they don't divide, the step cuts them then."""
        spec = [None] * len(data_shape)
        if spec and data_shape[0] % self._num_shards == 0:
            spec[0] = self.batch_dim_name
        return keras.distribution.TensorLayout(spec, self.device_mesh)

    @functools.cached_property
    def _num_shards(self):
        """How many shares this process's rows are cut into."""
        return max(1, self.num_model_replicas // self.num_processes)
