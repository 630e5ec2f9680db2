"""What every family inherits: fit, save, load, seeds, averages, accumulation, precision, fusion."""

import keras
import numpy as np
import pytest
import quick
import sources
from equality import assert_same
from families import FAMILIES, FEW, FEW_NAMES, NAMES
from fresh import fresh
from keras import ops
from poison import assert_it_stops

# The tests of a row follow one another (`conftest.BY_ROW`): what is compiled for one serves all.
every = pytest.mark.parametrize("family", FAMILIES, ids=NAMES)
# For what the frame alone does one row of each kind shows it.
most = pytest.mark.parametrize("family", quick.rows(FAMILIES, FEW_NAMES))
few = pytest.mark.parametrize("family", FEW, ids=FEW_NAMES)
# A step of its own for a GAN's penalty is another kind of update.
one_penalty = [f for f in FEW if f.name != "gan-conditional"] + [FAMILIES[NAMES.index("gan")]]
two = [FAMILIES[NAMES.index(name)] for name in ("vae-everything", "gan-conditional")]


def train(model, family, *, epochs=2, rows=48, batch_size=16, **options):
    arrays = family.arrays(rows)
    return model.fit(
        *arrays, batch_size=batch_size, epochs=epochs, verbose=0, shuffle=False, **options
    ).history


def values(model):
    """Every number that training changes."""
    return [ops.convert_to_numpy(v.value) for v in model.variables + model.optimizer.variables]


def settings(model):
    """All that a model has of plain values under a public name."""
    kinds = bool | int | float | str | tuple | list | None
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(model).items()
        if isinstance(value, kinds) and not name.startswith("_")
    }


def through_a_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.seam
@every
def test_training_moves_every_network_and_logs_its_metrics(family):
    model = fresh(family)
    before = {
        name: [ops.convert_to_numpy(w).copy() for w in getattr(model, name).trainable_weights]
        for name in model.submodels
    }
    history = train(model, family, validation_data=family.arrays(16))
    for name, weights in before.items():
        now = getattr(model, name).trainable_weights
        for new, old in zip(now, weights, strict=True):
            # A critic's last bias has no gradient; every matrix must move.
            assert old.ndim < 2 or np.any(ops.convert_to_numpy(new) != old), new.path
    assert "loss" in history and "val_loss" in history
    assert np.all(np.isfinite(list(history.values())))
    assert int(model.step) == 6


@most
def test_a_reset_model_is_a_new_one(family, tmp_path):
    """What `fresh` stands on, and so: the same seed gives the same run and the same samples.

    The new one of each kind has gone through a file before it was compiled.
    """
    used = fresh(family)
    train(used, family, validation_data=family.arrays(16))
    family.sample(used, 5, seed=None)
    used, new = fresh(family), family.make()
    new = through_a_file(new, tmp_path) if family in FEW else new
    new.compile(keras.optimizers.Adam(1e-2))
    assert train(used, family) == train(new, family)
    assert_same(values(used), values(new))
    samples = [family.sample(model, 5, seed=11) for model in (used, new)]
    assert samples[0].shape == (5, *family.event_shape)
    np.testing.assert_array_equal(*samples)
    assert np.any(samples[0] != family.sample(used, 5, seed=12))


@pytest.mark.seam
@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:`shuffle=True` was passed")
@most
def test_every_source_trains_as_its_arrays_do(family):
    """Batches of any kind, of known length, of unknown length and without an end.

    Two rows meet all sources, each other row a third: a source knows nothing of families.
    """
    first, names = fresh(family), sources.available(others=family in two)
    if family not in two:
        names = names[NAMES.index(family.name) % 3 :: 3]
    if family.name == "flow":  # which takes its first statistics from all rows of arrays
        data = sources.Batches(sources.batches(family.arrays(32)))
        history = first.fit(data, epochs=2, verbose=0, shuffle=False).history
        names = [name for name in names if name != "dict of arrays"]
    else:
        history = train(first, family, rows=32)
    expected = history, values(first)
    for name in names:
        make, counted = sources.SOURCES[name]
        model, steps = fresh(family), 2 if counted else None
        options = {"epochs": 2, "verbose": 0, "steps_per_epoch": steps, "shuffle": False}
        options["batch_size"] = sources.BATCH if name == "dict of arrays" else None
        history = model.fit(make(family.arrays(32)), **options).history
        # TensorFlow compiles a graph for batches whose number of rows it knows not.
        close = {"rtol": 1e-5 if keras.config.backend() == "tensorflow" else 0, "atol": 0}
        for key, value in expected[0].items():
            np.testing.assert_allclose(history[key], value, err_msg=f"{name}: {key}", **close)
        assert_same(values(model), expected[1], atol=close["rtol"])


@most
def test_evaluation_and_sampling_do_not_change_training(family):
    straight = fresh(family)
    train(straight, family)
    straight_weights = [ops.convert_to_numpy(w) for w in straight.weights]
    looked_at = fresh(family)
    train(looked_at, family, epochs=1)
    first = looked_at.evaluate(*family.arrays(), batch_size=16, verbose=0, return_dict=True)
    family.sample(looked_at, 5, seed=None)
    again = looked_at.evaluate(*family.arrays(), batch_size=16, verbose=0, return_dict=True)
    assert first == again
    train(looked_at, family, epochs=1)
    assert_same(straight_weights, [ops.convert_to_numpy(w) for w in looked_at.weights])


