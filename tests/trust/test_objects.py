"""What stands in a file is looked up, never walked to and never run.

The canary is a function of a module that exists. Every test says that it was not called.
"""

import inspect
import json
import sys
import types
import zipfile

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.models import lora
from artifex_keras.rl.ready_rewards import ExactMatch
from artifex_keras.rl.rewards import rewards_from_config
from artifex_keras.trust import deserialize_callable, deserialize_schedule, plain_value

on_jax = pytest.mark.backends("jax")


@pytest.fixture
def canary(monkeypatch):
    """A module `canary` whose function `sing` notes each call."""
    calls = []
    module = types.ModuleType("canary")
    module.sing = lambda *args, **kwargs: calls.append((args, kwargs))
    monkeypatch.setitem(sys.modules, "canary", module)
    yield calls
    assert not calls, f"a file ran code: {calls}"


def saved_function(name="sing", module="canary"):
    """What Keras writes for a function, here of a module that nobody registered."""
    return {"class_name": "function", "config": name, "module": module, "registered_name": name}


def saved_optimizer(transformation, **arguments):
    return {
        "module": "artifex_keras.optimizers.optax_wrappers",
        "class_name": "OptaxOptimizer",
        "registered_name": keras.saving.get_registered_name(ak.OptaxOptimizer),
        "config": {"name": "o", "transformation": transformation, "arguments": arguments},
    }


WALKS = {
    "through a private module": "_src.lookahead.logging.os.system",
    "through a public module": "tree_utils.jax.numpy.save",
    "a module of the same name": "losses.jnp.load",
    "a dunder": "__loader__.load_module",
    "a dunder of a function": "adam.__globals__",
    "a factory in a private module": "_src.alias.adam",
    "a helper that calls its argument": "stateless",
    "empty": "",
    "dots": "..",
    "the package's own name": "optax.adam",
}


@on_jax
@pytest.mark.parametrize("name", WALKS.values(), ids=WALKS)
def test_names_are_looked_up_not_walked(name, canary):
    pytest.importorskip("optax")
    with pytest.raises(ValueError, match="Unknown optax optimizer"):
        ak.OptaxOptimizer(name)
    with pytest.raises(ValueError, match="Unknown optax optimizer"):
        keras.saving.deserialize_keras_object(saved_optimizer(name, command="true"))


@on_jax
@pytest.mark.parametrize(
    "evil",
    [
        saved_optimizer("_src.lookahead.logging.os.system", command="touch PWNED"),
        saved_optimizer(saved_function(), command="touch PWNED"),
        saved_optimizer(saved_function("system", "os"), command="touch PWNED"),
        saved_optimizer(saved_function("print", "builtins"), sep=" "),
        saved_optimizer(saved_function("get_file", "keras.utils"), origin="file:///etc/passwd"),
        saved_optimizer("adam", learning_rate=saved_function()),
        saved_optimizer("adam", learning_rate=saved_function("load_model", "keras.saving")),
        saved_optimizer("adamw", learning_rate=0.1, mask=saved_function()),
        saved_optimizer("adam", learning_rate={"anything": [saved_function()]}),
        saved_optimizer({"class_name": "Dense", "config": {"units": 1}, "module": "keras.layers"}),
    ],
    ids=lambda evil: str(evil["config"])[:60],
)
def test_no_way_into_an_optimizer_runs_code(evil, canary, tmp_path, monkeypatch):
    """A config as a dict and in YAML, the optimizer of a `.keras` file and of a checkpoint."""
    pytest.importorskip("optax")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError)):
        ak.TrainingConfig.from_dict({"optimizer": evil})
    (tmp_path / "config.yaml").write_text(json.dumps({"optimizer": evil}))  # JSON is YAML
    with pytest.raises((ValueError, TypeError)):
        ak.TrainingConfig.from_yaml(tmp_path / "config.yaml")

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(ak.OptaxOptimizer("sgd", learning_rate=0.1), "mse")
    described = keras.saving.serialize_keras_object(model)  # what a checkpoint keeps of a model
    described["compile_config"]["optimizer"] = evil
    with pytest.raises((ValueError, TypeError)):
        keras.saving.deserialize_keras_object(described)
    model.save("good.keras")
    with zipfile.ZipFile("good.keras") as good, zipfile.ZipFile("evil.keras", "w") as bad:
        for entry in good.namelist():
            content = good.read(entry)
            if entry == "config.json":
                config = json.loads(content)
                config["compile_config"]["optimizer"] = evil
                content = json.dumps(config)
            bad.writestr(entry, content)
    with pytest.raises((ValueError, TypeError)):
        keras.saving.load_model("evil.keras")
    assert not (tmp_path / "PWNED").exists()


