"""The contract of data: every row of every source, in each family, before a step sees it."""

import keras
import numpy as np
import pytest

import artifex_keras as ak
from artifex_keras.models.data_contract import FINITE, check, labels, tokens
from tests.families import FAMILIES, NAMES
from tests.fresh import fresh

ROWS, BATCH = 32, 8


def row(name):
    return FAMILIES[NAMES.index(name)]


class Batches(keras.utils.PyDataset):
    def __init__(self, arrays):
        super().__init__()
        self.parts = arrays

    def __len__(self):
        return len(self.parts[0]) // BATCH

    def __getitem__(self, index):
        return tuple(a[index * BATCH : (index + 1) * BATCH] for a in self.parts)

    def batches(self):
        return [self[index] for index in range(len(self))]


def generated(arrays):
    batches = Batches(arrays)
    return (batches[index] for index in range(len(batches)))


SOURCES = {"arrays": None, "batches": Batches, "generator": generated}


def given(source, arrays):
    """Arguments of `fit` and `evaluate`."""
    if SOURCES[source] is None:
        names = ("x", "y", "sample_weight")
        return dict(zip(names, arrays, strict=False)) | {"batch_size": BATCH}
    return {"x": SOURCES[source](arrays)}


def with_value(array, value, at=3):
    array = np.array(array, np.result_type(array, type(value)))
    array[at] = value
    return array


def counted_from_one(y):
    return y % 2 + 2  # of three classes 0, 1, 2


def weights(value):
    return with_value(np.ones(ROWS, "float32"), value)


LABELLED = [family.name for family in FAMILIES if family.labels]
FAULTS = [  # family, what is wrong, the words of the message
    *((name, lambda x, y: (x, counted_from_one(y)), "Labels .*Subtract 1") for name in LABELLED),
    *((name, lambda x, y: (x, with_value(y % 2, -1)), "label -1, first in") for name in LABELLED),
    ("gan-conditional", lambda x, y: (x, with_value(y, 0.5)), r"\[0, 3\).* label 0.5, first in"),
    ("energy-jem", lambda x, y: (x, with_value(y, np.nan)), "label nan, first in"),
    ("flow-spline-conditional", lambda x, y: (x, with_value(y, 1.5)), "label 1.5, first in"),
    ("energy-jem", lambda x, y: (x, y, weights(np.nan)), "Sample weights.* weight nan, first in"),
    ("vae", lambda x: (with_value(x, np.inf),), "must be finite. Received: value inf, first in"),
    ("vae-everything", lambda x: (with_value(x, 255.0),), r"data in \[0, 1\]. Received: value 255"),
    ("vae-categorical", lambda x: (with_value(x, 5.0),), "whole levels 0..4.*level 5, first in"),
    ("vae-categorical", lambda x: (with_value(x, 0.5),), "level 0.5, first in"),
    ("energy-pcd", lambda x: (with_value(x, 3.0),), r"lie in `value_range`, \[-1, 2\].*value 3"),
    ("autoregressive", lambda x: (with_value(x, 7),), r"Token ids must be in \[0, 7\).*id 7"),
    ("autoregressive", lambda x: (x, with_value(x, -7)), "or -100 where none counts.*id -7"),
    ("autoregressive", lambda x: (x, np.full_like(x, 9)), r"Labels must be in \[0, 7\).*id 9"),
    ("pixel", lambda x: (with_value(x, 1.5),), r"Images must be floats in \[0, 1\].*value 1.5"),
    ("pixel", lambda x: (np.full(x.shape, 9, "uint8"),), "levels from 0 to 8.*value 9"),
]


@pytest.mark.seam
@pytest.mark.parametrize(("name", "fault", "words"), sorted(FAULTS, key=lambda fault: fault[0]))
def test_data_that_break_the_contract(name, fault, words):
    model = fresh(row(name))
    arrays = fault(*row(name).arrays(ROWS))
    for source in SOURCES:
        for method in (model.fit, model.evaluate):
            with pytest.raises(ValueError, match=words):
                method(**given(source, arrays), verbose=0)
    with pytest.raises(ValueError, match=words):
        model.train_on_batch(*Batches(arrays)[0])
    with pytest.raises(ValueError, match=words):
        good = row(name).arrays(ROWS)
        model.fit(*good, validation_data=arrays, batch_size=BATCH, verbose=0)


@pytest.mark.seam
def test_a_late_batch_is_named_and_stops_the_run_before_its_step():
    model = fresh(row("energy-jem"))
    x, y = row("energy-jem").arrays(ROWS)
    late = with_value(x, np.nan, at=21)
    with pytest.raises(ValueError, match="value nan, first in row 5 of batch 3"):
        model.fit(Batches((late, y)), shuffle=False, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.step)) == 2
    assert all(np.isfinite(w).all() for w in model.get_weights())


def of_grain(arrays):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(*arrays, strict=True))).batch(BATCH)


