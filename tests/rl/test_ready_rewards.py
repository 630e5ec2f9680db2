"""Ready rewards: numbers in solutions, forms of texts, lengths in tokens."""

from fractions import Fraction

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.rl import exact_match, format_match, math_answer, overlong_penalty
from artifex_keras.rl.rewards import Rewards, rewards_config, rewards_from_config

pytestmark = pytest.mark.backends("jax")

HALF = Fraction(1, 2)
SAME = ["0.5", ".5", "1/2", "50%", "50 %", "$0.50", r"\boxed{0.5}", r"so x = \boxed{\frac{1}{2}}"]
SAME += [r"\boxed{\dfrac{2}{4}}.", "3 + 4 is not it. #### 0.50", "first 7, then 2/4"]


@pytest.mark.parametrize("text", SAME)
def test_a_number_is_read_in_each_notation(text):
    assert math_answer(text) == HALF


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 1,234,567", 1234567),
        ("-3", -3),
        (r"\boxed{-\frac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{1} and \boxed{2}", 2),
        (7, 7),
        (0.1, Fraction(1, 10)),
        ("no number", None),
        (r"\boxed{\sqrt{2}}", None),
        (r"\boxed{x + 1}", None),
        ("1/0", None),
        ("9" * 5000, None),
    ],
)
def test_so_are_others_and_what_is_no_number_is_none(text, number):
    assert math_answer(text) == number


def test_mathematical_equality_is_a_reward():
    reward = exact_match(extract=math_answer)
    said = [r"\boxed{0.25}", "25 %", "about 0.3", "nothing"]
    assert reward([""] * 4, said, answer=["1/4"] * 4) == [1.0, 1.0, 0.0, 0.0]


def test_a_form_covers_the_whole_completion():
    reward = format_match(r"<think>.*</think>\s*<answer>.*</answer>")
    said = ["<think>a\nb</think>\n<answer>7</answer>", "<answer>7</answer>", " <think></think>"]
    assert reward([""] * 3, said) == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="`tokenizer`"):
        reward([""], [[1, 2]])
    with pytest.raises(ValueError, match=r"`pattern` must be a regular expression.*'\('"):
        format_match("(")


def test_the_penalty_grows_over_the_last_tokens():
    """DAPO equation 13 with m = 5, c = 2: lengths 2 to 6."""
    mask = np.arange(6) < np.arange(2, 7)[:, None]
    reward = overlong_penalty(5, 2)
    found = ops.convert_to_numpy(reward(None, None, mask))
    np.testing.assert_allclose(found, [0.0, 0.0, -0.5, -1.0, -1.0])
    assert not Rewards(reward).on_host
    with pytest.raises(ValueError, match="at most `max_tokens`"):
        overlong_penalty(2, 3)


@pytest.mark.parametrize("reward", [format_match("a+"), overlong_penalty(5, 2)])
def test_they_are_saved(reward):
    loaded = rewards_from_config(rewards_config(reward))
    assert loaded.get_config() == reward.get_config()
    assert keras.saving.get_registered_name(type(loaded)).startswith("artifex_keras>")
