"""Mixed precision for models that are already built: what is narrow, what stays wide."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from artifex_keras.mixed_precision import set_precision
from artifex_keras.models import GAN, VAE

X = np.random.default_rng(0).uniform(0.1, 0.9, (32, 6)).astype("float32")


def network(inputs, outputs, name, head="float32"):
    x = keras.Input((inputs,))
    y = layers.Dense(16, activation="tanh", name=f"{name}_hidden")(x)
    y = layers.BatchNormalization(name=f"{name}_norm")(y)
    inner = keras.Sequential([keras.Input((16,)), layers.Dense(16, "tanh", name=f"{name}_inner")])
    y = layers.Dense(outputs, dtype=head, name=f"{name}_head")(inner(y))
    return keras.Model(x, y, name=name)


def vae(**options):
    keras.utils.set_random_seed(0)
    return VAE(network(6, 4, "encoder"), network(2, 6, "decoder"), seed=0, **options)


def compute_dtypes(model):
    return {
        layer.name: layer.compute_dtype
        for part in (model.encoder, model.decoder)
        for layer in part._flatten_layers(include_self=False)
        if not isinstance(layer, keras.Model | layers.InputLayer)
    }


def trained(model, optimizer=None):
    model.compile(optimizer or keras.optimizers.SGD(0.01))
    return model.fit(X, epochs=2, batch_size=16, verbose=0, shuffle=False).history


@pytest.mark.seam
@pytest.mark.parametrize("precision", [True, "bfloat16", "float16"])
def test_layers_compute_narrow_and_heads_stay(precision):
    model = vae()
    set_precision(model, precision)
    narrow = "float16" if precision == "float16" else "bfloat16"
    dtypes = compute_dtypes(model)
    assert {dtypes.pop(f"{part}_head") for part in ("encoder", "decoder")} == {"float32"}
    assert set(dtypes.values()) == {narrow}
    assert model.encoder.compute_dtype == narrow
    assert model.compute_dtype == "float32"  # it hands the data on as they are


def test_what_a_layer_hands_on_is_narrow():
    model = vae()
    set_precision(model)
    hidden = keras.Model(model.encoder.input, model.encoder.get_layer("encoder_norm").output)
    assert keras.backend.standardize_dtype(hidden(X).dtype) == "bfloat16"
    assert keras.backend.standardize_dtype(model.encoder(X).dtype) == "float32"


def test_variables_losses_averages_and_samples_stay_wide():
    model = vae(ema_decay=0.9)
    set_precision(model)
    trained(model)
    for variable in model.trainable_variables + model._average:
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"
    terms = model.objective(model.unpack((X,)), training=False)
    narrow = {
        name: v.dtype
        for name, v in terms.items()
        if keras.backend.standardize_dtype(v.dtype) != "float32"
    }
    assert not narrow
    assert keras.backend.standardize_dtype(model.sample(2).dtype) == "float32"


@pytest.mark.seam
def test_numbers_are_those_of_float32_within_the_precision():
    wide, narrow = vae(), vae()
    set_precision(narrow)
    before, after = trained(wide), trained(narrow)
    for name in ("loss", "reconstruction_loss", "kl_loss"):
        np.testing.assert_allclose(after[name], before[name], rtol=2e-2, err_msg=name)
    assert after["loss"] != before["loss"]


def test_weights_take_steps_that_bfloat16_could_not():
    model = vae()
    set_precision(model)
    kernel = model.encoder.get_layer("encoder_hidden").kernel
    before = ops.convert_to_numpy(kernel) + 0
    trained(model, keras.optimizers.SGD(1e-6))
    change = np.abs(ops.convert_to_numpy(kernel) - before)
    assert 0 < change.max() < 2**-8 * np.abs(before).max()


def test_false_takes_back_what_was_done_here_and_no_more():
    model = vae()
    model.encoder.get_layer("encoder_hidden").dtype_policy = "mixed_float16"
    before = compute_dtypes(model)
    set_precision(model, True)
    assert compute_dtypes(model) != before
    set_precision(model, False)
    assert compute_dtypes(model) == before
    assert before["encoder_hidden"] == "float16"


def test_float32_takes_all_mixed_precision_away():
    model = vae()
    model.encoder.get_layer("encoder_hidden").dtype_policy = "mixed_float16"
    set_precision(model, "float32")
    assert set(compute_dtypes(model).values()) == {"float32"}
    history = trained(model)
    assert history == trained(vae())


@pytest.mark.seam
def test_a_saved_model_keeps_its_precision(tmp_path):
    model = vae()
    set_precision(model)
    trained(model)
    model.save(tmp_path / "narrow.keras")
    loaded = keras.saving.load_model(tmp_path / "narrow.keras")
    assert compute_dtypes(loaded) == compute_dtypes(model)
    outputs = [ops.convert_to_numpy(it(X)) for it in (loaded, model)]
    np.testing.assert_allclose(*outputs, rtol=1e-6)


def test_a_loaded_model_of_float32_is_switched_as_a_whole(tmp_path):
    vae().save(tmp_path / "wide.keras")
    loaded = keras.saving.load_model(tmp_path / "wide.keras")
    set_precision(loaded)
    assert set(compute_dtypes(loaded).values()) == {"bfloat16"}


def test_a_gan_is_switched_in_both_networks():
    model = GAN(network(3, 6, "generator"), network(6, 1, "discriminator"), 3)
    set_precision(model)
    for part in (model.generator, model.discriminator):
        assert part.get_layer(f"{part.name}_hidden").compute_dtype == "bfloat16"
        assert part.get_layer(f"{part.name}_head").compute_dtype == "float32"
    history = trained(model)
    assert np.isfinite(history["loss"]).all()


def test_a_switched_model_must_be_compiled_again():
    model = vae()
    model.compile("sgd")
    set_precision(model)
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, verbose=0)


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="Unknown precision 'bfloat61'. Did you mean 'bfloat16'"):
        set_precision(vae(), "bfloat61")


# float16: the loss is scaled


def scale(model):
    return float(ops.convert_to_numpy(model.optimizer.dynamic_scale))


@pytest.mark.seam
def test_float16_scales_the_loss_and_gives_the_same_numbers():
    wide, narrow = vae(), vae()
    set_precision(narrow, "float16")
    scaling = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.01), initial_scale=64.0)
    before, after = trained(wide), trained(narrow, scaling)
    np.testing.assert_allclose(after["loss"], before["loss"], rtol=5e-3)
    assert int(scaling.inner_optimizer.iterations) == 4


def test_float16_wraps_the_optimizer_by_itself():
    model = vae()
    set_precision(model, "float16")
    model.compile("sgd")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    set_precision(model, True)
    model.compile("sgd")
    assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)


@pytest.mark.seam
def test_float16_grows_its_scale_and_skips_overflows():
    model = vae()
    set_precision(model, "float16")
    inner = keras.optimizers.SGD(0.01)
    scaling = keras.optimizers.LossScaleOptimizer(
        inner, initial_scale=2.0**10, dynamic_growth_steps=2
    )
    trained(model, scaling)  # four steps
    assert scale(model) == 2.0**12
    model.optimizer.dynamic_scale.assign(2.0**60)
    before = [ops.convert_to_numpy(v) + 0 for v in model.trainable_variables]
    model.train_on_batch(X)
    assert scale(model) == 2.0**59
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert int(inner.iterations) == 4