@pytest.mark.seam
@most
def test_a_saved_model_goes_on_as_if_never_saved(family, tmp_path):
    model = fresh(family)
    train(model, family)
    loaded = through_a_file(model, tmp_path)
    if family in FEW:
        np.testing.assert_array_equal(family.sample(model, 5, 5), family.sample(loaded, 5, 5))
        assert train(model, family) == train(loaded, family)
    assert_same(values(model), values(loaded))


@every
def test_an_uncompiled_model_saves_and_loads(family, tmp_path):
    made = family.make()
    loaded = through_a_file(made, tmp_path)
    assert settings(loaded) == settings(made)
    assert_same(*([ops.convert_to_numpy(w) for w in model.weights] for model in (loaded, made)))


@most
def test_weights_of_zero_are_as_if_the_rows_were_not_there(family):
    if family.name in ("flow-matching-conditional", "gan", "vae-everything", "wgan-gp"):
        pytest.skip("batch statistics, optimal transport and cut batches see all rows")
    weight = np.ones(16, "float32")
    weight[12:] = 0.0
    arrays = family.arrays(16)
    x = arrays[0]
    poisoned = np.where((weight == 0).reshape(-1, *[1] * (x.ndim - 1)), x[::-1], x)
    labels = list(arrays[1:]) or [None]
    after = []
    for x in (arrays[0], poisoned):
        model = fresh(family)
        model.train_on_batch(x, *labels, sample_weight=weight)
        after.append([ops.convert_to_numpy(w) for w in model.weights])
    assert_same(*after, atol=1e-6)


@pytest.mark.quick(3)
@pytest.mark.seam
@few
@pytest.mark.backends("jax", "tensorflow")
def test_several_steps_in_one_execution_give_the_same_numbers(family):
    """Executions of three batches: two an epoch, and a remainder, ragged."""
    single, fused = fresh(family), fresh(family, execution=3)
    histories = [train(model, family, rows=100) for model in (single, fused)]
    for name, row in histories[0].items():
        np.testing.assert_allclose(row, histories[1][name], rtol=2e-5, atol=1e-6, err_msg=name)
    assert_same(values(single), values(fused), atol=2e-6)


@most
def test_two_fits_equal_one(family):
    straight = train(fresh(family), family, epochs=2)
    twice = fresh(family)
    split = [train(twice, family, epochs=1) for _ in range(2)]
    for name, row in straight.items():
        assert row == [part[name][0] for part in split]


@pytest.mark.seam
@pytest.mark.parametrize("family", one_penalty, ids=[f.name for f in one_penalty])
def test_accumulated_micro_batches_make_one_update(family):
    model = fresh(family, adam={"gradient_accumulation_steps": 2})
    part = getattr(model, model.submodels[0])  # one step a batch, also in a GAN
    before = [ops.convert_to_numpy(w).copy() for w in part.trainable_weights]
    model.train_on_batch(*family.arrays(16))
    assert_same(before, [ops.convert_to_numpy(w) for w in part.trainable_weights])
    model.train_on_batch(*family.arrays(16))
    after = [ops.convert_to_numpy(w) for w in part.trainable_weights]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True) if a.ndim > 1)
    assert int(model.optimizer.iterations) == 1


@pytest.mark.quick(4)
@pytest.mark.seam
@few
def test_the_average_follows_its_recursion(family):
    model = fresh(family, ema_decay=0.9)
    average = [ops.convert_to_numpy(w).astype("float64") for w in model._averaged]
    for n in range(4):
        model.train_on_batch(*family.arrays(16))
        decay = min(0.9, (1 + n) / (10 + n))
        average = [
            decay * a + (1 - decay) * ops.convert_to_numpy(w)
            for a, w in zip(average, model._averaged, strict=True)
        ]
    for expected, variable in zip(average, model._average, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(variable), expected, atol=2e-6)
    swapped = fresh(family, ema_decay=None)
    for weight, variable in zip(_averaged_weights(swapped), model._average, strict=True):
        weight.assign(variable)
    for weight, variable in zip(_state(swapped), _state(model), strict=True):
        weight.assign(variable)
    np.testing.assert_allclose(family.sample(model, 5, 1), family.sample(swapped, 5, 1), atol=1e-6)


def _averaged_weights(model):
    weights = {id(w): w for part in model.averaged_parts for w in part.weights}
    return list(weights.values())


def _state(model):
    return [w for w in model.weights if w.path.endswith(("log_variance", "buffer/chains"))]


@pytest.mark.parametrize("family", two, ids=[family.name for family in two])
def test_keras_own_average_survives_a_second_fit(family):
    model = family.make()
    model.compile(keras.optimizers.Adam(1e-2, use_ema=True))
    for _ in range(2):
        history = train(model, family, epochs=1)
    assert np.isfinite(history["loss"][0])


@every
def test_a_summary_has_a_line_per_part(family):
    lines = []
    model = fresh(family)
    model.summary(print_fn=lambda text, **_: lines.append(text))
    text = "\n".join(lines)
    for part in model.submodels:
        assert f" {part}: " in text


@every
def test_a_loss_that_is_no_number_stops_it(family):
    assert_it_stops(fresh(family), lambda model: train(model, family))
