"""What `fit` says at its start: what a run won't do, or will do badly."""

import re
import warnings

import keras
import numpy as np
import pytest
from families import dense, timed

import artifex_keras as ak
from artifex_keras.models import advice, last_layers

X = np.random.default_rng(0).uniform(size=(16, 6)).astype("float32")


def ending(inputs, outputs, activation, wrap=False):
    entry = keras.Input((inputs,))
    last = keras.layers.Dense(outputs, activation=None if wrap else activation)(entry)
    if wrap:
        last = keras.layers.Reshape((outputs,))(keras.layers.Activation(activation)(last))
    network = keras.Model(entry, last)
    return keras.Sequential([keras.Input((inputs,)), network]) if wrap else network


def vae(activation=None, encoder=None, **options):
    return ak.VAE(ending(6, 4, encoder), ending(2, 6, activation), **options)


def gan(activation, **options):
    return ak.GAN(dense(3, outputs=6), ending(6, 1, activation), 3, **options)


def policy(activation):
    entry = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(13, 8)(entry)
    network = keras.Model(entry, keras.layers.Dense(13, activation=activation)(hidden))
    return ak.DPO(network, end_token_id=1, pad_token_id=0)


def found(model, data=X, optimizer="adam", **options):
    model.compile(optimizer)
    if not model.built:
        model.build(data.shape)
    model.build_optimizer()
    return advice.findings(model, data, **options)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: vae("sigmoid", reconstruction="bce"), "The decoder ends with 'sigmoid'.*logits"),
        (lambda: vae("sigmoid"), None),
        (lambda: vae(encoder="relu"), "The encoder ends with 'relu'.*log-variances"),
        (lambda: gan("sigmoid"), "The discriminator ends with 'sigmoid'"),
        (lambda: gan("tanh", loss_type="wasserstein"), "The discriminator ends with 'tanh'"),
        (lambda: gan("sigmoid", loss_type="lsgan"), None),
        (lambda: gan(None), None),
        (lambda: ak.EnergyModel(ending(6, 1, "sigmoid")), "The network ends with 'sigmoid'"),
        (lambda: ak.EnergyModel(ending(6, 1, "softplus")), None),
        (lambda: ak.EnergyModel(ending(6, 3, "softmax"), num_classes=3), "'softmax'.*logits"),
        (lambda: policy("softmax"), "The policy ends with 'softmax'"),
        (lambda: ak.Diffusion(timed(None, 0)), None),
    ],
)
def test_last_layers_that_bound_what_has_no_bounds(model, says):
    texts = found(model())
    assert len(texts) == (says is not None)
    if says is not None:
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(texts[0])


def test_a_last_activation_is_seen_behind_other_layers():
    assert last_layers.activations(ending(3, 2, "sigmoid", wrap=True)) == ["sigmoid"]
    assert last_layers.activations(ending(3, 2, "relu6")) == ["relu6"]
    assert last_layers.activations(ending(3, 2, "gelu")) == [None]
    softmax = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Softmax()])
    assert last_layers.activations(softmax) == ["softmax"]
    assert last_layers.activations(keras.layers.Dense(2)) == []


def test_no_weights_to_train():
    model = vae()
    model.encoder.trainable = model.decoder.trainable = False
    assert "The model has no weights to train" in found(model)[0]
    model = gan(None)
    model.discriminator.trainable = False
    assert "The discriminator has no weights to train" in found(model)[0]
    model = vae()
    model.encoder.trainable = False  # a decoder is tuned
    assert found(model) == []


def test_a_rate_of_zero():
    schedules = keras.optimizers.schedules
    assert "rate of 'sgd" in found(vae(), optimizer=keras.optimizers.SGD(0.0))[0]
    ended = keras.optimizers.SGD(schedules.CosineDecay(0.1, 4), name="mine")
    model = vae()
    assert found(model, optimizer=ended) == []
    ended.iterations.assign(4)
    assert "'mine' is 0 for the whole run" in advice.findings(model)[0]
    rising = schedules.CosineDecay(0.0, 100, warmup_target=0.1, warmup_steps=10)
    assert found(vae(), optimizer=keras.optimizers.SGD(rising)) == []
    later = [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)]
    assert found(vae(), optimizer=keras.optimizers.SGD(0.0), callbacks=later) == []


def test_data_far_from_one():
    assert "divide them by 255" in found(vae(), data=(X * 255).astype("uint8"))[0]
    assert "take off each column's mean" in found(gan(None), data=1e3 * X - 500)[0]
    assert found(vae(), data=X * 3) == []
    images = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
    network = ak.networks.timed_mlp((8, 8, 1), (4,))
    assert "by 2 * x - 1" in found(ak.Diffusion(network), data=images)[0]
    assert "by 2 * x - 1" in found(ak.FlowMatching(network), data=images)[0]
    assert found(ak.Diffusion(network), data=2 * images - 1) == []
    assert (
        found(ak.Diffusion(network, noise_schedule="edm", sigma_data=74.0), data=255 * images) == []
    )


