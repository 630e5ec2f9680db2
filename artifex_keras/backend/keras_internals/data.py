"""Data on their way into the loop: adapters, and the iterators over them."""

import inspect

from .names import keras_module, uses


@uses("keras.src.trainers.data_adapters.data_adapter", "DataAdapter")
def data_adapter_class():
    """The base class of what `fit` reads batches from: an instance is taken as it is."""
    return keras_module("trainers.data_adapters.data_adapter").DataAdapter


@uses("keras.src.trainers.data_adapters", "get_data_adapter")
def data_adapter(x, *arguments, **options):
    """The adapter of Keras's for whatever `fit` may be given as data."""
    return keras_module("trainers.data_adapters").get_data_adapter(x, *arguments, **options)


@uses("keras.src.trainers.data_adapters", "is_torch_dataloader")
def is_torch_loader(data):
    """Whether `data` is a torch DataLoader, by its class: torch is not imported."""
    return keras_module("trainers.data_adapters").is_torch_dataloader(data)


@uses("keras.src.trainers.data_adapters.array_data_adapter", "ArrayDataAdapter")
def has_arrays(adapter):
    """Whether an adapter reads from arrays."""
    module = keras_module("trainers.data_adapters.array_data_adapter")
    return isinstance(adapter, module.ArrayDataAdapter)


def has_batches(adapter):
    """Whether the passes of an adapter can be replaced by `replace_batches`."""
    return hasattr(adapter, "_get_iterator")


@uses("array adapter", "_get_iterator")
def replace_batches(adapter, open_pass):
    """Makes `open_pass()` what an adapter of arrays or of a `PyDataset` reads each pass from.

    That of arrays is called with a function that takes rows, and the arrays. Gives what it was
    before.
    """
    before, adapter._get_iterator = adapter._get_iterator, open_pass
    return before


def reads_grain(adapter):
    """Whether an adapter reads a grain dataset or loader, by its class: grain is not imported."""
    return type(adapter).__name__ == "GrainDatasetAdapter"


@uses("grain adapter", "_dataset")
def dataset_of(adapter):
    """The dataset that an adapter of grain's or tf.data's reads; None of the others."""
    return getattr(adapter, "_dataset", None)


def set_dataset(adapter, dataset):
    """Lets such an adapter read another dataset."""
    adapter._dataset = dataset


@uses("loader adapter", "_dataloader")
def loader_of(adapter):
    """The torch `DataLoader` that an adapter reads; None of the others."""
    return getattr(adapter, "_dataloader", None)


def set_loader(adapter, loader):
    """Lets such an adapter read another loader."""
    adapter._dataloader = loader


def stacks_batches():
    """Whether Keras's iterators give several batches as one where a step is to run several.

    They do from keras PR 23527 on: its loop on JAX then scans over them. The version number doesn't
    tell, since a 3.16 without it exists, so we look at what they can be asked for.
    """
    asked = inspect.signature(data_adapter_class().get_jax_iterator).parameters
    return "super_batch" in asked


def stacked(batches, count):
    """`count` batches as one, as Keras's own adapters give them where `stacks_batches()`."""
    return keras_module("trainers.data_adapters.data_adapter_utils").super_batch_iterator(
        batches, count
    )


@uses("jax keras.src.backend.jax.trainer", "_distribute_data")
def distribute_batch(batch):
    """A batch on JAX with its rows over the devices of the distribution, by its own shape."""
    return keras_module("backend.jax.trainer")._distribute_data(batch)


@uses("iterator", "_get_iterator")
def replace_passes(iterator, open_pass):
    """Makes `open_pass()` what the iterator reads each pass from. Gives what it was before."""
    before, iterator._get_iterator = iterator._get_iterator, open_pass
    return before


@uses("tensorflow iterator", "_distributed_dataset")
def open_dataset_again(iterator):
    """Lets an iterator on TensorFlow take its dataset from its adapter, which has changed."""
    if not type(iterator._distributed_dataset).__name__.startswith("Distributed"):
        iterator._distributed_dataset = iterator.data_adapter.get_tf_dataset()


@uses("iterator", "_enumerate_iterator")
def replace_epochs(iterator, enumerate_epoch):
    """Makes `enumerate_epoch()` yield the steps of an epoch. Gives what did so before."""
    before, iterator._enumerate_iterator = iterator._enumerate_iterator, enumerate_epoch
    return before


@uses("iterator", "_steps_seen")
def count_as_seen(iterator, batches):
    """Counts batches of the running pass as read, after which the iterator opens another one."""
    iterator._steps_seen += batches


@uses("iterator", "_num_batches")
def set_num_batches(iterator, number):
    """Says how many batches a pass has, which Keras otherwise learns with the first one."""
    iterator._num_batches = number
