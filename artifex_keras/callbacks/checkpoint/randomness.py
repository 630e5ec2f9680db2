"""The random generators that data sources shuffle with: NumPy's, Python's and torch's."""

import random
import sys

import numpy as np

__all__ = ["randomness", "restore_randomness"]


def randomness():
    """The states of the global generators of NumPy, Python and torch, a dict."""
    name, keys, place, has_gauss, gauss = np.random.get_state()
    version, state, gauss_next = random.getstate()
    states = {
        "numpy": [name, keys, place, has_gauss, gauss],
        "python": [version, np.array(state, "uint32"), gauss_next],
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().copy()
    return states


def restore_randomness(states):
    """Sets the global generators to the states that `randomness` returned."""
    name, keys, place, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys, int(place), int(has_gauss), gauss))
    version, state, gauss_next = states["python"]
    random.setstate((version, tuple(int(word) for word in state), gauss_next))
    torch = sys.modules.get("torch")
    if torch is not None and "torch" in states:
        torch.set_rng_state(torch.from_numpy(np.array(states["torch"], "uint8")))
