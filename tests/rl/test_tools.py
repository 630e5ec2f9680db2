"""An environment of typed methods: what a policy may call, what it reads, and what is refused."""

from typing import Literal

import keras
import numpy as np
import pytest

from artifex_keras import create_optimizer, networks
from artifex_keras.rl import GRPO, ToolEnvironment

pytestmark = pytest.mark.backends("jax")


class Desk(ToolEnvironment):
    def reset(self, result="3"):
        self.result = result
        return ""

    def add(self, a: float, b: float = 1) -> float:
        """Adds two numbers."""
        return a + b

    def divide(self, a: int, b: int):
        """Divides."""
        return a / b

    def names(self, of: list[str], case: Literal["upper", "lower"] | None = None):
        """Gives names."""
        return {"names": of, "case": case}

    def broken(self):
        """Has a fault of its own."""
        return self.nothing

    def array(self):
        """Gives what JSON has no word for."""
        return np.zeros(2)

    def _helper(self):
        raise AssertionError("no tool")

    def reward(self, text):
        return float(text.strip() == self.result)


def call(name, arguments="{}"):
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


def response(text):
    return f"<tool_response>{text}</tool_response>"


def test_calls_are_made_and_an_answer_ends_the_episode():
    desk = Desk()
    assert desk.reset(result="7") == ""
    said = "I add. " + call("add", '{"a": 1, "b": 2}')
    assert desk.step(said) == (response(3), 0.0, False)
    two = call("add", '{"a": 2.5}') + "\n" + call("names", '{"of": ["x"], "case": "upper"}')
    wanted = response(3.5) + "\n" + response('{"names": ["x"], "case": "upper"}')
    assert desk.step(two) == (wanted, 0.0, False)
    assert desk.step(" 7 ") == ("", 1.0, True)
    assert desk.step("8") == ("", 0.0, True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (call("ad"), "there is no tool 'ad'. Did you mean 'add'? There are: add, divide, names,"),
        (call("_helper"), "there is no tool '_helper'."),
        (call("reset"), "there is no tool 'reset'."),
        (call("__init__"), "there is no tool '__init__'."),
        (call("add", '{"b": 1}'), "add takes an argument 'a'. It takes: a, b."),
        (call("add", '{"a": 1, "c": 1}'), "add takes no argument 'c'. It takes: a, b."),
        (call("add", '{"a": "1"}'), 'a of add must be {"type": "number"}. Received: "1".'),
        (call("add", '{"a": true}'), 'a of add must be {"type": "number"}. Received: true.'),
        (call("add", '{"a": NaN}'), 'a of add must be {"type": "number"}. Received: NaN.'),
        (call("divide", '{"a": 1.5, "b": 1}'), 'a of divide must be {"type": "integer"}.'),
        (call("divide", '{"a": 1, "b": 0}'), "division by zero"),
        (call("names", '{"of": [1]}'), 'of of names must be {"type": "array", "items": {"type"'),
        (call("names", '{"of": [], "case": "Upper"}'), "case of names must be"),
        (call("add", "[1, 2]"), "`arguments` must be an object"),
        ("<tool_call>add(1, 2)</tool_call>", "a call must be JSON, as"),
        ("<tool_call>[]</tool_call>", "a call must be JSON, as"),
        (f"<tool_call>{'[' * 100_000}</tool_call>", "a call must be JSON, as"),
        ('<tool_call>{"name": "add"', "a call must end with </tool_call>."),
    ],
)
def test_a_call_that_cannot_be_made_is_answered(text, says):
    answer, reward, done = Desk().step(text)
    assert answer.startswith(f"<tool_response>Error: {says}")
    assert (reward, done) == (0.0, False)


def test_a_fault_of_the_tool_is_raised():
    with pytest.raises(AttributeError, match="nothing"):
        Desk().step(call("broken"))
    with pytest.raises(TypeError, match="The tool `array` of Desk must give a text.*ndarray"):
        Desk().step(call("array"))
    with pytest.raises(TypeError, match="give the algorithm a `tokenizer`. Received: list"):
        Desk().step([1, 2])
    with pytest.raises(NotImplementedError, match=r"needs a method `reward\(text\)`"):
        ToolEnvironment().step("3")


def test_schemas_are_those_of_chat_templates():
    add, _, names, broken, _ = Desk.schemas()
    assert add == {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a"],
            },
        },
    }
    assert names["function"]["parameters"]["properties"] == {
        "of": {"type": "array", "items": {"type": "string"}},
        "case": {"anyOf": [{"enum": ["upper", "lower"]}, {"type": "null"}]},
    }
    assert broken["function"]["parameters"] == {"type": "object", "properties": {}, "required": []}


def without_docstring(self, a: int):
    return a


def without_type(self, a):
    """Has no type."""


def of_bytes(self, a: bytes):
    """JSON has none."""


async def of_later(self):
    """Is called by none that waits."""


def of_many(self, *values: int):
    """Takes any number."""


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (without_docstring, "needs a docstring"),
        (without_type, "needs a type for 'a'"),
        (of_bytes, "needs a type for 'a'.*Received: <class 'bytes'>"),
        (of_many, r"must take its arguments by name. Received: '\*values: int'"),
        (staticmethod(of_bytes), "must be a plain method"),
        (of_later, "must be a plain method, neither static nor `async`"),
    ],
)
def test_a_method_that_can_be_no_tool_is_refused_where_it_is_defined(method, says):
    with pytest.raises(TypeError, match=says):
        type("Wrong", (ToolEnvironment,), {"tool": method})


class Secret(ToolEnvironment):
    """A digit that only `look` shows."""

    def reset(self, digit):
        self.digit = digit
        return ""

    def look(self) -> str:
        """Shows the digit."""
        return self.digit

    def respond(self, results):
        return results[0][:1]

    def reward(self, text):
        return float(text == self.digit)


class Words:
    """Digits, and a whole call as one token."""

    words = ("?", "1", "2", "3", call("look"))

    def encode(self, text):
        return [self.words.index(character) for character in text]

    def decode(self, ids):
        return "".join(self.words[i] for i in ids)


@pytest.mark.slow
def test_a_policy_learns_to_call_a_tool_and_to_read_what_it_gives():
    """Without a call one answer of three is right at best."""
    keras.utils.set_random_seed(0)
    policy = networks.CausalTransformer(5, 6, num_layers=1, num_heads=2, width=32)
    options = {"environment": Secret, "max_turns": 2, "max_new_tokens": 1, "tokenizer": Words()}
    model = GRPO(policy, num_generations=16, seed=0, **options)
    model.compile(create_optimizer("adamw", 3e-3))
    rows = [{"prompt": "?", "digit": str(n)} for n in (1, 2, 3)] * 4
    history = model.fit(rows, batch_size=12, epochs=150, verbose=0).history
    assert history["reward"][0] < 0.35 and np.mean(history["reward"][-10:]) > 0.95
    assert np.mean(history["turns"][-10:]) > 1.95
