"""Every example in a docstring of a public name runs as it stands.

An example is a fenced block of Python. Each runs alone, in an empty folder.
"""

import importlib
import inspect
import pkgutil
import re
import textwrap

import keras
import pytest

import artifex_keras

if keras.config.backend() != "jax":  # some modules are for JAX alone
    pytest.skip("the examples run on JAX", allow_module_level=True)

BLOCK = re.compile(r"^[ ]*```python\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
# Reads a framework, or begins to run, when it is imported.
NOT_IMPORTED = ("__main__", "tensorflow", "torch")


def modules():
    for found in pkgutil.walk_packages(artifex_keras.__path__, "artifex_keras."):
        if not any(part in NOT_IMPORTED for part in found.name.split(".")):
            yield importlib.import_module(found.name)


def documented():
    """(name, docstring) of each public class, function and method of ours, once."""
    seen = set()
    for module in [artifex_keras, *modules()]:
        yield module.__name__, module.__doc__
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if id(thing) in seen or not str(getattr(thing, "__module__", "")).startswith("artifex"):
                continue
            seen.add(id(thing))
            yield name, thing.__doc__
            for method, value in vars(thing).items() if inspect.isclass(thing) else ():
                if not method.startswith("_") and not inspect.isclass(value):
                    yield f"{name}.{method}", getattr(value, "__doc__", None)


def examples():
    for name, text in documented():
        for number, block in enumerate(BLOCK.findall(text or "")):
            label = name if number == 0 else f"{name}-{number}"
            yield pytest.param(textwrap.dedent(block), id=label)


@pytest.mark.parametrize("source", list(examples()))
def test_the_example_runs(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(source, "example", "exec"), {"__name__": "example"})
