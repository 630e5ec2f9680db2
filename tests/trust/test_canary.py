"""No config runs code: every class with a `from_config`, every key, every way that we know.

Classes are found, not listed: one that is added later is tested by itself, with its own config
where a row of the tables holds it or it can be made without arguments, else with its arguments.
"""

import contextlib
import copy
import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import sys
import types
import warnings
import zipfile
from pathlib import Path

import keras
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES

import artifex_keras as ak
from artifex_keras.gradient_accumulation import GradientAccumulation
from artifex_keras.networks import bijections
from artifex_keras.networks.rows import RowDense
from artifex_keras.networks.spectral import SpectralNormalization
from artifex_keras.optimizers.group import OptimizerGroup
from artifex_keras.optimizers.lazy import StretchedSchedule
from artifex_keras.schedulers.paced import PacedSchedule

pytestmark = pytest.mark.backends("jax")
PREFIX = "artifex_keras>"
ROOMS = sorted(path.stem for path in Path(ak.__file__).parent.iterdir())
REFUSALS = (ValueError, TypeError, FileNotFoundError)


@pytest.fixture(scope="module")
def canary(tmp_path_factory):
    """A module whose import, functions and classes leave a mark: the file that this gives."""
    folder = tmp_path_factory.mktemp("canary")
    mark = folder / "MARK"
    body = f"import pathlib\ndef sing(*a, **k):\n    pathlib.Path({str(mark)!r}).touch()\nsing()\n"
    body += "class Bird:\n    __init__ = sing\n    from_config = classmethod(sing)\n"
    (folder / "canary.py").write_text(body)
    sys.path.insert(0, str(folder))
    hostile()  # Keras calls the lambda when it makes a model of it
    forget(mark)
    yield mark
    sys.path.remove(str(folder))
    sys.modules.pop("canary", None)


def saved(name, module, config=None, kind="function"):
    """What Keras writes for a function, or for an object of a class."""
    if kind == "function":
        return {"class_name": kind, "config": name, "module": module, "registered_name": name}
    return {"class_name": name, "config": config, "module": module, "registered_name": name}


@functools.cache
def hostile():
    """Serialised canaries by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras: a lambda can run code
        return _hostile()


def _hostile():
    song = lambda *x: __import__("canary").sing()  # noqa: E731
    layer = keras.layers.Lambda(song)
    within = keras.saving.serialize_keras_object(keras.Sequential([keras.Input((2,)), layer]))
    return {
        "function": saved("sing", "canary"),
        "object": saved("Bird", "canary", {}, "object"),
        "lambda": keras.saving.serialize_keras_object(song),
        "Lambda layer": keras.saving.serialize_keras_object(layer),
        "Lambda layer within": within,
        "os": saved("system", "os"),
        "builtins": saved("eval", "builtins"),
        "partial": saved("partial", "functools", {"func": saved("sing", "canary")}, "object"),
        "unsafe": saved("enable_unsafe_deserialization", "keras.config"),
    }


def forget(mark):
    mark.unlink()
    del sys.modules["canary"]


def test_the_canary_sings(canary):
    """Where it is let, and when its module is imported."""
    keras.saving.deserialize_keras_object(hostile()["lambda"], safe_mode=False)()
    forget(canary)
    importlib.import_module("canary")
    forget(canary)


@functools.cache
def classes():
    """All classes of the package with a `from_config`, by name."""
    for module in pkgutil.walk_packages(ak.__path__, "artifex_keras."):
        if "backend" not in module.name and "__main__" not in module.name:
            importlib.import_module(module.name)
    found = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("artifex_keras"):
            for value in vars(module).values():
                own = isinstance(value, type) and value.__module__.startswith("artifex_keras")
                if own and hasattr(value, "from_config"):
                    found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


@functools.cache
def configs():
    """Real configs by class, the shortest of each: of the models in the tables and all in them."""
    found = {}
    for row in (*FAMILIES, *ALGORITHMS):
        _collect(keras.saving.serialize_keras_object(row.make()), found)
    for value in others():
        _collect(keras.saving.serialize_keras_object(value), found)
    return found


def others():
    """Objects that no model of the tables holds."""
    rate, dense = ak.schedulers.CosineSchedule(0.1, 10), keras.layers.Dense(2)
    sgd = keras.optimizers.SGD(rate)
    affine = bijections.Affine()
    yield from (ak.OptaxOptimizer("sgd", learning_rate=rate), GradientAccumulation(sgd, 2))
    yield from (OptimizerGroup({"a": sgd}), PacedSchedule(rate, 2), StretchedSchedule(rate, 2.0))
    yield from (bijections.Inverse(affine), bijections.Split(affine), SpectralNormalization(dense))
    yield from (ak.datasets.CharacterTokenizer("ab"), RowDense(2))
    for cls in classes().values():
        if keras.saving.get_registered_name(cls).startswith(PREFIX):
            with contextlib.suppress(Exception):
                yield cls()


def _collect(value, found):
    if isinstance(value, dict):
        name = value.get("registered_name") or ""
        if name.startswith(PREFIX):
            config = value["config"]
            if len(str(config)) < len(str(found.get(name, {}).get("config", config))) + 1:
                found[name] = value
        value = value.values()
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        for inner in value:
            _collect(inner, found)


def attacks(cls):
    """Configs for `cls`: each key on its own, then all texts and all dicts at once."""
    dicts = hostile().values()
    real = configs().get(keras.saving.get_registered_name(cls))
    config = _by_signature(cls) if real is None else real["config"]
    turn = itertools.cycle([*dicts, *([value] for value in dicts), *({"any": v} for v in dicts)])
    for key in config:
        for value in ("canary.sing", next(turn)):
            yield {**config, key: value}
    for value in dicts:
        yield _everywhere(config, "canary.sing", value)
        yield dict.fromkeys(config, value)
    yield dict.fromkeys(config, "canary.sing")
    yield {}


def _by_signature(cls):
    known = inspect.signature(cls).parameters.values()
    named = [p for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return {p.name: "canary.sing" if p.default is p.empty else p.default for p in named}


def _everywhere(value, text, mapping):
    if isinstance(value, dict):
        return {
            key: mapping if isinstance(inner, dict) else _everywhere(inner, text, mapping)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_everywhere(inner, text, mapping) for inner in value]
    return text if isinstance(value, str) else value


def refused_or_harmless(make, canary, where, any_error=False):
    """Runs `make`, which may refuse with an error of ours or Keras's, and must run no code."""
    try:
        made = make()
    except Exception as error:
        assert any_error or isinstance(error, REFUSALS) or _by_keras(error), where
    else:
        kept = vars(made).values()
        assert not any(isinstance(value, keras.layers.Lambda) for value in kept), where
    assert not canary.exists() and "canary" not in sys.modules, where


