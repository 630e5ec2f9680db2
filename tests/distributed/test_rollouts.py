"""Rollouts with a layout of their own: the tokens and weights of one device, and what is sent."""

import contextlib

import jax
import keras
import numpy as np
import pytest
from keras import ops

import artifex_keras as ak
from artifex_keras import rl
from artifex_keras.backend import ReadThroughScope
from artifex_keras.distributed import model_parallel
from artifex_keras.distributed.from_shapes import prepare
from artifex_keras.distributed.redistribute import layouts_of, redistribute
from artifex_keras.planning import CHIPS, plan
from artifex_keras.planning.collectives import traffic
from artifex_keras.planning.sampling import sampling
from artifex_keras.rl import rollout_weights

pytestmark = pytest.mark.backends("jax")

PROMPTS = np.random.default_rng(0).integers(0, 64, (8, 4)).astype("int32")
MESHES = [((8,), (1, 8)), ((8,), (2, 4)), ((2, 4), (2, 4)), ((2, 2, 2), (8,))]


@rl.traceable
def sevens(completions, **_):
    return ops.sum(ops.cast(completions % 7 == 1, "float32"), axis=1)


def seventh(prompts, completions):
    return [sum(token % 7 == 1 for token in completion) for completion in completions]


@rl.traceable
class Counting:
    """Two turns, answered with two ids; a large id is rewarded."""

    def reset(self, prompt):
        return ops.zeros_like(prompt[:, 0]), None

    def step(self, turn, completions, mask):
        ids = ops.broadcast_to(ops.convert_to_tensor([[11, 12, -1]], "int32"), (len(mask), 3))
        largest = ops.max(ops.where(mask > 0, completions, 0), axis=1)
        return turn + 1, ids, largest % 7 == 1, turn == 1


def network(**options):
    keras.utils.set_random_seed(0)
    options = {"num_layers": 2, "num_heads": 8, "width": 64} | options
    return ak.networks.CausalTransformer(80, 16, **options)


def algorithm(policy=None, reward=sevens, **options):
    options = {"max_new_tokens": 6, "num_generations": 4, "end_token_id": 63, "seed": 1} | options
    model = ak.GRPO(network() if policy is None else policy, reward, **options)
    model.compile("adam")
    return model


def under(mesh, rollout_mesh=None):
    """The scope of the distribution over such a mesh, which shards small weights too."""
    if mesh is None:
        return contextlib.nullcontext()
    return model_parallel(mesh, rollout_mesh=rollout_mesh, min_bytes=0).scope()


def trained(model, mesh=None, rollout_mesh=None):
    """Completions that are sampled, and all weights, after two steps."""
    with under(mesh, rollout_mesh):
        model.fit(np.tile(PROMPTS, (2, 1)), batch_size=8, shuffle=False, verbose=0)
        table = model.table(PROMPTS, count=8, seed=3)
        return [row["completion"] for row in table], model.policy.get_weights()


def assert_same(found, expected):
    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def sent(mesh, rollout_mesh=None, **options):
    """The collectives of a step, compiled and not run."""
    from artifex_keras.backend import lowering

    model = algorithm(**options)
    prepare(model, PROMPTS)
    with under(mesh, rollout_mesh):
        distribution = keras.distribution.distribution()
        layouts = layouts_of(model, distribution)
        programs = lowering.step_programs(model, PROMPTS, layouts, distribution)
        (figures,) = lowering.compiled_here(programs)
    return traffic(figures.hlo, 8).collectives


@pytest.fixture(scope="module")
def alone():
    return trained(algorithm())


@pytest.mark.parametrize(("mesh", "rollout_mesh"), MESHES)
def test_tokens_and_weights_are_those_of_one_device(mesh, rollout_mesh, alone):
    assert_same(trained(algorithm(), mesh, rollout_mesh), alone)


def test_stacked_layers_and_python_rewards(alone):
    policy = network(scan_layers=True, remat="full")
    policy.set_weights(network().get_weights())
    assert_same(trained(algorithm(policy, seventh), (8,), (2, 4)), alone)


