"""Policies of tokens that learn small tasks from nothing, as far as they must."""

import pytest
from token_toys import TOYS, learned

pytestmark = [pytest.mark.slow, pytest.mark.backends("jax")]


@pytest.mark.parametrize("name", TOYS)
def test_a_policy_learns_its_task(name):
    toy = TOYS[name]
    reached = learned(toy, seed=0)
    assert reached[toy.told_at[-1]] >= toy.gate
