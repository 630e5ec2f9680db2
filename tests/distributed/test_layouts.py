"""Which weights are cut, and how: the rules, the whole of it for every family, and the user's word.

`layouts.json` holds the layouts of every family and network on each mesh, so that a change is seen
in review. After one that is meant: `python tests/distributed/test_layouts.py` writes it anew.
"""

import json
import sys
import warnings
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import numpy as np
import pytest
from families import FAMILIES

from artifex_keras import networks
from artifex_keras.backend.placement import ordered_devices, put_on
from artifex_keras.distributed import (
    DeviceMesh,
    ModelParallel,
    auto_layout_map,
    data_parallel,
    model_parallel,
)
from artifex_keras.distributed.layouts import placements, specs_for
from artifex_keras.distributed.mesh import VirtualMesh
from artifex_keras.models.autoregressive.chunks import chunk_of

GOLDEN = Path(__file__).with_name("layouts.json")
MESHES = {
    "8": {"data": 8},
    "2x4": {"data": 2, "model": 4},
    "1x8": {"data": 1, "model": 8},
    "2x2x2": {"replica": 2, "data": 2, "model": 2},
}
NETWORKS = {
    "transformer": lambda: networks.CausalTransformer(
        512, 64, num_layers=2, num_heads=8, width=64, num_kv_heads=4
    ),
    "unet": lambda: networks.unet((16, 16, 3), (32, 64), attention=(1,)),
    "dit": lambda: networks.dit((16, 16, 3)),
}


def made(name):
    keras.backend.clear_session()
    if name in NETWORKS:
        return NETWORKS[name]()
    family = next(family for family in FAMILIES if family.name == name)
    model = family.make()
    if not model.built:
        model.build((None, *family.event_shape))
    return model


def layouts(name):
    """`{mesh: {path: "axis of each axis"}}` of those weights that are cut."""
    model = made(name)
    small = {"min_bytes": 512 if name in NETWORKS else 0}
    return {
        mesh: {
            path: " ".join(axis or "-" for axis in spec)
            for path, spec in specs_for(model, axes, **small).items()
            if any(spec)
        }
        for mesh, axes in MESHES.items()
    }


@pytest.mark.parametrize("name", [*NETWORKS, *(family.name for family in FAMILIES)])
def test_the_layouts_that_were_reviewed(name):
    assert layouts(name) == json.loads(GOLDEN.read_text())[name]


def mlp(*widths):
    entry = x = keras.Input((widths[0],))
    for i, width in enumerate(widths[1:]):
        x = keras.layers.Dense(width, name=f"dense_{i}")(x)
    return keras.Model(entry, x)


def test_columns_and_rows_alternate():
    specs = specs_for(mlp(8, 16, 8, 16, 4), {"data": 1, "model": 4})
    assert [specs[f"dense_{i}/kernel"] for i in range(4)] == [
        (None, "model"),
        ("model", None),
        (None, "model"),
        ("model", None),
    ]
    # What a column adds is cut like it; what a row adds is added once, after the sum.
    assert [specs[f"dense_{i}/bias"] for i in range(4)] == [("model",), (None,)] * 2


def test_what_does_not_divide_is_replicated():
    placed = placements(mlp(8, 6, 8), {"data": 1, "model": 4})
    why = "replicated: 4 doesn't divide axis 1 (column)"
    assert placed["dense_0/kernel"] == ((None, None), why)
    assert placed["dense_1/kernel"].spec == (None, "model")  # reads no column: is one itself


def test_fsdp_cuts_the_largest_axis_of_what_is_large():
    specs = specs_for(mlp(64, 128, 96), {"data": 8})
    assert specs["dense_0/kernel"] == (None, "data")  # 4,096 bytes on each device
    assert specs["dense_1/kernel"] == ("data", None)
    assert specs["dense_0/bias"] == (None,)
    assert specs_for(mlp(64, 128, 6), {"data": 8}, fsdp=False)["dense_0/kernel"] == (None, None)