@pytest.mark.parametrize("rollout_mesh", [None, (2, 4)])
def test_rows_that_the_devices_do_not_divide(rollout_mesh):
    """A prompt with four completions on eight devices, on its way to a Python reward and back."""

    def few(mesh=None, rollout_mesh=None):
        model = algorithm(reward=seventh)
        with under(mesh, rollout_mesh):
            model.fit(PROMPTS[:1], batch_size=1, verbose=0)
            value = model.evaluate(PROMPTS[:1], batch_size=1, verbose=0, return_dict=True)
            table = model.table(PROMPTS[:1], count=1, seed=3)
        return [value["reward"], table[0]["completion"]], model.policy.get_weights()

    assert_same(few((8,), rollout_mesh), few())


def evaluated(model, mesh=None, rollout_mesh=None):
    """The numbers of an evaluation after two steps, and all weights."""
    with under(mesh, rollout_mesh):
        model.fit(np.tile(PROMPTS, (2, 1)), batch_size=8, shuffle=False, verbose=0)
        values = model.evaluate(PROMPTS, batch_size=8, verbose=0, return_dict=True)
        return values, model.get_weights()


def of_averages():
    return algorithm(ema_decay=0.5)


def of_turns():
    return algorithm(reward=None, environment=Counting, max_turns=2, max_new_tokens=3)


def of_teacher():
    """A student that learns from its own completions."""
    teacher = network(num_layers=1)
    model = rl.Distillation(network(), teacher, on_policy=1.0, max_new_tokens=4, beta=0.5, seed=0)
    model.compile("adam")
    return model


