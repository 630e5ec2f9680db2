"""`scan_layers` of a transformer: one block in a program, and the numbers, files and errors of
blocks in a row."""

import keras
import numpy as np
import pytest
from keras import ops
from one_program import in_one_program

import artifex_keras as ak
from artifex_keras import backend, networks
from artifex_keras.callbacks.checkpoint.arrays import restore, snapshot
from artifex_keras.distributed.layouts import specs_for

if keras.config.backend() == "jax":
    from artifex_keras.backend import lowering
    from artifex_keras.planning.plan import prepare

IDS = np.random.default_rng(0).integers(0, 13, (2, 6)).astype("int32")
SEGMENTS = np.int32([[1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
PAD = np.int32([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def transformer(scan, layers=3, **options):
    keras.utils.set_random_seed(0)
    options = {"num_heads": 2, "width": 8, "scan_layers": scan} | options
    return networks.CausalTransformer(13, 24, num_layers=layers, **options)


def values(weights):
    return [ops.convert_to_numpy(weight) for weight in weights]


def trained(network, inputs, masked=False, steps=2):
    """Losses of some steps in training, gradients layer by layer, and the seeds after them."""
    variables, found = network.trainable_variables, []

    def loss():
        mask = {"padding_mask": PAD} if masked else {}
        logits = network(inputs, training=True, **mask)
        return ops.mean(ops.square(ops.cast(logits, "float32"))), None

    for _ in range(steps):
        value, _, gradients = in_one_program(lambda: backend.value_and_grad(loss, variables))
        found += [value, *by_layer(variables, gradients)]
    seeds = [v for v in network.variables if "seed" in v.path]
    return values([*found, *by_layer(seeds, [seed.value for seed in seeds])])


def by_layer(variables, values):
    """What belongs to stacked variables in the order of those of each layer."""
    stacked = [hasattr(variable, "slices") for variable in variables]
    if not any(stacked):
        return values
    begin, end = stacked.index(True), len(stacked) - stacked[::-1].index(True)
    layers = len(variables[begin].slices)
    return [
        *values[:begin],
        *(value[layer] for layer in range(layers) for value in values[begin:end]),
        *values[end:],
    ]


ROWS = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "remat": {"remat": "full", "dropout": 0.5},
    "dots": {"remat": "dots"},
    "swiglu": {"activation": "swiglu", "norm": "layer", "positions": "learned"},
    "untied": {"tied_embeddings": False, "num_kv_heads": 1},
    "segments": {},
    "padding": {},
    "bfloat16": {"dtype": "mixed_bfloat16"},
}


@pytest.mark.quick(4)
@pytest.mark.seam
@pytest.mark.parametrize("name", ROWS)
def test_the_numbers_are_those_of_blocks_in_a_row(name):
    inputs = [IDS, SEGMENTS] if name == "segments" else IDS
    found = [
        trained(transformer(scan, **ROWS[name]), inputs, masked=name == "padding")
        for scan in (False, True)
    ]
    assert len(found[0]) == len(found[1])
    tolerance = 2e-2 if name == "bfloat16" else 1e-6
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def model(scan, **options):
    made = ak.Autoregressive(transformer(scan, dropout=0.2), **options)
    made.compile(optimizer=ak.optimizers.AdamW(1e-2, weight_decay=0.1))
    return made


def same(a, b, tolerance=1e-6):
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(m.network(IDS)) for m in (a, b)), atol=tolerance
    )


@pytest.mark.seam
@pytest.mark.parametrize("scan", [False, True])
def test_weights_of_one_load_into_the_other(scan, tmp_path):
    one, other = model(scan), model(not scan)
    other.network.set_weights([np.zeros(w.shape) for w in other.network.get_weights()])
    for path in ("network.weights.h5", "network.keras"):
        one.network.save(tmp_path / path) if path.endswith("keras") else one.network.save_weights(
            tmp_path / path
        )
        other.network.set_weights([np.zeros(w.shape) for w in other.network.get_weights()])
        other.network.load_weights(tmp_path / path)
        same(one, other)
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert loaded.get_config().get("scan_layers", False) is scan
    other.network.set_weights([0 * w for w in one.network.get_weights()])
    other.set_weights(one.get_weights())
    same(one, other)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.backends("jax")
def test_a_training_has_the_numbers_of_one_without_and_its_checkpoints(tmp_path):
    """Slots, average and seeds too: each run goes on from the checkpoint of the other."""
    runs = []
    for scan in (False, True):
        made = model(scan, ema_decay=0.9)
        made.fit(IDS, batch_size=2, epochs=2, verbose=0, shuffle=False)
        runs.append((made, snapshot(made)))
    (looped, first), (scanned, second) = runs
    kept = {array.name: array for array in second}
    assert {array.name for array in first} == kept.keys()
    for array in first:
        np.testing.assert_allclose(array.value, kept[array.name].value, rtol=1e-4, atol=1e-6)
    fresh = model(True, ema_decay=0.9)
    fresh.build(IDS.shape)
    fresh.build_optimizer()
    restore(fresh, first, "model", "optimizer")
    restore(looped, second, "model", "optimizer")
    histories = [
        made.fit(IDS, batch_size=2, verbose=0, shuffle=False).history
        for made in (looped, scanned, fresh)
    ]
    for history in histories[1:]:
        np.testing.assert_allclose(history["loss"], histories[0]["loss"], rtol=1e-5)


@pytest.mark.seam
def test_generation_with_the_cache_gives_the_same_tokens():
    looped, scanned = model(False), model(True)
    options = {"max_new_tokens": 4, "temperature": 0.0}
    found = [ops.convert_to_numpy(made.generate(IDS, **options)) for made in (looped, scanned)]
    np.testing.assert_array_equal(*found)


@pytest.mark.backends("jax")
def test_a_program_has_one_block_whatever_the_depth():
    calls, sizes = [], []
    for layers in (2, 5):
        made = ak.Autoregressive(transformer(True, layers))
        made.compile(optimizer="adamw")
        prepare(made, IDS)
        kind = type(made.network.blocks[0])
        times, call = [], kind.call

        def counted(self, *args, times=times, call=call, **kwargs):
            times.append(self.name)
            return call(self, *args, **kwargs)

        kind.call = counted
        try:
            (program,) = lowering.step_programs(made, IDS, {})
        finally:
            kind.call = call
        calls.append(times)
        sizes.append(len(str(program.step.trace(*program.arguments).jaxpr).splitlines()))
    assert calls[0] == calls[1] and set(calls[0]) == {"transformer_block_0"}
    assert sizes[0] == sizes[1]


@pytest.mark.backends("jax")
def test_layouts_are_those_of_a_block_with_an_axis_for_the_layers():
    axes = {"data": 2, "model": 4}
    options = {"width": 16, "num_heads": 4}
    looped = specs_for(transformer(False, **options), axes, min_bytes=0)
    scanned = specs_for(transformer(True, **options), axes, min_bytes=0)
    first = {path: spec for path, spec in looped.items() if "_block_0" in path}
    assert len(first) == 8 and ("data", "model") in first.values()
    for path, spec in first.items():
        assert scanned.pop(path) == (None, *spec)
    assert scanned == {path: spec for path, spec in looped.items() if "_block_" not in path}
    pattern = {".*query/kernel": (None, "model")}
    said = specs_for(transformer(True, **options), axes, pattern)
    assert [spec for path, spec in said.items() if "query" in path] == [(None, None, "model")]


REFUSED = {
    "lora": lambda m: m.network.blocks[0].attention.out.enable_lora(2),
    "lora of a layer": lambda m: m.network.stack.enable_lora(2),
    "int8": lambda m: m.network.quantize("int8"),
    "int8 of a model": lambda m: m.quantize("int8"),
    "int8 of one block": lambda m: m.quantize("int8", filters="block_0_up"),
    "int8 of a layer": lambda m: m.network.stack.quantize("int8"),
    "freezing one block": lambda m: setattr(m.network.blocks[1], "trainable", False),
    "dropout of one block": lambda m: setattr(m.network.blocks[1].dropouts[0], "rate", 0.9),
}


@pytest.mark.backends("jax")
@pytest.mark.parametrize("name", REFUSED)
def test_what_it_excludes(name):
    made = model(True)
    with pytest.raises(ValueError, match=r"`scan_layers=True` keeps.*with `scan_layers=False`"):
        REFUSED[name](made)
    assert made.network.embedding.quantization_mode is None


@pytest.mark.backends("jax")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_the_table_can_be_quantised():
    made = model(True)
    made.quantize("int8", filters="embedding")
    assert made.network.embedding.quantization_mode == "int8"


@pytest.mark.backends("jax")
@pytest.mark.parametrize(
    "optimizer, why",
    [
        (lambda: ak.optimizers.Lamb(1e-3), "Received: Lamb"),
        (lambda: ak.optimizers.Muon(1e-3), "Received: Muon"),
        (lambda: keras.optimizers.Adam(1e-3, clipnorm=1.0), "such as `global_clipnorm`"),
    ],
)
def test_optimizers_that_look_at_a_whole_weight_are_refused(optimizer, why):
    made = ak.Autoregressive(transformer(True))
    made.compile(optimizer=optimizer())
    with pytest.raises(ValueError, match=why):
        made.fit(IDS, verbose=0)


def test_a_frozen_network_does_not_train_and_is_saved_so(tmp_path):
    made = model(True)
    made.network.trainable = False
    assert not made.trainable_variables
    made.network.trainable = True
    count = len(made.trainable_variables)
    made.network.trainable = False
    made.network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert not loaded.trainable_variables
    loaded.trainable = True
    assert len(loaded.trainable_variables) == count


def test_without_it_files_are_those_of_earlier_versions():
    assert "scan_layers" not in transformer(False).get_config()
