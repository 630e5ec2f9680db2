"""Data of which each process reads its own part alone."""

from artifex_keras.aliases import Data, Tensor
from artifex_keras.backend import processes
from artifex_keras.backend.adapters import Wrapped

__all__ = ["OwnRows"]


class OwnRows(Wrapped):
    """A dataset that gives this process's rows of each batch: `model.fit(OwnRows(dataset))`.

    What `fit`, `evaluate` and trainers are given in several processes is otherwise the whole data,
    the same in each: a process puts its own rows of a batch on its devices. It takes no others of
    arrays; of another source it makes whole batches. So nothing changes with the number of
    processes, and any source works. Where making a batch is dear (decoding pictures), each process
    should make its own rows only: of a batch of B rows the process p of P those from p·B/P to
    (p+1)·B/P, if devices are in their usual order and the batch is not held whole.

    Each batch must have as many rows in all processes, and as many as the first; the number of
    batches must be the same too, or where it isn't known, all stop when the first runs out. Other
    numbers are an error in all processes, and so is a batch that one of them can't make: of data
    that aren't arrays they ask each other at each batch. Make it in all processes. A grain
    `DataLoader` whose sampler has `ShardByJaxProcess()` needs no wrapping: it gives own rows.

    Args:
        x, y, sample_weight, batch_size, shuffle: as of `fit`; arrays, a `PyDataset`, tf.data, grain
            and what else that takes. A `batch_size` counts this process's rows.
        steps: batches per epoch, where `fit` is given `steps_per_epoch`.

    Example:

        ```python
        import keras
        import numpy as np
        import artifex_keras as ak

        encoder = ak.networks.mlp_encoder((6,), 2, (8,))
        vae = ak.VAE(encoder, ak.networks.mlp_decoder(2, (6,), (8,)))
        vae.compile(optimizer="adamw")
        x = np.random.default_rng(0).uniform(size=(32, 6)).astype("float32")
        vae.fit(ak.distributed.OwnRows(x, batch_size=16), epochs=1, verbose=0)
        ```
    """

    own_rows = True

    def __init__(
        self,
        x: Data,
        y: Data = None,
        sample_weight: Tensor = None,
        *,
        batch_size: int | None = None,
        shuffle: bool = False,
        steps: int | None = None,
    ):
        error, options = None, {"batch_size": batch_size, "steps_per_epoch": steps}
        try:
            super().__init__(x, y, sample_weight, shuffle=shuffle, **options)
            batches = self.num_batches
        except Exception as raised:
            error = raised
        processes.raise_together(error, "can't read its own rows")
        processes.check_counts(batches)
