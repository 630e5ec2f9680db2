"""What `fit`, `evaluate` and `predict` take as data, and what they say of what they can't take."""

import itertools

import keras
import numpy as np
import pytest
import sources
from families import FAMILIES, NAMES
from fresh import fresh
from keras import ops

from artifex_keras.backend.sources import describe
from artifex_keras.trainers import Trainer

PLAIN, LABELLED = (FAMILIES[NAMES.index(name)] for name in ("vae", "gan-conditional"))
X = PLAIN.arrays(32)[0]
LABELS = LABELLED.arrays(32)[1]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Your input ran out of data", "ignore:`shuffle=True` was passed"
)


def fit(family, *data, **options):
    """What a fit on `data` leaves: the history, and all weights."""
    model = fresh(family)
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, **options}
    history = model.fit(*data, **options).history
    return history, [ops.convert_to_numpy(w).copy() for w in model.weights]


def assert_same(first, second):
    for name, value in first[0].items():
        np.testing.assert_allclose(value, second[0][name], rtol=1e-6)
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.seam
@pytest.mark.parametrize(
    "data",
    [
        [X],
        (X,),
        list(X),
        X.tolist(),
        X.astype("float64"),
        ops.convert_to_tensor(X),
        {"x": X},
        {"image": X},
        {"pixel_values": list(X)},
        {"tokens": X, "sample_weight": np.ones(32)},
    ],
    ids=range(10),
)
def test_arrays_in_every_form(data):
    model, expected = fresh(PLAIN), fit(PLAIN, X)
    assert_same(fit(PLAIN, data), expected)
    loss = fresh(PLAIN).evaluate(X, batch_size=16, verbose=0)
    assert model.evaluate(data, batch_size=16, verbose=0) == pytest.approx(loss, rel=1e-6)
    outputs = fresh(PLAIN).predict(X, batch_size=16, verbose=0)
    if not isinstance(data, dict) or len(data) == 1:
        np.testing.assert_array_equal(model.predict(data, batch_size=16, verbose=0), outputs)
    history, _ = fit(PLAIN, X, validation_data=data)
    expected, _ = fit(PLAIN, X, validation_data=(X,))
    assert history["val_loss"] == pytest.approx(expected["val_loss"], rel=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        ((X, LABELS),),
        ([X, LABELS],),
        (X, LABELS.tolist()),
        ({"x": X, "y": LABELS},),
        ({"image": X, "label": LABELS},),
        ({"features": X, "condition": LABELS},),
        ({"data": X}, LABELS),
    ],
)
def test_labels_in_every_form(data):
    assert_same(fit(LABELLED, *data), fit(LABELLED, X, LABELS))


def test_tables():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcdef"))
    assert_same(fit(PLAIN, table), fit(PLAIN, X))
    assert_same(fit(LABELLED, table, pandas.Series(LABELS)), fit(LABELLED, X, LABELS))
    table["name"] = "abc"
    with pytest.raises(ValueError, match=r"must be numbers. Received: the columns \['name'\]"):
        fit(PLAIN, table)


@pytest.mark.parametrize("name", sources.available())
def test_a_batch_of_any_source_is_evaluated_and_predicted(name):
    make, endless = sources.SOURCES[name]
    model, steps = fresh(LABELLED), 2 if endless else None
    size = sources.BATCH if name == "dict of arrays" else None
    expected = model.evaluate(X, LABELS, batch_size=16, verbose=0)
    given = model.evaluate(make((X, LABELS)), batch_size=size, steps=steps, verbose=0)
    np.testing.assert_allclose(given, expected, rtol=1e-5)
    model = fresh(PLAIN)
    given = model.predict(make((X,)), batch_size=size, steps=steps, verbose=0)
    np.testing.assert_allclose(given, model.predict(X, batch_size=16, verbose=0), rtol=1e-5)


@pytest.mark.seam
@pytest.mark.parametrize("name", [n for n in sources.available() if n not in sources.OTHERS])
def test_a_trainer_takes_the_same(name):
    make, endless = sources.SOURCES[name]
    config = {"batch_size": 16, "num_epochs": 2, "shuffle": False, "verbose": 0}
    model = fresh(PLAIN)
    config |= {"optimizer": model.optimizer, "steps_per_epoch": 2 if endless else None}
    held_out = None if endless else make((X,))
    losses = Trainer(model, config, make((X,)), held_out).train().history["loss"]
    np.testing.assert_allclose(losses, fit(PLAIN, X, epochs=2)[0]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"pixels": X}, r"Received: the columns \['pixels'\]. Rename them"),
        ({"x": X, "image": X}, r"Received: the columns \[.*'image'"),
        ({"x": X, "mask": X}, r"'sample_weight' or .* no others. Received: .*'mask'"),
        ({"label": LABELS}, r"one column of data \('x' or 'image'"),
        ({"y": LABELS, "x": X, "target": LABELS}, "may have one of targets"),
        (({"x": X, "y": LABELS}, LABELS), "`y` is there twice"),
    ],
)
def test_other_columns_are_refused(data, words):
    with pytest.raises(ValueError, match=words):
        fit(LABELLED, data)
    with pytest.raises(ValueError, match=words):
        fit(LABELLED, (batch for batch in [data, data]))