def of_torch(arrays):
    data = pytest.importorskip("torch").utils.data
    return data.DataLoader(list(zip(*arrays, strict=True)), BATCH)


def of_tensorflow(arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)


@pytest.mark.seam
@pytest.mark.parametrize("make", [of_grain, of_torch, of_tensorflow])
def test_loaders(make):
    x, y = row("energy-jem").arrays(ROWS)
    model = fresh(row("energy-jem"))
    with pytest.raises(ValueError, match="label 3, first in row"):
        model.fit(make((x, with_value(y, 3))), verbose=0)


def test_all_rows_of_large_arrays():
    model = fresh(row("vae-everything"))
    x = np.resize(row("vae").arrays(48)[0], (600, 6))
    with pytest.raises(ValueError, match="value 255, first in row 500 .1 such of 3600"):
        model.fit(with_value(x, 255.0, at=(500, 2)), verbose=0)


@pytest.mark.parametrize(
    ("weight", "words"),
    [(weights(-1.0), "weight -1, first in row 3"), (np.zeros(ROWS), "32 weights that are all 0")],
)
def test_weights(weight, words):
    model = fresh(row("vae"))
    x = row("vae").arrays(ROWS)[0]
    with pytest.raises(ValueError, match=words):
        model.fit(x, sample_weight=weight, verbose=0)
    with pytest.raises(ValueError, match=words):
        model.evaluate(x, sample_weight=weight, verbose=0)


WEIGHED = {
    "pydataset": Batches,
    "generator": lambda arrays: iter([*Batches(arrays).batches()]),
    "columns": lambda arrays: iter(
        [
            dict(zip(("x", "sample_weight"), (b[0], b[2]), strict=True))
            for b in Batches(arrays).batches()
        ]
    ),
    "torch": lambda arrays: of_torch(arrays),
    "grain": lambda arrays: of_grain(arrays),
    "tensorflow": lambda arrays: of_tensorflow(arrays),
}


@pytest.mark.seam
@pytest.mark.parametrize("form", WEIGHED)
def test_weights_that_are_all_0_in_batches(form):
    """Arrays say it before anything runs, batches once they are over."""
    model = fresh(row("vae"))
    x = row("vae").arrays(ROWS)[0]

    def data(weight):
        return WEIGHED[form]((x, np.zeros((ROWS, 0), "float32"), weight.astype("float32")))

    zero, one = np.zeros(ROWS), np.eye(1, ROWS, ROWS - 1)[0]
    for train in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="32 weights that are all 0: nothing would count"):
            train(data(zero), verbose=0)
        train(data(one), verbose=0)


def test_a_run_of_a_few_batches_without_weights_waits_for_its_end():
    model = fresh(row("vae"))
    x = row("vae").arrays(ROWS)[0]
    weight = np.repeat(np.float32([0, 1, 0, 1]), BATCH)
    data = Batches((x, np.zeros((ROWS, 0), "float32"), weight))
    model.fit(data, steps_per_epoch=1, epochs=2, shuffle=False, verbose=0)
    with pytest.raises(ValueError, match="8 weights that are all 0"):
        model.fit(data, steps_per_epoch=1, epochs=1, shuffle=False, verbose=0)


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("flow-spline-conditional", lambda m, x: m.log_prob(x, np.full(ROWS, 3)), "label 3, first"),
        ("flow-spline-conditional", lambda m, x: m.encode(x, [0.5] * ROWS), "label 0.5, first"),
        ("flow-spline-conditional", lambda m, x: m.sample(2, condition=[0, -1]), "label -1"),
        ("flow-spline-conditional", lambda m, x: m.bits_per_dim(x + np.nan, condition=0), "finite"),
        ("flow-matching-conditional", lambda m, x: m.sample(2, condition=3), "learned null"),
        ("diffusion-conditional", lambda m, x: m.bits_per_dim(x / 0, condition=0), "finite"),
        ("gan-conditional", lambda m, x: m.sample(2, condition=[0, 3]), "label 3, first in row 1"),
        ("gan-conditional", lambda m, x: m.predict([x[:, :3], np.full(ROWS, 3)]), "label 3"),
        ("energy-jem", lambda m, x: m.energy(x, np.full(ROWS, 3)), "label 3, first in row 0"),
        ("energy-jem", lambda m, x: m.score(with_value(x, np.inf)), "inf, first in row 3"),
        ("vae-everything", lambda m, x: m.encode(x + 9), r"data in \[0, 1\]"),
        ("vae-everything", lambda m, x: m.log_likelihood(x + 9), r"data in \[0, 1\]"),
        ("vae-everything", lambda m, x: m.predict(Batches((x + 9,))), "row 0 of batch 1"),
        ("vae-everything", lambda m, x: m.reconstruct(x + np.nan), "value nan"),
        ("autoregressive", lambda m, x: m.log_prob(x + 9), "Token ids must be in"),
        ("autoregressive", lambda m, x: m.perplexity(x, x + 9), "Labels must be in"),
        ("autoregressive", lambda m, x: m.generate([[1], [2, 8]], 2), "id 8, first in prompt 1"),
        ("pixel", lambda m, x: m.log_prob(x + 9), "Images must be"),
    ],
)
def test_methods_hold_it_too(name, call, words):
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match=words):
        call(fresh(row(name)), row(name).arrays(ROWS)[0])


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16", "int16", "uint32", "int64", "bool"])
def test_integers_of_any_width_are_the_same_labels(kind):
    x, y = row("energy-jem").arrays(ROWS)
    losses = []
    for y_kind in (kind, "int32"):
        model = fresh(row("energy-jem"))
        losses.append(model.evaluate(x, (y % 2).astype(y_kind), verbose=0))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_floats_of_any_width_are_the_same_data(kind):
    x = np.round(row("vae").arrays(ROWS)[0] * 64) / 64
    first, second = (fresh(row("vae")).evaluate(x.astype(k), verbose=0) for k in (kind, "float32"))
    assert first == second


