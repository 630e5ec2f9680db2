"""What every schedule keeps, on a table of them, and what the factory refuses."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import schedulers
from artifex_keras.schedulers import create_scheduler

PEAK, WARMUP, TOTAL, FLOOR = 0.02, 7, 60, 0.001
BOUNDED = {"total_steps": TOTAL, "min_lr": FLOOR}

# name -> (arguments, its rate at the last update of TOTAL)
ROWS = {
    "constant": ({}, PEAK),
    "cosine": (BOUNDED, FLOOR),
    "linear": (BOUNDED, FLOOR),
    "polynomial": (dict(BOUNDED, power=3), FLOOR),
    "one_cycle": (BOUNDED, FLOOR),
    "exponential": ({"decay_rate": 0.5, "decay_steps": 10, "min_lr": FLOOR}, None),
    "step": ({"step_size": 10, "gamma": 0.5, "min_lr": FLOOR}, None),
    "inverse_sqrt": ({"min_lr": FLOOR}, None),
}


def made(name, warmup_steps=WARMUP, **changes):
    return create_scheduler(name, PEAK, warmup_steps, **dict(ROWS[name][0], **changes))


def rates(schedule, updates=TOTAL):
    return np.array([float(ops.convert_to_numpy(schedule(k))) for k in range(updates)])


def test_the_table_is_complete():
    assert set(ROWS) == set(schedulers.SCHEDULES)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("warmup_steps", [0, 1, 2, WARMUP])
def test_warm_up_reaches_the_peak_and_the_decay_takes_over(name, warmup_steps):
    schedule = made(name, warmup_steps)
    values = rates(schedule)
    peak = int(np.argmax(values))
    assert values[peak] == np.float32(PEAK)  # exactly
    assert values.min() > 0 and values.max() <= np.float32(PEAK)
    assert np.all(np.diff(values[peak:]) <= 0)
    if name == "one_cycle":
        assert peak == (warmup_steps or 18) - 1
        assert np.all(np.diff(values[: peak + 1]) > 0)
        return
    assert peak == max(warmup_steps - 1, 0)
    line = PEAK * (np.arange(warmup_steps) + 1) / max(warmup_steps, 1)
    np.testing.assert_allclose(values[:warmup_steps], line, rtol=2e-7)
    # After the peak comes the decay as it is without a warm-up: no step is lost or doubled.
    if name == "inverse_sqrt":
        alone = made(name, 0, timescale=max(warmup_steps, 1))
    elif "total_steps" in ROWS[name][0]:
        alone = made(name, 0, total_steps=TOTAL - peak)
    else:
        alone = made(name, 0)
    np.testing.assert_allclose(values[peak:], rates(alone, TOTAL - peak), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROWS if name != "step"])
def test_no_jump(name):
    """The line before the peak and the decay after it meet: no update jumps by more than a
    warm-up step, or by more than half of the rate."""
    values = rates(made(name, 20))
    assert np.all(np.abs(np.diff(values)) <= max(PEAK / 20, 0.08 * PEAK) * 1.001)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[1] is not None])
@pytest.mark.parametrize("warmup_steps", [0, WARMUP])
def test_the_last_update_has_the_last_rate_and_keeps_it(name, warmup_steps):
    values = rates(made(name, warmup_steps), TOTAL + 20)
    assert np.all(values[TOTAL - 1 :] == np.float32(ROWS[name][1]))
    if ROWS[name][1] == FLOOR:
        assert values[TOTAL - 2] > np.float32(FLOOR)


@pytest.mark.parametrize("name", ["exponential", "step", "inverse_sqrt"])
def test_an_endless_schedule_stops_at_its_floor(name):
    schedule = made(name)
    assert float(ops.convert_to_numpy(schedule(10**6))) == np.float32(FLOOR)


@pytest.mark.parametrize("name", ROWS)
def test_saved_and_loaded(name):
    schedule = made(name)
    config = keras.optimizers.schedules.serialize(schedule)
    assert config["registered_name"].startswith("artifex_keras>")
    loaded = keras.optimizers.schedules.deserialize(config)
    assert type(loaded) is type(schedule)
    assert loaded.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(loaded), rates(schedule))


@pytest.mark.parametrize("name", ROWS)
def test_of_many_updates_at_once_as_of_each(name):
    schedule = made(name)
    at_once = ops.convert_to_numpy(schedule(np.arange(TOTAL)))
    np.testing.assert_allclose(at_once, rates(schedule), rtol=1e-6)
    assert at_once.dtype == np.float32


@pytest.mark.parametrize("name", ROWS)
def test_the_optimizer_uses_schedule_of_k_for_update_k(name, backend):
    """In a compiled step too: a Keras fit of plain gradient descent on the loss w moves by the
    rate of each update."""
    schedule = made(name)
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(optimizer=keras.optimizers.SGD(schedule), loss=lambda y, y_pred: y_pred)
    moved, before = [], 0.0
    for _ in range(12):
        model.train_on_batch(np.ones((1, 1)), np.ones((1, 1)))
        after = float(ops.convert_to_numpy(layer.kernel)[0, 0])
        moved.append(before - after)
        before = after
    np.testing.assert_allclose(moved, rates(schedule, 12), rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("cosin",), "Did you mean 'cosine'"),
        (("constant", 1e-3, 0, 100), "`total_steps` is of no use to the 'constant'"),
        (("constant", 1e-3, 0, None, 1e-5), "`min_lr` is of no use"),
        (("cosine",), "`total_steps`, the length of the run"),
        (("cosine", 1e-3, 101, 100), "`warmup_steps` must not exceed"),
        (("cosine", 1e-3, -1, 100), "`warmup_steps` must be an integer of at least 0"),
        (("cosine", 1e-3, 2.5, 100), "`warmup_steps` must be an integer"),
        (("linear", 1e-3, 0, 0), "`total_steps` must be an integer of at least 1"),
        (("linear", -1e-3, 0, 10), "`learning_rate` must be at least 0"),
        (("linear", "fast", 0, 10), "`learning_rate` must be a finite number"),
        (("linear", 1e-3, 0, 10, 1e-2), "`min_lr` must not exceed"),
        (("step", 1e-3), "One of `step_size` and `milestones`"),
    ],
)
def test_bad_input(arguments, said):
    with pytest.raises(ValueError, match=said):
        create_scheduler(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("linear", {"total_steps": 9, "power": 2}, "`power` is of no use to the 'linear'"),
        ("exponential", {"decay_rate": 1.5}, "`decay_rate` must be in"),
        ("exponential", {"decay_steps": 0}, "`decay_steps` must be greater than 0"),
        ("step", {"step_size": 3, "gamma": 2.0}, "`gamma` must be in"),
        (
            "step",
            {"milestones": [3], "warmup_steps": 5},
            "`milestones` must be an integer of at least 5",
        ),
        ("cosine", {"total_steps": 10, "num_cycles": 9}, "Each cycle needs at least 2 updates"),
        ("inverse_sqrt", {"timescale": 0}, "`timescale` must be greater than 0"),
        ("one_cycle", {"total_steps": 9, "div_factor": 0.5}, "`div_factor` must be at least 1"),
    ],
)
def test_bad_arguments_of_one_schedule(name, arguments, said):
    with pytest.raises(ValueError, match=said):
        create_scheduler(name, **arguments)


def test_arguments_that_are_none_are_not_given():
    assert create_scheduler("constant", total_steps=None, power=None).get_config() == {
        "learning_rate": 1e-3,
        "warmup_steps": 0,
    }
    assert "num_cycles" in schedulers.schedule_arguments("cosine")