@pytest.mark.parametrize("make", [of_averages, of_turns, of_teacher])
def test_what_is_sampled_besides_completions_for_a_reward(make):
    values, weights = evaluated(make(), (8,), (2, 4))
    expected, others = evaluated(make())
    assert values == pytest.approx(expected, rel=1e-5)
    for one, other in zip(weights, others, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_lora(alone):
    def adapted():
        policy = network()
        for block in policy.blocks:
            block.attention.projections["query"].enable_lora(2)
        return algorithm(policy)

    assert_same(trained(adapted(), (8,), (2, 4)), trained(adapted()))


def test_bfloat16_samples_what_a_policy_cast_to_it_samples():
    model = algorithm(rollout_dtype="bfloat16")
    rounded = network()
    for weight in rounded.weights:
        weight.assign(ops.cast(ops.cast(weight.value, "bfloat16"), "float32"))
    expected = [row["completion"] for row in algorithm(rounded).table(PROMPTS, count=8, seed=3)]
    with under((8,), (2, 4)):
        found = [row["completion"] for row in model.table(PROMPTS, count=8, seed=3)]
    assert found == expected


STACKED = {"scan_layers": True, "remat": "full"}


NORM, QUARTER = 4 * 64, 4 * 64 * 256 // 4  # of a norm's weights, and of the largest ones


@pytest.mark.parametrize(
    ("rollout_mesh", "options", "most"), [((1, 8), STACKED, NORM), ((2, 4), {}, QUARTER)]
)
def test_no_weight_is_sent_for_a_token(rollout_mesh, options, most):
    """Within the loop over tokens there are vectors and ids of rows; 32 rows are sampled, each
    group of devices has its share, and of logits a device gets those of its own rows. Before it
    weights come into their layouts, and no more."""
    rows = 32 // rollout_mesh[0]
    collectives = sent((8,), rollout_mesh, policy=network(**options))
    begun = [each for each in collectives if each.part == "rollout"]
    assert max(each.payload for each in begun if each.kind == "all-gather") == most
    in_loop = [each for each in collectives if each.part == "token"]
    assert in_loop
    assert max(each.payload for each in in_loop) == 4 * rows * 64
    assert 4 * 32 * 80 // 8 in [each.payload for each in in_loop if each.kind == "all-to-all"]
    assert sum(each.kind == "all-reduce" and each.payload > 4 for each in in_loop) == 5


def test_weights_come_by_their_own_way():
    """From 8 shards to 4 in each of two groups no weight is gathered first."""
    from artifex_keras.distributed.rollouts import layouts_to

    distribution = model_parallel((8,), rollout_mesh=(2, 4), min_bytes=0)
    policy = network()
    before = distribution.layouts(policy)
    ways = layouts_to(distribution.rollouts, policy, before)
    found = {v.path.rsplit("/", 2)[-2]: [w.axes for w in ways[id(v)]] for v in policy.variables}
    assert found["transformer_block_0_attention_query"] == [("data", "model"), (None, "model")]
    assert found["transformer_block_0_down"] == [(("model", "data"), None), ("model", None)]
    assert found["transformer_norm"] == [("data",), (None,)]


def test_meshes_that_do_not_fit():
    with pytest.raises(ValueError, match="must group the 8 devices of the mesh"):
        model_parallel((8,), rollout_mesh=(2, 2))
    with pytest.raises(ValueError, match="rollout_mesh"):
        model_parallel((8,), rollout_mesh=(1, 1, 1, 8))
    with pytest.raises(ValueError, match='`rollout_mesh` must be without a "context"'):
        model_parallel((8,), rollout_mesh={"context": 8})


def test_a_mesh_with_names():
    for named, shape in [({"model": 8}, (1, 8)), ({"model": 4, "data": 2}, (2, 4)), (8, (8,))]:
        assert model_parallel((8,), rollout_mesh=named).rollout_mesh == shape


@pytest.mark.parametrize("rollout_mesh", [(1, 8), (2, 4), (8,)])
def test_a_plan_counts_what_the_copy_sends(rollout_mesh):
    """By the layouts, what the compiled program of the copy alone sends."""
    model, distribution = algorithm(), model_parallel((8,), rollout_mesh=rollout_mesh, min_bytes=0)
    redistribute(model, distribution)
    weights = model.policy.variables

    def copied(values):
        scope = ReadThroughScope(zip(weights, values, strict=True))
        with scope, rollout_weights.rollout_copy(model.actor, distribution.rollouts, None):
            return [weight.value for weight in weights]

    with distribution.scope():
        compiled = jax.jit(copied).lower([weight.value for weight in weights]).compile()
    found = sampling(model, distribution, None, 8)
    np.testing.assert_allclose(found["copy_wire"], traffic(compiled.as_text(), 8).wire, rtol=0.01)
    whole = sum(4 * int(np.prod(weight.shape)) for weight in weights)
    shards = rollout_mesh[1] if len(rollout_mesh) > 1 else 1
    norms = 5 * 4 * 64 * (1 - 1 / shards)  # vectors are replicated
    assert found["copy"] == whole / shards + norms


def test_a_plan_shows_sampling_beside_learning():
    model = algorithm(network(num_layers=1), rollout_dtype="bfloat16")
    made = plan(model, PROMPTS, mesh="8x1", rollout_mesh="2x4", compile=False, target="tpu:v5e-8")
    found = made.sampling
    assert found["mesh"] == {"data": 2, "model": 4} and found["dtype"] == "bfloat16"
    numbers = found["copy"] / 2
    assert found["wire"] is None and set(found["token_seconds"]) == {"compute", "memory"}
    chip = CHIPS["v5e"]
    np.testing.assert_allclose(found["token_seconds"]["memory"], 2 * numbers / chip.bandwidth)
    products = 2 * numbers * 8 * 4 / 2  # 32 rows in two groups
    np.testing.assert_allclose(found["token_seconds"]["compute"], products / chip.peak("float32"))
    assert "sampling, on data 2 x model 4" in str(made) and "copy of weights" in str(made)


def test_a_plan_of_a_mesh_that_shards_no_weights():
    with pytest.raises(ValueError, match="needs a mesh that shards weights"):
        plan(algorithm(network(num_layers=1)), PROMPTS, mesh="8", rollout_mesh="1x8")
