"""An environment whose typed methods are tools, which a policy calls by writing JSON."""

import inspect
import json
import re
import sys
import types
import typing
from typing import Any, Literal, Union

from artifex_keras.arguments import nearest
from artifex_keras.trust import parse_json

__all__ = ["ToolEnvironment"]

BEGIN, END = "<tool_call>", "</tool_call>"
CALL = re.compile(f"{BEGIN}(.*?)(?:{END}|$)", re.DOTALL)
OWN = ("reset", "reward", "respond", "step", "schemas")
KINDS = {str: "string", int: "integer", float: "number", bool: "boolean"}
LARGEST = sys.float_info.max
# What a tool may raise where it can't answer a call; anything else is a fault of its own.
REFUSALS = (ValueError, ArithmeticError, LookupError)


class ToolEnvironment:
    """An environment of tools: an episode goes on as long as the policy calls some.

    A subclass is given to `GRPO(environment=...)` and the other algorithms with environments. Its
    public methods are the tools. Each needs a docstring, and a type for each argument: `str`,
    `int`, `float`, `bool`, `list`, `dict`, `Literal`, or an `Optional` or `list[...]` of these. A
    policy calls one by writing

        <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>

    and reads what it gives as `<tool_response>3</tool_response>`. It may write several calls in a
    turn. A text without a call is its answer, for which `reward` gives the number.

    A call that is no JSON, an unknown name and arguments of another type call nothing: the policy
    reads what is wrong. It reads also the message of a ValueError, ArithmeticError or LookupError
    that a tool raises; other errors are faults of the tool, and end `fit`.

    A model of chats must have read which tools there are: give `schemas()` to its chat template
    when the prompts are made.

    Raises:
        TypeError: when a subclass is defined, for a tool without docstring or types.

    Example:

        ```python
        import artifex_keras as ak


        class Calculator(ak.rl.ToolEnvironment):
            def reset(self, result):
                self.result = result
                return ""

            def add(self, a: float, b: float) -> float:
                "Adds two numbers."
                return a + b

            def reward(self, text):
                return float(text.strip() == self.result)


        game = Calculator()
        game.reset(result="3")
        call = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
        print(game.step(call))  # ('<tool_response>3</tool_response>', 0.0, False)
        print(game.step("3"))  # ('', 1.0, True)
        ```
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name in _tools_of(cls):
            _checked_tool(cls, name)

    def reset(self, **columns: Any) -> str:
        """Begins an episode by the columns of a row; gives the text that follows its prompt."""
        return ""

    def reward(self, text: str) -> float:
        """The reward of an episode that ends with the answer `text`."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method `reward(text)`, which gives the reward of an "
            "episode that ends with this answer."
        )

    def respond(self, results: list[str]) -> str:
        """The text that the policy reads after its calls gave `results`."""
        return "\n".join(f"<tool_response>{result}</tool_response>" for result in results)

    @classmethod
    def schemas(cls) -> list[dict[str, Any]]:
        """What each tool is for and takes, as chat templates and the APIs of language models want
        it: a list of `{"type": "function", "function": {"name", "description", "parameters"}}`."""
        return [_schema_of(cls, name) for name in _tools_of(cls)]

    def step(self, text: str) -> tuple[str, float, bool]:
        """One turn: `(response, 0, False)` for a text with calls, else `("", reward, True)`."""
        if not isinstance(text, str):
            raise TypeError(
                f"{type(self).__name__} reads calls from texts: give the algorithm a `tokenizer`. "
                f"Received: {type(text).__name__}."
            )
        calls = list(CALL.finditer(text))
        if not calls:
            return "", self.reward(text), True
        return self.respond([self._result(call) for call in calls]), 0.0, False

    def _result(self, call):
        """What one call gives, as a text; what is wrong with it otherwise."""
        try:
            name, arguments = _read(call, type(self))
        except _Refused as error:
            return f"Error: {error}"
        try:
            value = getattr(self, name)(**arguments)
        except REFUSALS as error:
            return f"Error: {error}"
        try:
            return value if isinstance(value, str) else json.dumps(value)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"The tool `{name}` of {type(self).__name__} must give a text or what JSON can "
                f"say. Received: {type(value).__name__}."
            ) from error


class _Refused(Exception):
    """What the policy reads about a call that can't be made."""


