"""The rates themselves: closed forms, and Optax's schedules where the two coincide.

Optax counts a decay of T steps to the update *after* the last, and starts a warm-up at its initial
value; so ours over T updates with W of warm-up is Optax's from peak/W over W - 1 and T - 1 steps.
"""

import numpy as np
import pytest
from keras import ops

from artifex_keras.schedulers import create_scheduler

PEAK, WARMUP, TOTAL, FLOOR = 0.02, 7, 60, 0.001


def rates(schedule, updates=TOTAL + 10):
    return ops.convert_to_numpy(schedule(np.arange(updates)))


def warmed(optax, decay):
    warmup = optax.linear_schedule(PEAK / WARMUP, PEAK, WARMUP - 1)
    return optax.join_schedules([warmup, decay], [WARMUP - 1])


PEERS = {
    "cosine": (
        {"total_steps": TOTAL, "min_lr": FLOOR},
        lambda optax: optax.warmup_cosine_decay_schedule(
            PEAK / WARMUP, PEAK, WARMUP - 1, TOTAL - 1, FLOOR
        ),
    ),
    "linear": (
        {"total_steps": TOTAL, "min_lr": FLOOR},
        lambda optax: warmed(optax, optax.linear_schedule(PEAK, FLOOR, TOTAL - WARMUP)),
    ),
    "polynomial": (
        {"total_steps": TOTAL, "min_lr": FLOOR, "power": 3},
        lambda optax: warmed(optax, optax.polynomial_schedule(PEAK, FLOOR, 3, TOTAL - WARMUP)),
    ),
    "exponential": (
        {"decay_rate": 0.5, "decay_steps": 10, "min_lr": FLOOR},
        lambda optax: warmed(optax, optax.exponential_decay(PEAK, 10, 0.5, end_value=FLOOR)),
    ),
    "step": (
        {"milestones": [20, 41], "gamma": 0.3},
        lambda optax: warmed(
            optax,
            optax.piecewise_constant_schedule(PEAK, {21 - WARMUP: 0.3, 42 - WARMUP: 0.3}),
        ),
    ),
    "constant": ({}, lambda optax: warmed(optax, optax.constant_schedule(PEAK))),
}


@pytest.mark.parametrize("name", PEERS)
def test_against_optax(name):
    optax = pytest.importorskip("optax")
    arguments, peer = PEERS[name]
    ours = rates(create_scheduler(name, PEAK, WARMUP, **arguments))
    theirs = [float(peer(optax)(k)) for k in range(TOTAL + 10)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-9)


def test_one_cycle_against_optax():
    optax = pytest.importorskip("optax")
    rise, total = 19, 61
    peer = optax.cosine_onecycle_schedule(total - 1, PEAK, (rise - 1) / (total - 1), 25.0, 10.0)
    schedule = create_scheduler("one_cycle", PEAK, rise, total, PEAK / 250, div_factor=25.0)
    np.testing.assert_allclose(rates(schedule), [float(peer(k)) for k in range(70)], rtol=2e-5)


def test_restarts_against_optax():
    """Cycles of 8, 16 and 32 updates with peaks 1, ½ and ¼."""
    optax = pytest.importorskip("optax")
    cycles = [(8, 1.0), (16, 0.5), (32, 0.25)]
    peer = optax.join_schedules(
        [optax.cosine_decay_schedule(PEAK * peak, length - 1) for length, peak in cycles], [8, 24]
    )
    schedule = create_scheduler(
        "cosine", PEAK, total_steps=56, num_cycles=3, cycle_growth=2, cycle_decay=0.5
    )
    ours = rates(schedule, 56)
    np.testing.assert_allclose(ours, [float(peer(k)) for k in range(56)], rtol=1e-5, atol=1e-8)
    assert ours[[0, 8, 24]].tolist() == np.float32([PEAK, PEAK / 2, PEAK / 4]).tolist()
    assert ours[[7, 23, 55]].tolist() == [0, 0, 0]


def test_cosine_by_hand():
    schedule = create_scheduler("cosine", 0.1, 2, 6, 0.02)
    halves = [0.5 * (1 + np.cos(np.pi * p)) for p in (0, 0.25, 0.5, 0.75, 1)]
    expected = [0.05, *(0.02 + 0.08 * half for half in halves)]
    np.testing.assert_allclose(rates(schedule, 6), expected, rtol=1e-6)


def test_restarts_after_a_warm_up():
    values = rates(create_scheduler("cosine", 1.0, 3, 12, num_cycles=2), 13)
    cycle = [0.5 * (1 + np.cos(np.pi * p / 4)) for p in range(5)]
    np.testing.assert_allclose(values, [1 / 3, 2 / 3, *cycle, *cycle, 0], atol=1e-6)


def test_the_transformers_schedule():
    """1706.03762, eq. 3: d^-½ min(k^-½, k W^-1.5) for k = 1, 2, ... peaks at d^-½ W^-½."""
    d, warmup = 512, 40
    k = np.arange(1, 200)
    expected = d**-0.5 * np.minimum(k**-0.5, k * warmup**-1.5)
    schedule = create_scheduler("inverse_sqrt", d**-0.5 * warmup**-0.5, warmup)
    np.testing.assert_allclose(rates(schedule, 199), expected, rtol=1e-6)


def test_step_by_hand():
    values = rates(create_scheduler("step", 1.0, 2, step_size=3, gamma=0.5), 9)
    assert values.tolist() == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_a_run_of_one_update_has_the_peak():
    assert rates(create_scheduler("linear", 0.5, 1, 1), 1).tolist() == [0.5]
