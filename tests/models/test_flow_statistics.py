"""Statistics that flows take from data: enough rows of them, and no harm from those that vary
seldom or not at all."""

import functools
import warnings

import keras
import numpy as np
import pytest
from keras import ops

from artifex_keras.datasets import standardise
from artifex_keras.models import NormalizingFlow
from artifex_keras.networks import bijections as b

ROWS, SIDE = 512, 4
WIDTH = SIDE * SIDE

FLOWS = {
    "realnvp": lambda: b.realnvp(WIDTH, 2, (16,)),
    "autoregressive": lambda: b.masked_autoregressive_flow(WIDTH, 2, (16,)),
    "spline": lambda: b.spline_flow(WIDTH, 2, (16,), bins=4),
    "glow": lambda: b.glow((SIDE, SIDE, 1), 2, 1, (8,)),
}


def normal():
    """Columns that say much of one another."""
    random = np.random.default_rng(0)
    return random.normal(size=(ROWS, 1)) + 0.5 * random.normal(size=(ROWS, WIDTH))


def with_column(values):
    x = normal()
    x[:, 5] = values
    return x


def sparse():
    """Most entries are 0 in most rows, as the edges of images are; three always are."""
    random = np.random.default_rng(1)
    seldom = random.uniform(size=(ROWS, WIDTH)) < np.geomspace(0.002, 0.9, WIDTH)
    seldom[:, :3] = False
    return (seldom * random.integers(1, 17, (ROWS, WIDTH)) / 16).astype("float32")


def sorted_rows():
    """The first rows are of another kind than the rest."""
    x = normal()
    x[:64] = 0.01 * x[:64] + 3
    return x


CASES = {  # data and the batch size
    "sparse": (sparse, 64),
    "rare": (lambda: with_column(np.arange(ROWS) == 300), 64),
    "constant": (lambda: with_column(255.0), 64),
    "bytes": (lambda: np.clip(np.round(128 + 50 * normal()), 0, 255), 64),
    "scales": (lambda: normal() * np.geomspace(1e-3, 1e3, WIDTH), 64),
    "first rows": (sorted_rows, 64),
    "outlier": (lambda: normal() * np.where(np.arange(ROWS) == 99, 1e3, 1)[:, None], 64),
    "one row": (lambda: sparse()[:96], 1),
    "three rows": (lambda: 255 * sparse()[:192], 3),
}


@functools.cache
def model_of(name):
    """A flow with its optimizer, and what all their variables were at first."""
    keras.utils.set_random_seed(0)
    flow = NormalizingFlow(FLOWS[name](), seed=0)
    flow.compile(keras.optimizers.Adam(1e-3))
    flow.build_optimizer()
    variables = flow.variables + flow.optimizer.variables
    return flow, [(v, ops.convert_to_numpy(v).copy()) for v in variables]


def fresh(name):
    flow, first = model_of(name)
    for variable, value in first:
        variable.assign(value)
    return flow


def shaped(name, x):
    return x.astype("float32").reshape(-1, *fresh(name).data_shape)


@pytest.mark.quick(4)
@pytest.mark.filterwarnings("ignore:.*vary in")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_learns_from_columns_of_every_kind(name, case):
    make, size = CASES[case]
    x, flow = shaped(name, make()), fresh(name)
    options = {"batch_size": size, "epochs": 2, "shuffle": False, "verbose": 0}
    losses = flow.fit(x, **options).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[1] < losses[0] < 200 + 1000 * (name == "glow")  # a channel has all pixels' scales


@pytest.mark.parametrize("case", ["sparse", "first rows", "one row"])
def test_so_it_does_from_batches_as_they_come(case):
    make, size = CASES[case]
    x, flow = shaped("realnvp", make()), fresh("realnvp")
    losses = [
        np.mean([flow.train_on_batch(x[i : i + size])[0] for i in range(0, len(x), size)])
        for _ in range(4)
    ]
    assert np.isfinite(losses).all()
    assert losses[3] < losses[2]  # the first two gather


def test_arrays_give_the_statistics_of_all_their_rows():
    """However the batches are: those of 16 sorted rows, and of all at once."""
    x = shaped("realnvp", np.sort(normal(), axis=0))
    found = []
    for size in (16, 64):
        flow = fresh("realnvp")
        before = ops.convert_to_numpy(flow._sampling_seed.state.value)
        flow.look_at(x, None, None)
        flow.fit(x[:64], batch_size=size, verbose=0)
        np.testing.assert_array_equal(flow._sampling_seed.state.value, before)
        norm = flow.bijection.bijections[0]
        found.append([ops.convert_to_numpy(v) for v in (norm.mean, norm.log_std)])
        assert float(norm.initialised) == 1
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_allclose(found[0][0], x.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.exp(found[0][1]), x.std(0), rtol=0.05)


def test_a_column_that_does_not_vary_is_named():
    x = shaped("realnvp", with_column(0.1))
    x[:, 12] = -7
    with pytest.warns(UserWarning, match=r"Columns 5, 12 of the data don't vary in 512 rows"):
        fresh("realnvp").look_at(x, None, None)
    image = shaped("glow", with_column(0.1))
    with pytest.warns(UserWarning, match=r"Entry \(1, 1, 0\) of the data doesn't vary"):
        fresh("glow").look_at(image, None, None)


# Columns that are standardised


@pytest.mark.parametrize("scaled", [lambda x: b.Standardise().adapt(x)(x), standardise])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e6, 255.0])
def test_a_constant_or_rare_column_gives_no_huge_values(scaled, value):
    train = normal()[:, :3].astype("float32")
    train[:, 1] = value
    train[:, 2] = np.arange(ROWS) == 7
    with pytest.warns(UserWarning, match="Column 1 of the data doesn't vary in 512 rows"):
        z = ops.convert_to_numpy(scaled(train))
    assert np.abs(z).max() <= 20.001
    np.testing.assert_allclose(z[:, 1], 0, atol=1e-6)
    np.testing.assert_allclose((z[:, 0].mean(), z[:, 0].std()), (0, 1), atol=1e-5)


def test_what_a_constant_column_has_later_stays_in_the_range_of_the_others():
    train = 1e-4 * normal()[:, :3]
    train[:, 1] = 0
    with pytest.warns(UserWarning, match="Column 1"):
        step = b.Standardise().adapt(train)
    z = ops.convert_to_numpy(step(np.full((1, 3), 3e-4, "float32")))
    assert abs(z[0, 1]) < 5


def test_columns_of_all_scales_are_brought_to_one():
    x = normal() * np.geomspace(1e-5, 1e5, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        z = ops.convert_to_numpy(b.Standardise().adapt(x)(x.astype("float32")))
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "text"),
    [((1,), "MaskedAutoregressive"), ((8, 8, 1), "Squeeze"), ((8, 1), "Flatten")],
)
def test_a_coupling_of_one_entry_says_what_helps(shape, text):
    for coupling in (b.SplineCoupling, b.AffineCoupling):
        with pytest.raises(ValueError, match=rf"{coupling.__name__} needs two .*{text}"):
            coupling((4,)).build((None, *shape))