def _read(call, cls):
    """`(name, arguments)` of a match of `CALL`."""
    if not call[0].endswith(END):
        raise _Refused(f"a call must end with {END}.")
    try:
        found = parse_json(call[1])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise _Refused('a call must be JSON, as {"name": "...", "arguments": {...}}.')
    name, arguments = found["name"], found.get("arguments", {})
    tools = _tools_of(cls)
    if name not in tools:
        raise _Refused(
            f"there is no tool {name!r}.{nearest(name, tools)} There are: {', '.join(tools)}."
        )
    if not isinstance(arguments, dict):
        raise _Refused("`arguments` must be an object, with a value for each argument.")
    return name, _checked_arguments(cls, name, arguments)


def _checked_arguments(cls, name, given):
    parameters = _parameters(cls, name)
    unknown = [each for each in given if each not in parameters]
    missing = [n for n, (_, required) in parameters.items() if required and n not in given]
    if unknown or missing:
        wrong = f"no argument {unknown[0]!r}" if unknown else f"an argument {missing[0]!r}"
        raise _Refused(f"{name} takes {wrong}. It takes: {', '.join(parameters) or 'none'}.")
    for each, value in given.items():
        if not _fits(value, parameters[each][0]):
            rule = json.dumps(_schema(parameters[each][0]))
            raise _Refused(f"{each} of {name} must be {rule}. Received: {json.dumps(value)[:80]}.")
    return given


# Types


def _tools_of(cls):
    """The names of the tools: what a class defines beside the methods of `ToolEnvironment`."""
    names = dict.fromkeys(
        name
        for base in reversed(cls.__mro__)
        if base not in (object, ToolEnvironment)
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType | staticmethod | classmethod)
    )
    return [name for name in names if not name.startswith("_") and name not in OWN]


def _parameters(cls, name):
    """`{argument: (type, whether it is required)}`."""
    tool = getattr(cls, name)
    hints = typing.get_type_hints(tool)
    _, *parameters = inspect.signature(tool).parameters.values()
    return {p.name: (hints.get(p.name), p.default is p.empty) for p in parameters}


def _checked_tool(cls, name):
    """Raises a TypeError for a method that can't be a tool."""
    where = f"The tool `{name}` of {cls.__name__}"
    method = inspect.getattr_static(cls, name)
    if not inspect.isfunction(method) or inspect.iscoroutinefunction(method):
        raise TypeError(
            f"{where} must be a plain method, neither static nor `async`. One that is no tool "
            "begins with an underscore."
        )
    if not inspect.getdoc(getattr(cls, name)):
        raise TypeError(
            f"{where} needs a docstring, by which a policy knows what it is for. A method that is "
            "no tool begins with an underscore."
        )
    _, *parameters = inspect.signature(getattr(cls, name)).parameters.values()
    for p in parameters:
        if p.kind is not p.POSITIONAL_OR_KEYWORD and p.kind is not p.KEYWORD_ONLY:
            raise TypeError(f"{where} must take its arguments by name. Received: {str(p)!r}.")
    for each, (hint, _) in _parameters(cls, name).items():
        try:
            _schema(hint)
        except TypeError:
            raise TypeError(
                f"{where} needs a type for {each!r}: str, int, float, bool, list, dict, Literal, "
                f"or an Optional or list[...] of these. Received: {hint}."
            ) from None


def _schema_of(cls, name):
    parameters = _parameters(cls, name)
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": inspect.getdoc(getattr(cls, name)),
            "parameters": {
                "type": "object",
                "properties": {each: _schema(hint) for each, (hint, _) in parameters.items()},
                "required": [each for each, (_, required) in parameters.items() if required],
            },
        },
    }


def _schema(hint):
    """The JSON schema of a type. Raises a TypeError for one that JSON doesn't have."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in KINDS:
        return {"type": KINDS[hint]}
    if hint is Any:
        return {}
    if hint is type(None):
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(each) for each in inner]}
    if list in (hint, origin):
        return {"type": "array"} | ({"items": _schema(inner[0])} if inner else {})
    if dict in (hint, origin):
        return {"type": "object"} | ({"additionalProperties": _schema(inner[1])} if inner else {})
    raise TypeError


def _fits(value, hint):
    """Whether a value of JSON is of a type; an integer is a float too, and a bool neither."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if hint in (int, float):
        allowed = int if hint is int else (int, float)
        number = isinstance(value, allowed) and not isinstance(value, bool)
        return number and abs(value) <= LARGEST  # NaN isn't
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if not isinstance(value, origin or hint):
        return False
    if origin is list:
        return all(_fits(each, inner[0]) for each in value)
    return origin is not dict or all(_fits(each, inner[1]) for each in value.values())
