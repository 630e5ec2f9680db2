"""The random generators that data sources shuffle with: NumPy's, Python's and torch's."""

import ctypes
import random
import sys

import numpy as np

__all__ = ["noted_randomness", "randomness", "restore_randomness"]


MT19937_BYTES = 625 * 4  # 624 words, and how many of them are used

_noted = {}  # the bytes of NumPy's generator when it was read last, and what was read


def randomness():
    """The states of the global generators of NumPy, Python and torch, a dict."""
    return noted_randomness()()


def noted_randomness():
    """A function that gives `randomness()` as it is now: noted quickly, written when it is kept."""
    numpy_state, python_state = _numpy_state(), random.getstate()
    torch = sys.modules.get("torch")
    torch_state = None if torch is None else torch.get_rng_state()

    def written():
        version, state, gauss_next = python_state
        states = {
            "numpy": list(numpy_state),
            "python": [version, np.array(state, "uint32"), gauss_next],
        }
        if torch_state is not None:
            states["torch"] = torch_state.numpy().copy()
        return states

    return written


def _numpy_state():
    """What `np.random.get_state()` gives, which takes .1 ms: read anew where it has moved."""
    generator = np.random.get_bit_generator()
    if type(generator) is not np.random.MT19937:
        return np.random.get_state()
    found = ctypes.string_at(generator.ctypes.state_address, MT19937_BYTES)
    before, state = _noted.get("numpy", (None, None))
    # It makes normal numbers in pairs, and gives the second one without moving.
    if found != before or state[3]:
        state = np.random.get_state()
        _noted["numpy"] = found, state
    return state


def restore_randomness(states):
    """Sets the global generators to the states that `randomness` returned."""
    _noted.clear()
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys, int(place), int(has_gauss), gauss))
    version, state, gauss_next = states["python"]
    random.setstate((version, tuple(int(word) for word in state), gauss_next))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(np.array(states["torch"], "uint8")))
