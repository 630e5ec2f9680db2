"""Rewards for answers that can be looked up."""

import re

import keras

from artifex_keras.arguments import broken_rule, checked, text
from artifex_keras.rl.rewards import missing_column, rewards_config, rewards_from_config
from artifex_keras.trust import saved_value

__all__ = ["exact_match", "gsm8k_answer"]

register = keras.saving.register_keras_serializable(package="artifex_keras")

NUMBER_AT_THE_END = re.compile(r"####\s*(-?\$?-?(?:\d[\d,]*(?:\.\d+)?|\.\d+))")


@checked()
def exact_match(column="answer", extract=None):
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
def gsm8k_answer(text):
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
