"""Rewards for answers that can be looked up."""

import fractions
import re
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from artifex_keras.arguments import broken_rule, checked, integer, text
from artifex_keras.rl.reward_function import missing_column
from artifex_keras.rl.rewards import rewards_config, rewards_from_config
from artifex_keras.trust import saved_value

__all__ = ["exact_match", "format_match", "gsm8k_answer", "math_answer", "overlong_penalty"]

register = keras.saving.register_keras_serializable(package="artifex_keras")

NUMBER_AT_THE_END = re.compile(r"####\s*(-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+))")


@checked()
def exact_match(column: str = "answer", extract: Callable[[str], Any] | None = None):
    """A reward that is 1 where a completion gives the answer of its row, else 0.

    Args:
        column: the column with the answers; a row without one, None, isn't judged.
        extract: gives what is compared from a completion and from an answer, for example
            `gsm8k_answer`, None where it finds nothing. By default the whole text, without the
            white space around it. A function that is registered with Keras is saved.

    Raises:
        ValueError: when called without that column, or for an answer that `extract` finds nothing
            in.

    Example:

        ```python
        from artifex_keras.rl import exact_match

        reward = exact_match()
        assert reward(["1+1=", "1+2="], ["2", "5"], answer=["2", "3"]) == [1.0, 0.0]
        ```
    """
    return ExactMatch(column, extract)


@register
def gsm8k_answer(text: str) -> float | None:
    """The number after the first ``####`` as a float, None without one; a number is itself.

    It may have a minus, a dollar sign and commas between its digits, as in GSM8K (2110.14168).

    Example:

        ```python
        from artifex_keras.rl import gsm8k_answer

        assert gsm8k_answer("She pays 6 * 2. #### $1,200") == 1200.0
        ```
    """
    if not isinstance(text, str):
        return float(text)
    found = NUMBER_AT_THE_END.search(text)
    return None if found is None else float(re.sub(r"[$,]", "", found.group(1)))


BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
FRACTION = re.compile(r"(-?)\s*\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(-?\d+)\s*\}")
NUMBER = re.compile(r"-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?\s*%?")
LONGEST = 400  # digits of a number


@register
def math_answer(text: str):
    """The number that a solution ends in, as an exact `fractions.Fraction`; None without one.

    It is what stands in the last ``\\boxed{...}``, else behind ``####``, else the last number:
    with commas, a dollar sign, a percent sign, as a fraction ``1/2`` or ``\\frac{1}{2}``. So
    "1/2", ".5", "50%" and "\\boxed{\\frac{1}{2}}" are equal. Roots and letters are no numbers.

    Example:

        ```python
        from artifex_keras.rl import exact_match, math_answer

        reward = exact_match(extract=math_answer)
        assert reward(["1/4+1/4="], [r"It is \\boxed{\\frac{2}{4}}"], answer=["0.5"]) == [1.0]
        ```
    """
    if not isinstance(text, str):
        return fractions.Fraction(float(text)).limit_denominator(10**9)
    boxed = BOXED.findall(text)
    place = boxed[-1] if boxed else text.rpartition("####")[2]
    place = FRACTION.sub(r"\1\2/\3", place).replace("$", "")
    found = NUMBER.findall(place)
    if not found or (boxed and NUMBER.fullmatch(place.strip()) is None):
        return None
    return _fraction(found[-1])


def _fraction(number):
    """A number of `NUMBER` as a fraction; None for one that divides by 0 or has no end."""
    percent, number = number.endswith("%"), number.rstrip("% ").replace(",", "")
    top, _, bottom = number.partition("/")
    if len(number) > LONGEST or (bottom and not int(bottom)):
        return None
    return fractions.Fraction(top.strip()) / int(bottom or 1) / (100 if percent else 1)


@checked()
def format_match(pattern):
    """A reward that is 1 where the whole completion has a form, else 0.

    Args:
        pattern: a regular expression, in which `.` is any character, ends of lines too. Nested
            repetitions such as `(a+)+` can take for ever on a long completion: avoid them.

    Raises:
        ValueError: for what is no regular expression.

    Example:

        ```python
        from artifex_keras.rl import format_match

        reward = format_match(r"<think>.*</think>\\s*<answer>.*</answer>\\s*")
        said = ["<think>3 and 4</think> <answer>7</answer>", "7"]
        assert reward(["3+4=", "3+4="], said) == [1.0, 0.0]
        ```
    """
    return FormatMatch(pattern)