# Without an end


class Endless(sources.Endless):
    pass


@pytest.mark.parametrize(
    "data",
    [
        lambda: Endless([(X,)]),
        lambda: itertools.cycle([X]),
        *(
            (lambda name=name: sources.SOURCES[name][0]((X,)))
            for name in sources.available()
            if name.startswith("endless")
        ),
    ],
)
def test_data_without_an_end_need_a_number_of_steps(data):
    model = fresh(PLAIN)
    for method, name in (("fit", "steps_per_epoch"), ("evaluate", "steps"), ("predict", "steps")):
        with pytest.raises(ValueError, match=f"have no end: say with `{name}` how many"):
            getattr(model, method)(data(), verbose=0)
    with pytest.raises(ValueError, match="say with `validation_steps` how many"):
        model.fit(X, validation_data=data(), verbose=0)


# Steps


@pytest.mark.seam
@pytest.mark.backends("jax", "tensorflow")
@pytest.mark.parametrize("execution", [4, 8])
@pytest.mark.parametrize("endless", [False, True])
def test_an_epoch_has_exactly_its_steps(execution, endless):
    """Passes over the data go on across epochs; 16 batches are 3 epochs of 5 and a rest."""
    seen = []

    class Steps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

        def on_epoch_end(self, epoch, logs=None):
            seen.append(int(self.model.step))

    batches, after = [(X[i : i + 2],) for i in range(0, 32, 2)], []
    for size in (1, execution):
        model = fresh(PLAIN, execution=size)
        data = Endless(batches) if endless else sources.Batches(batches)
        options = {"epochs": 3, "steps_per_epoch": 5, "shuffle": False, "verbose": 0}
        model.fit(data, callbacks=[Steps()], **options)
        value = model.evaluate(data, steps=5, verbose=0)
        after.append((value, [ops.convert_to_numpy(w).copy() for w in model.weights]))
    ends = [3, 4] if execution == 4 else [4]
    assert seen == [
        *(n for e in (5, 10, 15) for n in [*range(5), e]),
        *(n for e in (5, 10, 15) for n in [*ends, e]),
    ]
    assert after[0][0] == pytest.approx(after[1][0], rel=1e-5)
    for a, b in zip(after[0][1], after[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


# Few rows, weights of classes


@pytest.mark.parametrize("name", ["vae", "wgan-gp"])
def test_fewer_rows_than_a_batch_are_a_smaller_batch(name):
    family = FAMILIES[NAMES.index(name)]
    few, exact = (fit(family, *family.arrays(5), batch_size=size) for size in (32, 5))
    assert_same(few, exact)


def test_weights_of_classes_are_sample_weights():
    weights = {0: 0.5, 1: 2.0}
    per_row = np.array([0.5, 2.0, 1.0])[LABELS]
    expected = fit(LABELLED, X, LABELS, sample_weight=per_row)
    assert_same(fit(LABELLED, X, LABELS, class_weight=weights), expected)
    data = sources.Batches(sources.batches((X, LABELS)))
    assert_same(fit(LABELLED, data, batch_size=None, class_weight=weights), expected)


@pytest.mark.parametrize("name", ["PyDataset", "dict of arrays", "arrays", "tf.data"])
def test_weights_of_classes_need_classes(name):
    if name not in (*sources.available(), "arrays"):
        pytest.skip("tf.data is TensorFlow's")
    data = X if name == "arrays" else sources.SOURCES[name][0]((X,))
    with pytest.raises(ValueError, match="`class_weight` weighs examples by their class in `y`"):
        fit(PLAIN, data, class_weight={0: 1.0})


# What is known before data are read


def test_descriptions():
    def facts(data, **options):
        source = describe(data, **options)
        return source.batches, source.endless, source.rows, source.repeatable

    assert facts(X) == (1, False, 32, True)
    assert facts({"x": X[:33], "y": LABELS}, batch_size=5) == (7, False, 32, True)
    assert facts(sources.Batches([X, X])) == (2, False, None, True)
    assert facts(Endless([X])) == (None, True, None, True)
    assert facts(iter([X])) == (None, False, None, False)
    assert facts(b for b in [X]) == (None, False, None, False)
    for name in set(sources.available()) - {"dict of arrays"}:
        source = describe(sources.SOURCES[name][0]((X,)))
        unknown = "without length" in name or name.startswith(("generator", "iterator"))
        assert source.endless == name.startswith("endless"), name
        assert source.batches == (None if unknown or source.endless else 2), name


def test_a_loader_stays_the_users_own():
    data = pytest.importorskip("torch.utils.data")
    loader = data.DataLoader(list(X), batch_size=16)
    kind = type(loader)
    fit(PLAIN, loader, batch_size=None)
    assert type(loader) is kind and next(iter(loader)).shape == (16, 6)
    assert isinstance(keras.ops.convert_to_tensor(next(iter(loader)).numpy()).shape, tuple)
