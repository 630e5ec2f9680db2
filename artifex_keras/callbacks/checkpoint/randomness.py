"""The random generators that data sources shuffle with: NumPy's, Python's and torch's."""

import random
import sys

import numpy as np

__all__ = ["noted_randomness", "randomness", "restore_randomness"]


def randomness():
    """The states of the global generators of NumPy, Python and torch, a dict."""
    return noted_randomness()()


def noted_randomness():
    """A function that gives `randomness()` as it is now: noted quickly, written when it is kept."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
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


def restore_randomness(states):
    """Sets the global generators to the states that `randomness` returned."""
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys, int(place), int(has_gauss), gauss))
    version, state, gauss_next = states["python"]
    random.setstate((version, tuple(int(word) for word in state), gauss_next))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(np.array(states["torch"], "uint8")))