def test_the_floor_is_of_a_shard():
    """64 x 128 numbers of 32 bits are 4,096 bytes of an eighth, 2,048 of a sixteenth."""
    model = mlp(64, 128)
    assert specs_for(model, {"data": 8})["dense_0/kernel"] == (None, "data")
    assert specs_for(model, {"data": 16})["dense_0/kernel"] == (None, None)
    assert specs_for(model, {"data": 16}, min_bytes=2048)["dense_0/kernel"] == (None, "data")
    assert specs_for(model, {"data": 8, "model": 2})["dense_0/kernel"] == (None, "model")


def test_a_table_is_cut_by_its_width_over_the_data():
    network = networks.CausalTransformer(
        1024, 16, num_layers=1, num_heads=4, width=64, tied_embeddings=False
    )
    network.build((None, 16))
    tables = {p: s for p, s in specs_for(network, {"data": 8}).items() if "embeddings" in p}
    assert tables == {
        "transformer/transformer_embedding/embeddings": (None, "data"),
        "transformer/transformer_embedding/reverse_embeddings": (None, "data"),
    }
    tables = specs_for(network, {"data": 2, "model": 4})
    assert tables["transformer/transformer_embedding/embeddings"] == ("model", "data")
    assert tables["transformer/transformer_embedding/reverse_embeddings"] == ("data", "model")


def test_of_three_axes_weights_lie_over_the_last_two():
    axes = {"replica": 2, "data": 4, "model": 8}
    specs = specs_for(mlp(64, 256, 64), axes, min_bytes=0)
    assert specs["dense_0/kernel"] == ("data", "model")
    assert specs["dense_1/kernel"] == ("model", "data")
    distribution = model_parallel((2, 2, 2))
    assert distribution.batch_dim_name == ("data", "replica")
    assert distribution.num_model_replicas == 4
    assert distribution.get_data_layout((8, 3)).axes == (("data", "replica"), None)
    assert distribution.get_data_layout((6, 3)).axes == (None, None)
    rows = distribution.get_data_layout((8, 3)).backend_layout
    assert {s.data.shape for s in put_on(np.zeros((8, 3)), rows).addressable_shards} == {(2, 3)}


def test_a_pattern_may_name_several_axes_of_the_mesh():
    model, mesh = mlp(16, 32), VirtualMesh((2, 2, 2), ("replica", "data", "model"))
    given = {".*kernel": (("replica", "data"), "model")}
    found = auto_layout_map(model, mesh, given)
    assert found["dense_0/kernel"].axes == (("replica", "data"), "model")
    assert found.sizes["dense_0/kernel"] == (2048, 256)
    assert "(replica+data, model)" in str(found)
    with pytest.raises(ValueError, match="4 devices don't divide an axis of 6"):
        auto_layout_map(mlp(6, 8), mesh, given)


def test_factors_of_lora_are_cut_like_their_kernel():
    model = mlp(16, 32, 16)
    for layer in model.layers[1:]:
        layer.enable_lora(4)
    specs = specs_for(model, {"data": 1, "model": 8})
    assert specs["dense_0/kernel"] == (None, "model")
    assert specs["dense_0/lora_kernel_a"] == (None, None)
    assert specs["dense_0/lora_kernel_b"] == (None, "model")
    assert specs["dense_1/kernel"] == ("model", None)
    assert specs["dense_1/lora_kernel_a"] == ("model", None)
    assert specs["dense_1/lora_kernel_b"] == (None, None)


def test_factors_of_attention_and_of_tables():
    tokens = keras.Input((6,), dtype="int32")
    table = keras.layers.Embedding(64, 16, name="table")
    attention = keras.layers.MultiHeadAttention(4, 8, name="attention")
    x = table(tokens)
    model = keras.Model(tokens, attention(x, x))
    table.enable_lora(2)
    attention.query_dense.enable_lora(2)
    attention.output_dense.enable_lora(2)
    specs = specs_for(model, {"data": 1, "model": 4})
    assert specs["table/lora_embeddings_a"] == ("model", None)
    assert specs["table/lora_embeddings_b"] == (None, None)
    assert specs["attention/query/lora_kernel_a"] == (None, "model", None)
    assert specs["attention/attention_output/lora_kernel_a"] == ("model", None, None)