@checked()
def overlong_penalty(max_tokens, soft_tokens):
    """A reward that is 0 for short completions, and falls to -1 for those that are too long (DAPO,
    2503.14476 equation 13): with L the tokens of a completion, m = `max_tokens`, c = `soft_tokens`

        0 up to m - c,    ((m - c) - L) / c up to m,    -1 beyond.

    It counts tokens, on the device. Give it beside other rewards: `GRPO(policy, [correct,
    overlong_penalty(256, 64)])`.

    Raises:
        ValueError: unless 0 < `soft_tokens` ≤ `max_tokens`.

    Example:

        ```python
        import numpy as np
        from artifex_keras.rl import overlong_penalty

        mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], "float32")
        print(overlong_penalty(4, 2)(None, np.zeros((3, 4)), mask))  # [0, -0.5, -1]
        ```
    """
    return OverlongPenalty(max_tokens, soft_tokens)


@register
class FormatMatch:
    """The reward of `format_match`."""

    def __init__(self, pattern):
        self.__name__, self.pattern = "format_match", text("pattern", pattern)
        try:
            self.form = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise broken_rule("pattern", pattern, f"a regular expression ({error})") from None

    def __call__(self, prompts, completions):
        for row, completion in enumerate(completions):
            if not isinstance(completion, str):
                raise ValueError(
                    "`format_match` reads texts: give the algorithm a `tokenizer`. Received: "
                    f"{type(completion).__name__} in row {row}."
                )
        return [float(self.form.fullmatch(completion) is not None) for completion in completions]

    def get_config(self):
        return {"pattern": self.pattern}

    @classmethod
    def from_config(cls, config):
        return cls(saved_value(cls, config, "pattern", str))


@register
class OverlongPenalty:
    """The reward of `overlong_penalty`."""

    _traceable = True

    def __init__(self, max_tokens, soft_tokens):
        self.__name__ = "overlong_penalty"
        self.max_tokens = integer("max_tokens", max_tokens, minimum=1)
        self.soft_tokens = integer("soft_tokens", soft_tokens, minimum=1)
        if soft_tokens > max_tokens:
            raise ValueError(
                "`soft_tokens` must be at most `max_tokens`: the penalty grows over the last ones. "
                f"Received: soft_tokens={soft_tokens}, max_tokens={max_tokens}."
            )

    def __call__(self, prompts, completions, completion_mask):
        length = ops.sum(ops.cast(completion_mask, "float32"), axis=1)
        free = self.max_tokens - self.soft_tokens
        return ops.clip((free - length) / self.soft_tokens, -1.0, 0.0)

    def get_config(self):
        return {"max_tokens": self.max_tokens, "soft_tokens": self.soft_tokens}

    @classmethod
    def from_config(cls, config):
        return cls(*(saved_value(cls, config, name, int) for name in ("max_tokens", "soft_tokens")))


@register
class ExactMatch:
    """The reward of `exact_match`."""

    def __init__(self, column="answer", extract=None):
        column = text("column", column)
        if extract is not None and not callable(extract):
            raise broken_rule("extract", extract, "a function or None")
        self.__name__ = "exact_match"
        self.column, self.extract = column, extract

    def __call__(self, prompts, completions, **columns):
        if self.column not in columns:
            raise ValueError(missing_column(self.__name__, self.column, columns))
        answers = columns[self.column]
        pairs = zip(completions, answers, strict=True)
        return [self._match(row, *pair) for row, pair in enumerate(pairs)]

    def _match(self, row, completion, answer):
        if answer is None:
            return None
        extract = self.extract or _stripped
        expected = extract(answer)
        if expected is None:
            raise ValueError(
                f"`extract` must find something in each answer. Received: {answer!r} in row {row} "
                f"of column {self.column!r}. Put None where there is no answer."
            )
        return float(extract(completion) == expected)

    def get_config(self):
        extract = rewards_config(self.extract)
        if self.extract is not None and extract is None:
            raise NotImplementedError(f"`extract` isn't registered with Keras: {self.extract!r}.")
        return {"column": self.column, "extract": extract}

    @classmethod
    def from_config(cls, config):
        extract = rewards_from_config(config.get("extract"))
        return cls(saved_value(cls, config, "column", str), extract)


def _stripped(value):
    return str(value.tolist() if hasattr(value, "tolist") else value).strip()