@on_jax
def test_the_error_names_the_nearest_and_the_way_out():
    pytest.importorskip("optax")
    with pytest.raises(ValueError, match=r"'adamm'\. Did you mean 'adam'.*OptaxOptimizer\(optax"):
        ak.OptaxOptimizer("adamm")
    with pytest.raises(ValueError, match="'learning_rat'.*Did you mean 'learning_rate'"):
        ak.OptaxOptimizer("adam", learning_rat=0.1)


@on_jax
@pytest.mark.parametrize("name", ["adam", "lion", "contrib.prodigy", "contrib.muon"])
def test_listed_names_still_load(name):
    pytest.importorskip("optax")
    optimizer = ak.OptaxOptimizer(name, learning_rate=0.1)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert again.get_config() == optimizer.get_config()


@on_jax
def test_every_listed_name_is_a_factory_of_optax():
    optax = pytest.importorskip("optax")
    from artifex_keras.optimizers.optax_wrappers import NAMES

    for module, names in NAMES.items():
        found = optax if module == "optax" else optax.contrib
        for name in names:
            made = inspect.signature(getattr(found, name)).return_annotation
            assert "GradientTransformation" in str(made), name


@pytest.mark.parametrize("module", ["canary", "os", "keras.saving", "keras.utils", "builtins"])
def test_a_reward_from_a_file_is_a_registered_function(module, canary):
    for config in (saved_function(module=module), [saved_function(module=module)]):
        with pytest.raises(ValueError, match="no function of that name is registered"):
            rewards_from_config(config)
    with pytest.raises(ValueError, match="no function of that name is registered"):
        ExactMatch.from_config({"column": "answer", "extract": saved_function("save_img", module)})


@keras.saving.register_keras_serializable(package="artifex_keras_tests")
def registered_reward(prompts, completions, **columns):
    return [1.0 for _ in completions]


def test_a_registered_function_loads():
    config = keras.saving.serialize_keras_object(registered_reward)
    assert rewards_from_config(config) is registered_reward
    given = {"mine": registered_reward}
    assert deserialize_callable(saved_function("mine"), "reward_fn", given) is registered_reward


@pytest.mark.parametrize("config", [saved_function(), saved_function("relu", "builtins")])
def test_a_schedule_from_a_file_is_a_schedule(config, canary):
    with pytest.raises((ValueError, TypeError)):
        deserialize_schedule(config)
    with pytest.raises((ValueError, TypeError)):
        ak.TrainingConfig.from_dict({"optimizer": {"type": "adam", "learning_rate": config}})


def test_plain_values():
    for value in (1, 0.5, "bfloat16", None, True, [0.9, 0.99], (0.9, 0.99)):
        assert plain_value("betas", value) == value
    for value in ({"a": 1}, np.float64, [print], saved_function):
        with pytest.raises(ValueError, match="`betas` must be a number"):
            plain_value("betas", value)


@pytest.mark.parametrize(
    ("name", "config", "missing"),
    [
        ("OptaxOptimizer", {"name": "o", "transformation": "adam"}, "arguments"),
        ("OptaxOptimizer", {"name": "o", "arguments": {}}, "transformation"),
        ("OptimizerGroup", {"name": "o"}, "optimizers"),
        ("GradientAccumulation", {"steps": 2}, "inner_optimizer"),
        ("PacedSchedule", {"pace": 2}, "schedule"),
        ("StretchedSchedule", {"ratio": 2.0}, "schedule"),
        ("ExactMatch", {}, "column"),
        ("WithLora", {}, "model"),
    ],
)
def test_what_a_saved_config_lacks_is_named(name, config, missing):
    cls = keras.saving.get_registered_object(f"artifex_keras>{name}")
    with pytest.raises(ValueError, match=f"saved config of a {name} must have '{missing}'"):
        cls.from_config(config)


def with_lora():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    model.layers[0].enable_lora(2, lora_alpha=4)
    model.layers[1].trainable = False
    return lora.lora_config(model, keras.saving.serialize_keras_object(model))


def test_lora_comes_back_with_its_alpha():
    layers = keras.saving.deserialize_keras_object(with_lora()).layers
    assert (layers[0].lora_rank, layers[0].lora_alpha) == (2, 4)
    assert [layer.trainable for layer in layers] == [True, False]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora", [[99, 2, 4]]),
        ("lora", [[-1, 2, 4]]),
        ("lora", [[0, "x", 4]]),
        ("lora", [[0, 2, "x"]]),
        ("lora", [[0]]),
        ("trainable", [True]),
        ("trainable", [1, 0]),
        ("model", keras.saving.serialize_keras_object(keras.layers.Dense(2))),
    ],
)
def test_a_bad_lora_is_refused(key, value):
    with pytest.raises(ValueError):
        lora.WithLora.from_config({**with_lora()["config"], key: value})