@pytest.mark.parametrize("kind, gates", [("LSTM", 4), ("GRU", 3), ("SimpleRNN", 1)])
def test_recurrent_kernels_by_their_gates(kind, gates):
    entry = keras.Input((5, 8))
    x = getattr(keras.layers, kind)(16, name="memory")(entry)
    model = keras.Model(entry, keras.layers.Dense(16 * gates, name="out")(x))
    specs = specs_for(model, {"data": 2, "model": 4}, min_bytes=0)
    found = {path.rsplit("/", 1)[1]: spec for path, spec in specs.items() if "memory" in path}
    assert found["kernel"] == found["recurrent_kernel"] == ("data", "model")
    assert found["bias"][-1] == "model"
    assert specs["out/kernel"][1] == "model"  # reads a gate's width, and is a column itself


def test_experts_by_their_number():
    tokens = keras.Input((4, 8))  # 4 experts, each with tokens of its own
    layer = keras.layers.EinsumDense("bed,edf->bef", (4, 16), bias_axes="ef", name="up")
    model = keras.Model(tokens, layer(tokens))
    specs = specs_for(model, {"data": 2, "model": 4}, min_bytes=0)
    assert specs["up/kernel"] == ("model", None, "data")
    assert specs["up/bias"] == ("model", "data")
    uneven = specs_for(model, {"data": 1, "model": 8})
    assert uneven["up/kernel"] == (None, None, "model")


def test_a_quantized_kernel_is_cut_too():
    model = mlp(16, 32, 16)
    for layer in model.layers[1:]:
        layer.quantize("int8")
    specs = specs_for(model, {"data": 2, "model": 4}, min_bytes=0)
    assert specs["dense_0/kernel"] == ("data", "model")


def test_attention_of_keras_by_its_heads():
    tokens = keras.Input((6, 16))
    attention = keras.layers.MultiHeadAttention(4, 8, name="attention")
    model = keras.Model(tokens, attention(tokens, tokens))
    specs = specs_for(model, {"data": 1, "model": 4})
    assert specs["attention/query/kernel"] == (None, "model", None)
    assert specs["attention/query/bias"] == ("model", None)
    assert specs["attention/attention_output/kernel"] == ("model", None, None)
    assert specs["attention/attention_output/bias"] == (None,)
    uneven = specs_for(model, {"data": 1, "model": 8})
    assert uneven["attention/query/kernel"] == (None, None, None)


def test_the_users_patterns_come_first():
    model = mlp(8, 16, 8)
    specs = specs_for(model, {"data": 2, "model": 4}, {".*_0/kernel": ("data", "model")})
    assert specs["dense_0/kernel"] == ("data", "model")


@pytest.mark.parametrize(
    "layout_map, message",
    [
        ({"dense_0": (None,)}, "'dense_0' of `layout_map` matches no weight"),
        ({".*_0/k.*": (None, "model"), ".*/kernel": (None, "model")}, "Two patterns"),
        ({".*_0/kernel": ("model",)}, "must name an axis"),
        ({".*_0/kernel": (None, "batch")}, r"The mesh has the axes \['data', 'model'\]"),
        ({".*_1/kernel": (None, "model")}, "4 devices don't divide an axis of 6"),
        ({"dense_7/output": ("data",)}, "matches no layer's output"),
    ],
)
def test_mistakes_in_patterns(layout_map, message):
    model = mlp(8, 16, 6)
    with pytest.raises(ValueError, match=message):
        auto_layout_map(model, VirtualMesh((2, 4)), layout_map)


@pytest.mark.parametrize("make", [model_parallel, ModelParallel])
def test_the_floor_has_a_new_name(make):
    with pytest.raises(TypeError, match="'min_size'. Did you mean 'min_bytes'"):
        make(DeviceMesh((8,), ("data",)), min_size=4096)


