"""The random generators that data sources shuffle with: NumPy's, Python's and torch's."""

import ctypes
import random
import sys

import keras
import numpy as np

from artifex_keras.backend import processes

__all__ = [
    "gathered",
    "has_generator",
    "noted_randomness",
    "own_share",
    "randomness",
    "restore_randomness",
    "set_states",
    "states_of",
]


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


def states_of(generators):
    """The states of torch generators, a list of arrays."""
    return [generator.get_state().numpy().copy() for generator in generators]


def set_states(generators, states):
    """Sets generators to the states that `states_of` gave; None, or of others, leaves them."""
    if states is None or len(states) != len(generators):
        return
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(sys.modules["torch"].from_numpy(np.array(state, "uint8")))


def gathered(states):
    """Random states of which those of the source's own generators are a list, by process."""
    return states and {**states, "own": processes.gather(states["own"])}


def own_share(states):
    """Of such a list the one of this process; None where there were others, each with its own."""
    if not states:
        return None
    if len(states) == processes.count():
        return states[processes.index()]
    same = all(np.array_equal(state, states[0]) for state in states)
    return states[0] if same else None


def has_generator(source):
    """Whether a source draws from a generator of its own, which moves with each batch made: it, or
    a method of it, is among the attributes."""
    kinds = (np.random.Generator, np.random.RandomState, random.Random, keras.random.SeedGenerator)
    found = [getattr(value, "__self__", value) for value in vars(source).values()]
    of_all = (np.random.normal.__self__, random.random.__self__)  # whose states are noted
    return any(isinstance(each, kinds) and each not in of_all for each in found)