def test_fit_says_it_once():
    model = vae()
    model.compile(keras.optimizers.SGD(0.0))
    with pytest.warns(UserWarning, match="is 0 for the whole run") as caught:
        model.fit(X, epochs=2, verbose=0)
    assert sum("whole run" in str(warning.message) for warning in caught) == 1
    model.compile(keras.optimizers.SGD(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(X, verbose=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ak.VAE(dense(6, outputs=8), dense(5, outputs=6)), r"latent code .*\(5,\).*\(4,\)"),
        (lambda: ak.GAN(dense(3, outputs=6), dense(7), 3), r"generator's output .*\(7,\).*\(6,\)"),
        (lambda: vae().fit(X[:, :5]), "compile"),
        (lambda: ak.EnergyModel(dense(6), input_shape=(5,)), r"\(6,\)"),
    ],
)
def test_networks_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_check_looks_at_data_networks_and_a_batch_and_changes_nothing(capsys):
    model = vae("sigmoid", reconstruction="bce", seed=0)
    model.compile(keras.optimizers.SGD(0.0))
    before = [np.array(v.value) for v in [*model.variables, *model.metrics_variables]]
    found = model.check(X)
    assert len(found) == 2 and "'sigmoid'" in found[0] and "is 0 for the whole run" in found[1]
    assert capsys.readouterr().out.count("\n- ") == 1
    for value, variable in zip(before, [*model.variables, *model.metrics_variables], strict=True):
        np.testing.assert_array_equal(value, np.array(variable.value))
    assert "needs data in [0, 1]" in model.check(X * 255, verbose=False)[0]
    model.encoder.weights[0].assign(np.full((6, 4), np.nan, "float32"))
    assert "`loss` is nan on the first batch" in model.check(X, verbose=False)[0]


def test_check_builds_a_model_and_reads_a_source():
    model = ak.Diffusion(ak.networks.timed_mlp((6,), (4,)))
    model.compile("adam")
    batches = [(255 * X,)] * 2

    class Source(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return batches[index]

    found = model.check(Source(), verbose=False)
    assert model.built and len(found) == 1 and "divide them by 255" in found[0]
    assert int(model.step) == 0


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (lambda: ak.GAN(ending(3, 6, "sigmoid"), dense(6), 3), 2 * X - 1, r"generator.*\[0, 1\]"),
        (lambda: ak.GAN(ending(3, 6, "tanh"), dense(6), 3), 3 * X, r"generator.*\[-1, 1\]"),
        (lambda: ak.GAN(ending(3, 6, "tanh", wrap=True), dense(6), 3), 3 * X, "'tanh'"),
        (lambda: vae("sigmoid"), 2 * X - 1, r"decoder ends with 'sigmoid'.*from 0 to 1"),
        (lambda: vae("tanh", reconstruction="gaussian"), 3 * X, "decoder ends with 'tanh'"),
        (lambda: ak.GAN(ending(3, 6, "tanh"), dense(6), 3), 2 * X - 1, None),
        (lambda: ak.GAN(ending(3, 6, "sigmoid"), dense(6), 3), X, None),
        (lambda: ak.GAN(ending(3, 6, None), dense(6), 3), 3 * X, None),
        (lambda: vae("sigmoid"), X, None),
        (lambda: vae("softplus"), 3 * X, None),
    ],
)
def test_data_that_the_last_layer_cannot_give(model, data, says):
    texts = [text for text in found(model(), data) if "can't make them" in text]
    assert bool(texts) == (says is not None)
    if says:
        assert re.search(says, texts[0])


@pytest.mark.parametrize(
    ("dtype", "optimizer", "says"),
    [
        ("bfloat16", "adam", "rounds its beta_2 of 0.999 to 1"),
        ("bfloat16", keras.optimizers.Nadam(), "or makes them NaN"),
        ("bfloat16", keras.optimizers.AdamW(beta_2=0.99), None),
        ("bfloat16", "sgd", None),
        ("float16", "adam", None),
        ("mixed_bfloat16", "adam", None),
    ],
)
def test_an_average_that_half_precision_stops_is_named(dtype, optimizer, says):
    """Adam with Keras's own beta_2 leaves weights of bfloat16 as they are, to the bit."""
    networks = [
        keras.Sequential([keras.Input((n,)), keras.layers.Dense(m, dtype=dtype)])
        for n, m in ((6, 4), (2, 6))
    ]
    texts = found(ak.VAE(*networks), optimizer=optimizer)
    assert bool(texts) == bool(says)
    assert not says or says in texts[0]
