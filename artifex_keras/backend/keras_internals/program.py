"""What Keras keeps for the whole program: its global state, seeds, the reading of files."""

import contextlib
import random
import threading

import numpy as np

from .names import keras_module, uses


@uses("keras.src.backend.common.global_state", "GLOBAL_STATE_TRACKER")
@contextlib.contextmanager
def global_state_kept():
    """Afterwards Keras's global state is what it was before: the numbers in automatic names, the
    distribution, the generator behind unseeded noise, and Python's and NumPy's random numbers."""
    state = vars(keras_module("backend.common.global_state").GLOBAL_STATE_TRACKER)
    names, before = "object_name_uids", dict(state)
    if names in before:
        before[names] = before[names].copy()
    numbers = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        state.clear()
        state.update(before)
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])


@uses("keras.src.utils.rng_utils", "get_random_seed")
def random_seed():
    """The seed that `keras.utils.set_random_seed` has set; None without one."""
    return keras_module("utils.rng_utils").get_random_seed()


def is_of_one_backend(module):
    """Whether a class of this module, as files name it, is one that a single backend has."""
    return str(module).startswith("keras.src.backend.")


@uses("keras.src.saving.saving_lib", "_load_state")
@contextlib.contextmanager
def without_loading(reject):
    """Inside, `reject()` is called in place of reading weights from a file, in this thread."""
    module, here = keras_module("saving.saving_lib"), threading.get_ident()
    before = module._load_state

    def load(*arguments, **options):
        if threading.get_ident() == here:
            reject()
        return before(*arguments, **options)

    module._load_state = load
    try:
        yield
    finally:
        module._load_state = before
