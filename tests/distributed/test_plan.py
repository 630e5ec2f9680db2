"""What a step costs on devices that are here, and on those that aren't."""

import importlib.util
import json
import math

import keras
import numpy as np
import pytest
from algorithms import ALGORITHMS
from families import FAMILIES, dense

from artifex_keras import cli
from artifex_keras.config import TrainingConfig
from artifex_keras.distributed import data_parallel, model_parallel
from artifex_keras.distributed.mesh import VirtualMesh
from artifex_keras.distributed.redistribute import layouts_of
from artifex_keras.models import VAE, Autoregressive
from artifex_keras.networks import CausalTransformer
from artifex_keras.planning import CHIPS, Plan, plan
from artifex_keras.planning.advice import warnings
from artifex_keras.planning.chips import chip_of, target_of
from artifex_keras.planning.collectives import traffic
from artifex_keras.planning.plan import prepare
from artifex_keras.planning.report import HELD
from artifex_keras.planning.virtual import mesh_and_names, mesh_shape
from artifex_keras.trainers import ModelParallelTrainer, VAETrainer

pytestmark = pytest.mark.backends("jax")
libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
ROWS = 64
STEPS = [*FAMILIES, *ALGORITHMS]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A process that compiles for a test is killed before the test is."""
    from artifex_keras.backend.lowering import process

    monkeypatch.setattr(process, "SECONDS", 240)


def vae(width=512):
    """A model whose weights are mostly in matrices that 8 divides, and a batch."""
    keras.utils.set_random_seed(0)
    encoder = dense(64, width, outputs=16, name="encoder")
    model = VAE(encoder, dense(8, width, outputs=64, name="decoder"), seed=0)
    model.compile("adam")
    return model, (np.zeros((ROWS, 64), "float32"),)


def compiled_by_keras(model, batch):
    """The step that `fit` would run under the present distribution."""
    import jax
    from keras.src.backend.jax.trainer import _distribute_data

    model._symbolic_build(data_batch=batch)
    groups = ("trainable", "non_trainable", "optimizer", "metrics")
    state = model._get_jax_state(**{f"{group}_variables": True for group in groups})
    model.jax_state_sync()
    out = None
    if keras.distribution.distribution() is not None:
        batch, out = _distribute_data(batch), (None, model._get_state_sharding_spec())
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=out)
    return step.lower(state, batch).compile()


def held(made):
    return sum(made.memory[kind] for kind in HELD)


# The figures are the compiled program's


@pytest.mark.parametrize(
    "spread",
    [
        None,
        pytest.param(lambda: data_parallel(8), id="DP"),
        pytest.param(lambda: model_parallel((8, 1)), id="FSDP"),
        pytest.param(lambda: model_parallel((2, 4)), id="FSDPxTP"),
    ],
)
def test_figures_are_those_of_the_step_that_fit_runs(spread):
    model, batch = vae()
    distribution = None if spread is None else spread()
    made = plan(model, batch, distribution=distribution)
    model, batch = vae()
    if distribution is None:
        compiled = compiled_by_keras(model, batch)
    else:
        with distribution.scope():
            compiled = compiled_by_keras(model, batch)
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    assert made.flops_per_device == costs["flops"]
    assert made.bytes_accessed == costs["bytes accessed"]
    unread = held(made) - memory.argument_size_in_bytes  # scalars that the step doesn't look at
    assert 0 <= unread <= 16
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert made.memory["temporaries"] == memory.temp_size_in_bytes + results
    assert made.collectives == traffic(compiled.as_text(), made.devices).by_kind()


def test_pinned_outputs_spare_the_wires(monkeypatch):
    """Without pins the compiler passes activations around: 9.0 MB with them, 64.4 without."""

    def sent(pinned):
        keras.utils.set_random_seed(0)
        network = CausalTransformer(512, 64, num_layers=2, num_heads=8, width=128)
        model = Autoregressive(network, seed=0)
        distribution = model_parallel((4, 2), model)
        if not pinned:
            monkeypatch.setattr(distribution, "get_tensor_layout", lambda path: None)
        with distribution.scope():
            model.compile("adam")
            return plan(model, np.zeros((64, 64), "int32")).wire

    assert 3 * sent(True) < sent(False)


def test_data_parallelism_sends_each_gradient_once():
    made = plan(*vae(), mesh=8)
    textbook = 2 * 7 / 8 * 4 * made.trainable
    assert made.wire == pytest.approx(textbook, rel=0.01)
    assert set(made.collectives) == {"all-reduce"}


def test_weights_cut_over_all_take_an_eighth():
    whole = plan(*vae(), mesh=8)
    cut = plan(*vae(), distribution=model_parallel((8, 1), min_bytes=512))
    for kind in ("parameters", "optimizer", "gradients"):
        assert cut.memory[kind] == pytest.approx(whole.memory[kind] / 8, rel=0.1)
    assert cut.parameters == whole.parameters


def language_model(num_layers, rows=4, length=33, width=64):
    network = CausalTransformer(
        64, length, num_layers=num_layers, num_heads=8, width=width, tied_embeddings=False
    )
    model = Autoregressive(network, seed=0)
    model.compile("sgd")
    return model, (np.zeros((rows, length), "int32"),)


@pytest.mark.parametrize(
    ("target", "sums"),
    [
        # Of attention and MLP what comes out, forward, and the gradient of what goes in, backward:
        # that of query, key and value is three, which a TPU adds before it sends.
        (None, 1 + 1 + 1 + 3),
        pytest.param("tpu:v5e", 4, marks=libtpu),
    ],
)
def test_a_block_cut_by_its_layers_sends_what_is_counted_by_hand(target, sums):
    wires = [plan(*language_model(n), mesh="1x8", target=target).wire for n in (1, 2)]
    activations = 4 * 32 * 64 * 4  # rows, tokens, width, bytes
    assert wires[1] - wires[0] == pytest.approx(sums * 2 * 7 / 8 * activations, rel=0.1)


def test_operations_of_matrix_products_are_counted_by_hand():
    made = plan(*vae(width=32))
    sizes = [(64, 32), (32, 16), (8, 32), (32, 64)]
    products = [2 * ROWS * rows * columns for rows, columns in sizes]
    # Forward, and two backward; nobody asks for the gradient of the data.
    assert made.flops == 3 * sum(products) - products[0]


def test_a_loop_counts_with_all_its_turns():
    import jax
    from jax import numpy as jnp

    from artifex_keras.backend.jax.lowering import Work, _work

    def loops(x):
        y, _ = jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5)
        z = jax.lax.while_loop(lambda c: jnp.sum(c) > 0, lambda c: c @ x, y)
        return jax.lax.cond(z[0, 0] > 0, lambda: z @ x @ x, lambda: z @ x)

    one = 2 * 4**3
    traced = jax.make_jaxpr(loops)(jnp.ones((4, 4)))
    assert _work(traced.jaxpr) == Work((5 + 1 + 2) * one, (1 + 1 + 2) * one, 1)


def test_nothing_is_moved_and_the_model_trains_on():
    model, batch = vae(width=16)
    model.build(batch[0].shape)
    before = [np.asarray(v.value) for v in model.variables]
    plan(model, batch, mesh=(4, 8), target="tpu")
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.asarray(variable.value), value)
    model.fit(*batch, batch_size=ROWS, verbose=0)


# Every step


@pytest.mark.parametrize("family", STEPS, ids=[family.name for family in STEPS])
def test_every_step_lowers_for_tpus_and_gpus_on_a_mesh_that_isnt_there(family):
    import jax.export

    from artifex_keras.backend import lowering

    model, batch = family.make(), family.arrays(8)
    model.compile("adamw")
    prepare(model, batch)
    distribution = model_parallel(VirtualMesh((4, 2)), min_bytes=16)
    layouts = layouts_of(model, distribution)
    programs = lowering.step_programs(model, batch, layouts, distribution)
    expected = ["begin", "finish"] if model.interrupted else ["step"]
    assert [program.name for program in programs] == expected
    for program in programs:
        export = jax.export.deserialize(bytearray(lowering.exported(program, "tpu", "gpu")))
        assert export.platforms == ("tpu", "cuda") and export.nr_devices == 8


REPLAYED = {"importance_cap": 2.0, "replay_buffer_size": 3, "max_prompt_length": 3}
BESIDE = {"importance_cap": 2.0, "asynchronous_rewards": True}


@pytest.mark.parametrize("options", [{}, REPLAYED, BESIDE], ids=["plain", "replay", "beside"])
def test_a_step_that_rewards_interrupt_is_two_programs(options):
    algorithm = ALGORITHMS[0]
    model = algorithm.make(**options)
    model.compile("adamw")
    made = plan(model, algorithm.arrays(8))
    assert made.programs == ("begin", "finish") and made.rows == 8
    assert made.flops_per_device > 0 and made.memory["temporaries"] > 0
    assert "depends on the data" in " ".join(made.unknown)  # how long completions get


# Elsewhere


def test_another_process_finds_what_this_one_finds(monkeypatch):
    here = plan(*vae(), mesh="4x2")
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: [])
    there = plan(*vae(), mesh="4x2")
    assert (here.compiled, there.compiled) == ("cpu here", "cpu, virtual devices")
    assert there.collectives == here.collectives
    assert there.flops_per_device == here.flops_per_device
    assert held(there) == held(here)


def test_more_devices_than_there_are():
    rules = model_parallel((8, 1), min_bytes=256)
    made = plan(*vae(), mesh="16x4", distribution=rules)
    assert made.devices == 64 and made.mesh == {"data": 16, "model": 4}
    alone = plan(*vae())
    # Small ones are held whole.
    assert 1 / 64 < made.memory["parameters"] / alone.memory["parameters"] < 1 / 16
    assert made.memory["batch"] == alone.memory["batch"] / 16
    assert made.flops == alone.flops
    assert made.wire > 0 and made.seconds == {} and made.bound is None


def test_groups_hold_all_weights_and_send_each_other_gradients():
    """2 groups of 4: a device holds a quarter of the weights, and an eighth of the rows."""
    made = plan(*vae(), mesh="2x4x1")
    assert made.mesh == {"replica": 2, "data": 4, "model": 1} and made.num_shards == 8
    whole, cut = plan(*vae()), plan(*vae(), mesh="4x1")
    assert made.memory["parameters"] == cut.memory["parameters"] < whole.memory["parameters"] / 3.5
    assert made.memory["batch"] == whole.memory["batch"] / 8


@pytest.mark.parametrize("target", ["gpu:h100-8", "tpu:v5e-8"])
def test_without_a_compiler_it_says_what_is_unknown(target, monkeypatch):
    from artifex_keras.backend import lowering

    monkeypatch.setattr(lowering, "has_libtpu", lambda: False)
    made = plan(*vae(), target=target)
    assert made.target == target and made.mesh == {"data": 8}
    assert made.memory["temporaries"] is None and made.bytes_accessed is None
    assert made.bound in ("compute", "links") and made.step_seconds == max(made.seconds.values())
    assert any("not compiled" in text for text in made.unknown)
    assert "at least" in str(made) and "unknown" in str(made)


@libtpu
@pytest.mark.parametrize(("mesh", "most"), [(8, 1.01), ("8x1", 3 / 2), ("4x2", 2)])
def test_a_tpu_is_compiled_for_without_one(mesh, most):
    made = plan(*vae(), target="tpu:v5e", mesh=mesh)
    assert (made.compiled, made.unknown) == ("v5e:2x4", [])
    assert 0 < made.wire <= most * 2 * 7 / 8 * 4 * made.trainable
    assert set(made.seconds) == {"compute", "memory", "links"}
    assert made.memory["temporaries"] > 0 and made.total < CHIPS["v5e"].memory


def test_a_compiler_that_takes_too_long_is_stopped(monkeypatch):
    from artifex_keras.backend.lowering import process

    monkeypatch.setattr(process, "SECONDS", 0.05)
    with pytest.raises(TimeoutError, match="wasn't compiled after 0.05 seconds"):
        plan(*vae(width=16), mesh=64)


# Where it is asked for


@pytest.fixture
def trainer():
    model, (x,) = vae(width=16)
    config = TrainingConfig(batch_size=ROWS, num_epochs=1, seed=0, verbose=0)
    return VAETrainer(model=model, config=config, train_dataset=np.repeat(x, 2, axis=0))


def test_a_trainer_plans_its_first_batch_and_trains(trainer):
    made = trainer.plan(mesh=4)
    assert (made.rows, made.model, made.mesh) == (ROWS, "VAE", {"data": 4})
    trainer.train()


def test_a_trainer_for_many_devices_plans_for_these():
    model, (x,) = vae()
    config = {"batch_size": ROWS, "num_epochs": 1, "seed": 0, "verbose": 0}
    made = ModelParallelTrainer(model, config, x, mesh_shape=(8, 1)).plan()
    assert (made.mesh, made.compiled) == ({"data": 8, "model": 1}, "cpu here")
    whole = plan(*vae(), mesh=8)
    assert made.memory["parameters"] < whole.memory["parameters"] / 5


def test_a_batch_isnt_taken_from_an_iterator(trainer):
    model, (x,) = vae(width=16)
    stream = iter([(x,)])
    config = TrainingConfig(num_epochs=1, steps_per_epoch=1, seed=0)
    with pytest.raises(ValueError, match="lost to training"):
        VAETrainer(model=model, config=config, train_dataset=stream).plan()


def test_the_shell_plans_what_it_would_train(capsys):
    options = ["--data", "ring", "--set", "count=500", "--set", "units=[8]", "--batch-size", "32"]
    assert cli.main(["plan", "vae", *options]) == 0
    assert capsys.readouterr().out.startswith("VAE: a step of 32 rows on cpu, one device\n")
    assert cli.main(["plan", "vae", *options, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["rows"] == 32 and made["total"] > made["memory"]["parameters"] > 0


# What is wrong


def test_a_model_must_be_compiled():
    with pytest.raises(ValueError, match="must be compiled"):
        plan(VAE(dense(6, outputs=4, name="e"), dense(2, outputs=6, name="d")), np.zeros((4, 6)))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("tpuv5", "Unknown platform"),
        ("tpu:v5x", "Did you mean"),
        ("gpu:v5e", "Choices: a100, b200, h100, h200"),
        ("tpu:v5e-7", "grids of 1, 4, 8"),
        ("tpu:", "must be a platform"),
    ],
)
def test_targets_that_there_arent(target, said):
    with pytest.raises(ValueError, match=said):
        target_of(target)


@pytest.mark.parametrize("mesh", ["4x", "2x2x2x2", (0, 2), (), None, "a"])
def test_meshes_that_there_arent(mesh):
    with pytest.raises(ValueError, match="`mesh` must say"):
        mesh_shape(mesh)


def test_axes_with_names():
    assert mesh_and_names("data=2,context=4") == ((2, 4), ("data", "context"))
    for mesh in ("data=2,data=4", "context=2,data=2,context=2"):
        with pytest.raises(ValueError, match="one size for each axis: one is named twice"):
            mesh_and_names(mesh)


def test_a_number_that_tpus_dont_come_in_is_lowered_for_and_not_compiled():
    made = plan(*vae(width=16), mesh=2, target="tpu:v5e")
    assert made.target == "tpu:v5e-2" and "a number that it comes in" in made.unknown[0]


def test_mesh_and_target_must_agree():
    with pytest.raises(ValueError, match="as many devices as `target`"):
        plan(*vae(width=16), mesh="2x2", target="tpu:v5e-8")


def test_chips():
    assert target_of("tpu:v5e-256").topology == "v5e:16x16"
    assert target_of("tpu:v5p-64").topology == "v5p:4x4x4"
    assert target_of("tpu:v5p-64").accelerator == "v5p-128"
    assert (target_of("gpu").chip, str(target_of("cuda:h100"))) == (None, "gpu:h100")
    assert [chip_of(kind) for kind in ("TPU v5 lite", "TPU v5", "NVIDIA H100 PCIe", "cpu")] == [
        *("v5e", "v5p", "h100", None)
    ]
    assert CHIPS["h100"].sending(8) > CHIPS["h100"].sending(16)
    # Between pods, as Google publishes it: for a pod of 256 v5e or v6e, for a chip of v5p and v7x.
    assert [256 * CHIPS[name].sending(512) * 8 for name in ("v5e", "v6e")] == [6.4e12, 25.6e12]
    assert CHIPS["v5p"].sending(9000) * 8 == 50e9 and CHIPS["v7x"].sending(20000) * 8 * 2 == 100e9
    assert CHIPS["v4"].sending(5000) is None


def test_an_ironwood_is_two_devices():
    target = target_of("tpu:v7x-16")
    assert (target.topology, target.accelerator) == ("tpu7x:2x2x2", "tpu7x-16")
    assert chip_of("TPU7x") == "v7x" and CHIPS["v7x"].peak("bfloat16") == 2307e12 / 2
    with pytest.raises(ValueError, match="grids of 8, 16, .* devices, two to a chip"):
        target_of("tpu:v7x-4")


def test_gpus_by_the_name_that_jax_gives_them():
    kinds = ("NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA B200", "NVIDIA A100-SXM4-40GB")
    assert [chip_of(kind) for kind in kinds] == ["h200", "h100", "b200", "a100"]
    assert CHIPS["b200"].peak("bfloat16") * 8 == 18e15 and CHIPS["b200"].memory * 8 == 1440e9


# What it says


def made_up(**changes):
    memory = dict.fromkeys((*HELD, "temporaries", "gradients"), 0)
    memory |= changes.pop("memory", {})
    given = {
        **{"model": "VAE", "target": "tpu:v5e-8", "mesh": {"data": 8}, "rows": 64},
        **{"parameters": 1, "trainable": 1, "memory": memory, "flops": 8e12},
        **{"flops_per_device": 1e12, "bytes_accessed": 1e9, "collectives": {}, "seconds": {}},
        **{"programs": ("step",), "compiled": "v5e:2x4"},
    }
    return Plan(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory": {"temporaries": 20 << 30}}, "smaller batch (there are 8 rows"),
        ({"memory": {"parameters": 10 << 30, "optimizer": 20 << 30}}, 'mesh="32x1"'),
        ({"memory": {"parameters": 12 << 30, "optimizer": 6 << 30}}, "shard them over devices"),
        ({"flops_per_device": 4e12}, "4.0 times the work"),
        ({"rows": 60}, "8 devices don't divide 60 rows"),
        ({}, None),
    ],
)
def test_warnings_say_what_helps(changes, said):
    made = made_up(**changes)
    found = warnings(made, CHIPS["v5e"])
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_table_and_the_numbers():
    sums = {"all-reduce": {"count": 2, "payload": 4e6, "wire": 7e6}}
    seconds = {"compute": 0.004, "memory": 0.001, "links": 0.002}
    made = made_up(collectives=sums, seconds=seconds, warnings=["Mind."])
    text = str(made)
    assert "bound by compute; 7 ms one after the other" in text and text.endswith("! Mind.")
    assert "2 of 4 MB" in text
    numbers = json.loads(json.dumps(made.to_dict()))
    assert numbers["bound"] == "compute" and numbers["wire"] == 7e6
    assert math.isclose(numbers["intensity"], 1000)
