"""Policies of tokens that learn small tasks from nothing, as far as they must."""

import dataclasses

import numpy as np
import pytest
from token_toys import TOYS, WINDOW, learned

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]
WINDOWS = 4  # at the end: the reward of a single one can dip by .03


@pytest.mark.parametrize("name", TOYS)
def test_a_policy_learns_its_task(name):
    toy = TOYS[name]
    end = toy.told_at[-1]
    at = tuple(range(end - (WINDOWS - 1) * WINDOW, end + 1, WINDOW))
    rewards = learned(dataclasses.replace(toy, told_at=at), seed=0)
    assert np.mean(list(rewards.values())) >= toy.gate