def test_the_table_is_what_lies_there():
    model = mlp(64, 128, 64)
    distribution = model_parallel((2, 4), model)
    table = str(distribution).splitlines()
    assert table[0] == "DeviceMesh(data 2 x model 4)"
    assert [row.split()[0] for row in table[2:]] == [*(w.path for w in model.weights), "all"]
    for row, weight in zip(table[2:-1], model.weights, strict=True):
        there = weight.value.addressable_shards[0].data.nbytes
        assert f" {there:,} " in row, row


def test_meshes_and_devices_that_there_are_not():
    assert DeviceMesh((2, 2)).axis_names == ("data", "model")
    assert DeviceMesh(shape=(1, 1), axis_names=("data", "model")).devices.shape == (1, 1)
    with pytest.raises(ValueError, match="There are 8 devices here .* and 16 were asked for"):
        DeviceMesh((4, 4))
    with pytest.raises(ValueError, match="num_devices=9"):
        data_parallel(9)
    with pytest.raises(ValueError, match="must name each axis"):
        DeviceMesh((2, 2), ("data",))
    with pytest.raises(ValueError, match=r"`mesh` must be one size, two or three.*\(1, 1, 1, 1\)"):
        model_parallel((1, 1, 1, 1))
    with pytest.raises(ValueError, match="needs 4 devices. Received: 2"):
        DeviceMesh((2, 2), devices=["cpu:0", "cpu:1"])


class Chip:
    """A device of one of two slices of four, as far as a mesh looks at it."""

    platform, device_kind, process_index = "gpu", "a chip", 0

    def __init__(self, number):
        self.id, self.slice_index = number, number % 2


def test_slices_lie_along_the_first_axis(monkeypatch):
    chips = [Chip(number) for number in range(8)]
    monkeypatch.setattr("jax.devices", lambda *platform: chips)
    names = [f"gpu:{chip.id}" for chip in chips]
    expected = [f"gpu:{number}" for number in (0, 2, 4, 6, 1, 3, 5, 7)]
    for shape in ((2, 4, 1), (4, 2), (8,)):
        assert ordered_devices(shape, names) == expected
    assert ordered_devices((1, 8), names) == names


def test_bytes_under_fsdp_are_an_eighth():
    model = mlp(256, 512, 256)
    model_parallel((8,), model)
    kernels = [weight.value for weight in model.weights if len(weight.shape) == 2]
    whole = sum(value.nbytes for value in kernels)
    there = sum(value.addressable_shards[3].data.nbytes for value in kernels)
    np.testing.assert_allclose(there, whole / 8, rtol=0.1)


def test_logits_are_made_in_chunks_of_a_devices_own_rows():
    whole, rows = 4 * 16 * 128 * 131_072, 16  # bytes of the logits: 1 GiB
    assert chunk_of("auto", rows, 128, 131_072) == 128
    with model_parallel((2, 2, 2)).scope():  # 4 shards of rows, 2 of an even vocabulary
        assert chunk_of("auto", rows, 128, 131_071) == 4 * 128
        assert chunk_of("auto", rows, 256, 131_072) == 8 * 128
    with data_parallel(8).scope():
        assert whole / 8 == 2**27 and chunk_of("auto", rows, 128, 131_072) is None


def test_a_run_says_when_half_of_the_bytes_are_held_whole():
    model = mlp(1031, 4099)  # primes, 17 MB
    said = r"holds 17 of 17 MB of weights whole: indivisible \('dense_0/kernel', \(1031, 4099\)"
    with pytest.warns(UserWarning, match=said):
        distribution = model_parallel((8,), model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distribution.shard(model)  # once
        model_parallel((8,), mlp(1024, 4096))
        model_parallel((8,), mlp(31, 41))  # no burden
        model_parallel((1, 1), mlp(1031, 4099))


if __name__ == "__main__":
    names = [*NETWORKS, *(family.name for family in FAMILIES)]
    GOLDEN.write_text(json.dumps({name: layouts(name) for name in names}, indent=1) + "\n")
