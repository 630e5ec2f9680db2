"""What is taken for a number, an integer, a share, a seed, a name, and what is refused, and how."""

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras import arguments

NO_NUMBERS = ("1", "adam", None, True, np.True_, [1.0], {}, np.ones(2), 1j, np.nan, np.inf, -np.inf)
ONES = (1, 1.0, np.int8(1), np.uint64(1), np.float16(1), np.float32(1), np.array(1.0))
WHOLE = (1, np.int8(1), np.uint64(1), np.array(1))


@pytest.mark.parametrize("value", ONES, ids=repr)
def test_numbers_of_python_and_numpy_are_numbers(value):
    assert arguments.number("x", value) == 1.0
    assert type(arguments.number("x", value)) is float


def test_a_tensor_or_variable_without_axes_is_a_number():
    for value in (ops.convert_to_tensor(0.5), keras.Variable(0.5)):
        assert arguments.number("x", value) == 0.5
    assert arguments.integer("n", ops.convert_to_tensor(3)) == 3


@pytest.mark.parametrize("value", (*NO_NUMBERS, 10**400, -(10**400)), ids=lambda v: repr(v)[:20])
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(ValueError, match="`x` must be a finite number. Received: x="):
        arguments.number("x", value)


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "rule"),
    [
        ({"minimum": 0.0}, (0, 7), (-1e-9,), "at least 0.0"),
        ({"above": 0}, (1e-9, 7), (0, -1), "greater than 0"),
        ({"maximum": 2}, (2, -7), (2.1,), "at most 2"),
        ({"below": 2}, (1.9, -7), (2,), "less than 2"),
        ({"minimum": 0, "maximum": 1}, (0, 1), (-0.1, 1.1), "in [0, 1]"),
        ({"minimum": 0, "below": 1}, (0, 0.999), (-0.1, 1), "in [0, 1)"),
        ({"above": 0, "maximum": 1}, (0.1, 1), (0, 1.1), "in (0, 1]"),
        ({"above": 0, "below": 1}, (0.1,), (0, 1), "in (0, 1)"),
    ],
)
def test_bounds_of_a_number(bounds, good, bad, rule):
    for value in good:
        assert arguments.number("x", value, **bounds) == value
    for value in bad:
        with pytest.raises(ValueError) as error:
            arguments.number("x", value, **bounds)
        assert str(error.value) == f"`x` must be {rule}. Received: x={value}."


@pytest.mark.parametrize("value", WHOLE, ids=repr)
def test_integers_of_python_and_numpy_are_integers(value):
    assert arguments.integer("n", value, minimum=1) == 1
    assert type(arguments.integer("n", value)) is int


@pytest.mark.parametrize("value", (*NO_NUMBERS, 2.0, 2.5, np.float32(2), -1), ids=repr)
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ValueError, match="`n` must be an integer of at least 0. Received: n="):
        arguments.integer("n", value)


def test_bounds_of_an_integer():
    assert arguments.integer("n", 2, minimum=2, maximum=500) == 2
    with pytest.raises(ValueError, match="an integer from 2 to 500. Received: n=501"):
        arguments.integer("n", 501, minimum=2, maximum=500)
    assert arguments.integer("n", 2**63 - 1) == 2**63 - 1
    with pytest.raises(ValueError, match="an integer of at least 1 that 64 bits hold"):
        arguments.integer("n", 2**63, minimum=1)


@pytest.mark.parametrize("digits", (400, 10_000))
def test_a_huge_integer_is_named_by_its_size(digits):
    for check in (arguments.integer, arguments.number, arguments.random_seed):
        with pytest.raises(ValueError, match=r"Received: n=an integer of \d+ bits\."):
            check("n", 10**digits)


def test_optional_arguments_may_be_none():
    assert arguments.integer("n", None, optional=True) is None
    assert arguments.number("x", None, above=0, optional=True) is None
    with pytest.raises(ValueError, match="an integer of at least 1 or None. Received: n=0"):
        arguments.integer("n", 0, minimum=1, optional=True)
    with pytest.raises(ValueError, match="greater than 0 or None. Received: x=0"):
        arguments.number("x", 0, above=0, optional=True)
    with pytest.raises(ValueError, match="a finite number or None. Received: x='1'"):
        arguments.number("x", "1", optional=True)


def test_a_share_is_a_number_from_0_to_1():
    assert [arguments.share("p", value) for value in (0, 0.5, 1)] == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match=r"`p` must be in \[0, 1\]. Received: p=1.5"):
        arguments.share("p", 1.5)


def test_a_decay_is_none_or_below_1():
    assert arguments.decay("ema_decay", None) is None
    assert arguments.decay("ema_decay", 0.999) == 0.999
    with pytest.raises(ValueError, match=r"`ema_decay` must be in \[0, 1\) or None. Rec.*=1"):
        arguments.decay("ema_decay", 1)
    with pytest.raises(ValueError, match="`ema_decay` must be a finite number or None"):
        arguments.decay("ema_decay", "none")


def test_a_seed_is_none_or_an_integer_of_31_bits():
    assert arguments.random_seed("seed", None) is None
    assert arguments.random_seed("seed", np.int64(7)) == 7
    for value in ("x", 1.0, True):
        with pytest.raises(ValueError, match="`seed` must be an integer or None"):
            arguments.random_seed("seed", value)
    for value in (-1, 2**31 - 1):
        with pytest.raises(ValueError, match=r"`seed` must be in \[0, 2\*\*31 - 1\)"):
            arguments.random_seed("seed", value)


def test_a_boolean_is_true_or_false():
    assert arguments.boolean("flag", np.True_) is True
    for value in (0, 1, "yes", None, 1.0):
        with pytest.raises(ValueError, match="`flag` must be True or False. Received: flag="):
            arguments.boolean("flag", value)


def test_a_choice_is_one_of_those_listed():
    assert arguments.choice("verbose", 1, ("auto", 0, 1, 2)) == 1
    for value in (True, False, 3, "1", np.ones(2), None):
        with pytest.raises(ValueError, match="`verbose` must be 'auto', 0, 1 or 2. Received"):
            arguments.choice("verbose", value, ("auto", 0, 1, 2))
    with pytest.raises(ValueError, match="Received: kl_in='rewards'. Did you mean 'reward'?"):
        arguments.choice("kl_in", "rewards", ("loss", "reward"))


def test_a_lookup_gives_the_row_or_the_nearest_names():
    table = {"euler": 1, "heun": 2}
    assert arguments.lookup(table, "heun", "solver") == 2
    with pytest.raises(ValueError, match="Unknown solver 'eular'. Did you mean 'euler'. Choices"):
        arguments.lookup(table, "eular", "solver")
    for name in (None, 3, ["heun"], {}):
        with pytest.raises(ValueError, match="Unknown solver .* Choices: euler, heun."):
            arguments.lookup(table, name, "solver")
    assert arguments.known_name("heun", table, "solver") == "heun"


def test_forbidden_arguments_are_named_with_the_reason():
    arguments.forbid_arguments({"a": 1}, ("b",), "why")
    with pytest.raises(ValueError, match="`a` is of no use here: see `b`. Received: 1."):
        arguments.forbid_arguments({"a": 1}, ("a",), "see `b`")


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ValueError) as error:
        arguments.number("x", "y" * 10_000)
    assert len(str(error.value)) < 300