def _by_keras(error):
    """Whether Keras itself raised it, over a key of its own such as `dtype`."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    return frame.tb_frame.f_globals["__name__"].startswith("keras.")


@pytest.mark.parametrize("room", ROOMS)
def test_no_class_runs_what_its_config_names(room, canary):
    for name, cls in classes().items():
        if name.split(".")[1] == room:
            attack(name, cls, canary)


def attack(name, cls, canary):
    ours = keras.saving.get_registered_name(cls).startswith(PREFIX)
    for config in attacks(cls):
        made = functools.partial(cls.from_config, copy.deepcopy(config))
        refused_or_harmless(made, canary, (name, config), any_error=not ours)


@contextlib.contextmanager
def added_later(body):
    """Inside, the package has a module more, with the class `Later`; gives its name and itself."""
    module = types.ModuleType("artifex_keras.networks.later")
    head = "import importlib, keras\n"
    head += "register = keras.saving.register_keras_serializable(package='artifex_keras')\n"
    sys.modules[module.__name__] = module
    classes.cache_clear()
    try:
        exec(head + body, vars(module))
        name = f"{module.__name__}.Later"
        yield name, classes()[name]
    finally:
        del sys.modules[module.__name__]
        keras.saving.get_custom_objects().pop(f"{PREFIX}Later", None)
        classes.cache_clear()


HARMLESS = """
@register
class Later(keras.layers.Layer):
    def __init__(self, units, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, keras.activations.get(activation)
"""
CARELESS = {
    "walks to a dotted name": """
@register
class Later(keras.layers.Layer):
    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        module, _, name = function.rpartition(".")
        self.function = getattr(importlib.import_module(module), name)
""",
    "turns the check off": """
@register
class Later:
    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def from_config(cls, config):
        make = keras.saving.deserialize_keras_object
        inner = make(config["inner"], safe_mode=False)
        return cls(inner(1) if callable(inner) else inner)

    def get_config(self):
        return {"inner": self.inner}
""",
    "evaluates a text in a private option": """
class Later(keras.Model):
    def __init__(self, width=1, hook="None", **kwargs):
        super().__init__(**kwargs)
        self.width, self.hook = width, eval("__import__('canary').sing" if "." in hook else hook)
""",
    "keeps a Lambda layer": """
@register
class Later(keras.layers.Layer):
    def __init__(self, inner=None, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.saving.deserialize_keras_object(inner, safe_mode=False)
""",
}


def test_a_class_that_is_added_later_is_attacked(canary):
    with added_later(HARMLESS) as (name, cls):
        attack(name, cls, canary)
    assert name not in classes()


@pytest.mark.parametrize("how", CARELESS)
def test_a_careless_class_is_caught(how, canary):
    with added_later(CARELESS[how]) as (name, cls), pytest.raises(AssertionError, match="later"):
        attack(name, cls, canary)
    canary.unlink(missing_ok=True)
    sys.modules.pop("canary", None)


def test_all_classes_are_tried():
    assert {name.split(".")[1] for name in classes()} <= set(ROOMS)
    assert len(classes()) > 80 and len(configs()) > 60


def test_no_file_runs_what_it_names(canary, tmp_path):
    """The same in `.keras` files, and in what they say of `compile` and `build`."""
    path, count = tmp_path / "model.keras", 0
    dicts = [hostile()[name] for name in ("function", "object", "Lambda layer within")]
    for real in configs().values():
        for value in dicts:
            for changed in (
                {"config": _everywhere(real["config"], "canary.sing", value)},
                {"compile_config": {"optimizer": value, "loss": value, "metrics": [value]}},
                {"build_config": value},
            ):
                write(path, {**real, **changed})
                refused_or_harmless(lambda: keras.saving.load_model(path), canary, real)
                count += 1
    assert count > 400


def write(path, config):
    """A `.keras` file of that config, without weights."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config, default=lambda value: value.tolist()))
        archive.writestr("metadata.json", json.dumps({"keras_version": keras.__version__}))


def test_safe_mode_is_still_on():
    with pytest.raises(ValueError, match="safe_mode"):
        keras.saving.deserialize_keras_object(hostile()["lambda"])
