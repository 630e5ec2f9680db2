"""Random generators that a data source has of its own, among its attributes: where they are."""

import copy
import random
import sys

import keras
import numpy as np

from artifex_keras.backend import processes
from artifex_keras.backend.messages import pack

__all__ = [
    "gathered",
    "generators_in",
    "has_seed_generator",
    "own_generators",
    "own_share",
    "set_states",
    "states_of",
]

KINDS = np.random.Generator, np.random.RandomState, random.Random
GLOBAL = (np.random.normal.__self__, random.random.__self__)  # noted with those of all sources


def own_generators(source):
    """The generators of NumPy, Python and torch among the attributes of a source, or whose methods
    are there: a list without repeats."""
    return generators_in(_attributes(source))


def generators_in(values):
    """Those of some values that are such generators, and not the global ones."""
    found = [each for each in values if isinstance(each, KINDS) or _is_of_torch(each)]
    return list({id(each): each for each in found if each not in GLOBAL}.values())


def _is_of_torch(value):
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Generator)


def has_seed_generator(source):
    """Whether Keras's generators are among them, whose state is on the device."""
    return any(isinstance(each, keras.random.SeedGenerator) for each in _attributes(source))


def _attributes(source):
    return [getattr(value, "__self__", value) for value in getattr(source, "__dict__", {}).values()]


def states_of(generators):
    """The states of generators, those of torch too: a list of plain trees."""
    return [_state(generator) for generator in generators]


def _state(generator):
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    if isinstance(generator, random.Random):
        version, words, gauss_next = generator.getstate()
        return [version, np.array(words, "uint32"), gauss_next]
    return generator.get_state().numpy().copy()


def set_states(generators, states):
    """Sets generators to the states that `states_of` gave; None, or of others, leaves them.

    Raises:
        ValueError: if they are no states of such generators.
    """
    if states is None or len(states) != len(generators):
        return
    for generator, state in zip(generators, states, strict=True):
        try:
            _set_state(generator, state)
        except Exception as error:
            kind = type(generator).__name__
            raise ValueError(
                f"A random generator of the data is a {kind}, and the checkpoint has no state of "
                f"one: {error}. Give the data the generators that they had, or train into another "
                "folder."
            ) from error


def _set_state(generator, state):
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, words, gauss_next = state
        generator.setstate((version, tuple(int(word) for word in words), gauss_next))
    else:
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
    return states[0] if len({pack(state) for state in states}) == 1 else None