def test_bytes_keep_their_null():
    """Of 256 classes the null is 256, which no byte holds."""
    model = ak.Diffusion(ak.networks.timed_mlp((2,), (4,), num_classes=256), num_timesteps=9)
    condition = model.repeated_condition(np.array([0, 255, 7], "uint8"), 3)
    assert keras.ops.convert_to_numpy(model.null_condition(condition)).tolist() == [256] * 3
    batch = model.unpack((np.zeros((3, 2), "float32"), np.array([0, 255, 7], "uint8")))
    assert keras.ops.convert_to_numpy(model.null_condition(batch.y)).tolist() == [256] * 3


def test_token_labels_of_bytes_all_count():
    x = row("autoregressive").arrays(ROWS)[0]
    model = fresh(row("autoregressive"), ignore_index=-253)  # 3 as a byte
    counts = [
        keras.ops.convert_to_numpy(model.unpack((x, x.astype(kind))).y[1]).sum()
        for kind in ("uint8", "int32")
    ]
    assert counts[0] == counts[1] == x[:, 1:].size


@pytest.mark.parametrize("unit", [True, False])
def test_levels_of_a_flow(unit):
    flow = ak.NormalizingFlow(
        ak.networks.realnvp((2,), 1, (4,)), dequantize=256, unit_interval=unit
    )
    levels = np.array([[0, 255], [7, 128]])
    good, bad = (levels / 255, levels) if unit else (levels, levels / 255)
    for kind in ("float64", "float32") if unit else ("uint8", "int16", "float32"):
        flow.log_prob(good.astype(kind))
    for kind in ("uint8", "int64", "float32") if unit else ("float64", "float32"):
        with pytest.raises(ValueError, match="dequantize=256 needs data"):
            flow.log_prob(bad.astype(kind))


@pytest.mark.parametrize(
    ("values", "good", "bad"),
    [
        (FINITE, [0.0, -3e38], [np.nan, np.inf, -np.inf]),
        (labels(3), [0, 2, 1.0], [-1, 3, 0.5, np.nan, 2**40]),
        (labels(4, null=3), [0, 2], [3, 4]),
        (labels(4, null=1), [0, 2, 3], [1]),
        (labels(), [0, 10**6], [-1, 2**31]),
        (tokens(5, besides=-100), [-100, 0, 4], [-1, 5, -99]),
    ],
)
def test_values(values, good, bad):
    assert values.hold(np.array(good)) and values.hold(np.array([]))
    for value in bad:
        mixed = np.array([*good, value])
        assert not values.hold(mixed)
        error = values.broken(mixed, lambda row: f"row {row}")
        assert f"first in row {len(good)} (1 such" in str(error)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.arange(6)[:, None] % 3, r"labels\[:, 0\]"),
        (np.eye(3)[np.arange(6) % 3], r"argmax\(axis=-1\)"),
        (np.arange(6) % 3.0, r"astype\('int32'\)"),
        (np.array(["a", "b", "c"] * 2), "`y` must hold numbers.*return_inverse"),
    ],
    ids=["column", "one-hot", "floats", "texts"],
)
def test_labels_of_another_form_get_the_way_out(y, words):
    row = next(family for family in FAMILIES if family.name == "diffusion-conditional")
    model, x = row.make(), row.arrays(6)[0]
    model.compile("adam")
    with pytest.raises(ValueError, match=words):
        model.fit(x, y, verbose=0)
    with pytest.raises(ValueError, match="`x` must hold numbers"):
        model.fit(x.astype(object), np.arange(6) % 3, verbose=0)


def test_the_range_leaves_out_what_is_not_finite():
    x = np.array([[0.5], [np.nan], [2.0]])
    with pytest.raises(ValueError, match=r"the others from 0.5 to 2\)"):
        check(FINITE, x)
