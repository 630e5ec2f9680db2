"""What people type first: each answer names the rule, what came, and the way out."""

import importlib.util

import numpy as np
import pytest
from families import FAMILIES
from keras import ops

from artifex_keras import networks
from artifex_keras.arguments import UnknownArgument, nearest
from artifex_keras.models import GAN, VAE, Diffusion, FlowMatching, PixelAutoregressive

ROWS = {family.name: family for family in FAMILIES}
CONDITIONAL = [
    *("gan-conditional", "energy-jem", "flow-spline-conditional"),
    *("flow-matching-conditional", "diffusion-conditional"),
]


@pytest.fixture(scope="module")
def models():
    """A model of each row, built and not compiled."""
    made = {}

    def of(name):
        if name not in made:
            row = ROWS[name]
            made[name] = row.make()
            made[name].build_from_batch(lambda: (*row.arrays(8), None)[:2])
        return made[name]

    return of


@pytest.mark.parametrize(
    "name, method",
    [
        *(("vae", method) for method in ("encode", "reconstruct", "log_likelihood")),
        *(("flow", method) for method in ("log_prob", "bits_per_dim")),
        *(("energy-pcd", method) for method in ("energy", "score", "log_prob")),
        *(("diffusion", method) for method in ("bits_per_dim", "log_likelihood", "encode")),
        *(("flow-matching", method) for method in ("log_prob", "encode")),
        *(("pixel", method) for method in ("log_prob", "bits_per_dim")),
    ],
)
def test_one_example_needs_an_axis_for_the_batch(models, name, method):
    (x,) = ROWS[name].arrays(2)
    with pytest.raises(ValueError, match=r"must have the shape .*one example.*array\[None\]"):
        getattr(models(name), method)(x[0])


def test_one_code_needs_an_axis_for_the_batch(models):
    with pytest.raises(ValueError, match=r"Codes must have the shape \(2,\).*\[None\]"):
        models("vae").decode(np.zeros(2))
    with pytest.raises(ValueError, match=r"Codes must have the shape \(2,\).*shape \(5,\) per"):
        models("vae").decode(np.zeros((3, 5)))


@pytest.mark.parametrize(
    "name, inputs, said",
    [
        ("vae", [np.zeros((2, 6)), np.zeros(2)], "is called with x. Received: 2 arrays"),
        ("vae", np.zeros(6), r"x has the shape \(6,\) per example.*x\[None\]"),
        ("vae", np.zeros((2, 2, 3)), r"x.reshape\(-1, 6\)"),
        ("diffusion", np.zeros((2, 6)), r"is called with \[x, t\]. Received: 1 array"),
        ("flow-matching", np.zeros((3, 6)), r"is called with \[x, t\]. Received: 1 array"),
        ("diffusion-conditional", [np.zeros((2, 6)), np.zeros(2)], r"\[x, t, condition\]"),
        ("gan", np.zeros((2, 6)), r"codes has the shape \(3,\).*codes of shape \(2, 6\)"),
        ("gan-conditional", np.zeros((2, 3)), r"called with \[codes, condition\]"),
        ("flow-spline-conditional", np.zeros((2, 6)), r"called with \[x, condition\]"),
    ],
)
def test_inputs_of_a_call(models, name, inputs, said):
    """Two rows used to be read as `[x_t, t]`, and gave plausible numbers."""
    with pytest.raises(ValueError, match=said):
        models(name)(inputs)
    with pytest.raises(ValueError, match=said):
        models(name).predict(inputs, verbose=0)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_labels_of_another_form(models, name):
    row, y = ROWS[name], np.arange(8) % 3
    model, x = models(name), row.data(8)
    for labels, cure in (
        (np.eye(3)[y], r"labels.argmax\(axis=-1\)"),
        (y[:, None], r"labels\[:, 0\]"),
    ):
        with pytest.raises(ValueError, match=rf"integer labels of shape \(\).*{cure}"):
            model.check_batch(x, labels)
        with pytest.raises(ValueError, match=cure):
            model.sample(8, condition=labels)
    for text in ("2", ["1"] * 8, np.array(["cat"] * 8, object)):
        with pytest.raises(ValueError, match="Labels must lie in.*which is no number"):
            model.sample(8, condition=text)


@pytest.mark.parametrize("name", [family.name for family in FAMILIES if not family.labels])
def test_labels_for_a_model_without(models, name):
    if name == "autoregressive":  # has labels of its own
        return
    row = ROWS[name]
    with pytest.raises(ValueError, match=r"takes no labels.*one number per.*Leave them out"):
        models(name).check_batch(row.data(8), np.arange(8))
    with pytest.raises(ValueError, match=rf"takes no labels.*shape \({row.event_shape[0]}"):
        models(name).check_batch(row.data(8), row.data(8))


def test_images_without_channels_say_where_they_go():
    shape, x = (4, 4, 1), np.zeros((8, 4, 4), "float32")
    timed = networks.timed_mlp(shape, (4,))
    made = {
        "vae": VAE(networks.mlp_encoder(shape, 2, (4,)), networks.mlp_decoder(2, shape, (4,))),
        "gan": GAN(networks.mlp_generator(2, shape, (4,)), networks.mlp_critic(shape, (4,)), 2),
        "diffusion": Diffusion(timed),
        "matching": FlowMatching(timed),
    }
    for model in made.values():
        model.compile("adam")
        with pytest.raises(ValueError, match=r"an axis of channels: x\[..., None\]"):
            model.fit(x, verbose=0)
        with pytest.raises(ValueError, match=r"x.reshape\(-1, 4, 4, 1\)"):
            model.fit(x.reshape(8, 16), verbose=0)
    flat = VAE(networks.mlp_encoder((4, 4), 2, (4,)), networks.mlp_decoder(2, (4, 4), (4,)))
    flat.compile("adam")
    with pytest.raises(ValueError, match=r"x\[..., 0\]"):
        flat.fit(x[..., None], verbose=0)
    pixels = PixelAutoregressive(networks.pixelcnn(shape, 2, filters=2, num_blocks=1), num_levels=2)
    pixels.compile("adam")
    with pytest.raises(ValueError, match=r"x\[..., None\]"):
        pixels.fit(x, verbose=0)
    with pytest.raises(ValueError, match=r"Images of one channel: \(4, 4, 1\)"):
        networks.unet((4, 4))


@pytest.mark.parametrize(
    "name, method, argument, wanted",
    [
        ("vae", "sample", "labels", "condition"),
        ("vae", "sample", "num_samples", "n"),
        ("gan", "sample", "cond", "condition"),
        ("diffusion", "sample", "steps", "num_steps"),
        ("diffusion", "sample", "num_inference_steps", "num_steps"),
        ("diffusion-conditional", "sample", "cfg_scale", "guidance_scale"),
        ("flow-matching", "sample", "sampler", "solver"),
        ("energy-pcd", "sample", "n_steps", "num_steps"),
        ("autoregressive", "generate", "temp", "temperature"),
        ("autoregressive", "generate", "max_length", "max_new_tokens"),
        ("vae", "evaluate", "verbos", "verbose"),
        ("flow", "fit", "epoch", "epochs"),
    ],
)
def test_a_mistyped_argument_of_a_method(models, name, method, argument, wanted):
    model = models(name)
    if not model.compiled:
        model.compile("adam")
    with pytest.raises(UnknownArgument, match=f"{argument!r}. Did you mean '{wanted}'"):
        getattr(model, method)(*([ROWS[name].data(4)] * (method != "sample")), **{argument: 1})


def test_a_list_of_examples_is_an_array(models):
    (x,) = ROWS["vae"].arrays(2)
    expected = models("vae").predict(x, verbose=0)
    np.testing.assert_array_equal(models("vae").predict(list(x), verbose=0), expected)


def test_compile_as_in_other_libraries(models):
    with pytest.raises(ValueError, match="no `d_optimizer`, `g_optimizer`.*discriminator_opt"):
        models("gan").compile(d_optimizer="adam", g_optimizer="adam")
    with pytest.raises(ValueError, match="takes no `jit`. Did you mean 'jit_compile'"):
        models("vae").compile("adam", jit=True)
    with pytest.raises(ValueError, match="takes no `loss`, `metrics`. The family defines"):
        models("vae").compile("adam", loss="mse", metrics=["mae"])
    with pytest.raises(ValueError, match="takes no `optimiser`. Did you mean 'optimizer'"):
        models("flow").compile(optimiser="adam")


def test_nearest_names():
    choices = ["dataset_size", "condition", "warmup_steps", "ddim", "wasserstein", "lsgan"]
    assert nearest("latent_dim", choices) == ""  # nothing is near it
    for typed, meant in (
        ("labels", "condition"),
        ("warmup", "warmup_steps"),
        ("DDIM", "ddim"),
        ("wgan-gp", "wasserstein"),
    ):
        assert nearest(typed, choices) == f" Did you mean {meant!r}?"


def test_export_says_what_a_saved_model_needs(models, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'artifex-keras\[tensorflow\]'"):
        models("vae").export(tmp_path / "served")


def test_rows_of_tokens_may_be_shorter(models):
    model, (tokens,) = models("autoregressive"), ROWS["autoregressive"].arrays(2)
    whole = model.predict(tokens, verbose=0)
    shorter = model.predict(tokens[:, :4], verbose=0)
    np.testing.assert_allclose(shorter, whole[:, :4], rtol=1e-4, atol=1e-5)
    called = ops.convert_to_numpy(model(tokens[:, :4]))
    np.testing.assert_allclose(called, whole[:, :4], rtol=1e-4, atol=1e-5)


def test_labels_that_are_shifted_already(models):
    """As Keras's own language models are trained; here it would learn the next but one."""
    model, (tokens,) = models("autoregressive"), ROWS["autoregressive"].arrays(8)
    with pytest.raises(ValueError, match=r"shifted by one already.*fit\(tokens\)"):
        model.check_batch(tokens[:, :-1], tokens[:, 1:])
    with pytest.raises(ValueError, match="shifted by one already"):
        model.check_batch(tokens[:, :-1].astype("uint8"), tokens[:, 1:].astype("int64"))
    padded = np.concatenate([tokens[:, 1:], np.full((8, 1), -100)], axis=1)
    with pytest.raises(ValueError, match="shifted by one already"):
        model.check_batch(tokens, padded)
    for labels in (tokens, np.where(tokens == 3, -100, tokens), tokens > 2):
        model.check_batch(tokens, labels)
    same = np.full((8, 6), 2)  # moved or not, these are the same
    model.check_batch(same, same)


@pytest.mark.parametrize(
    "shape, cure",
    [
        ((6,), r"tokens\[None\]"),
        ((8, 6, 7), r"tokens.argmax\(axis=-1\)"),
        ((8, 2, 3), r"tokens.reshape\(-1, 6\)"),
        ((8, 6, 1), r"tokens.reshape\(-1, 6\)"),
    ],
)
def test_rows_of_tokens_of_another_form(models, shape, cure):
    with pytest.raises(ValueError, match=rf"rows of token ids \(B, T\).*{cure}"):
        models("autoregressive").check_batch(np.zeros(shape, "int32"), None)


@pytest.mark.parametrize("prompt", ["hello", None, ["a", "b"], [["a"]]])
def test_prompts_that_are_no_ids(models, prompt):
    with pytest.raises(ValueError, match="`prompt` must be token ids.*tokenizer"):
        models("autoregressive").generate(prompt, 2)


@pytest.mark.parametrize("name", ["vae", "gan", "flow", "autoregressive"])
def test_fit_without_data(models, name):
    model = models(name)
    if not model.compiled:
        model.compile("adam")
    with pytest.raises(ValueError, match=r"needs data to learn from: fit\(x\)"):
        model.fit(epochs=1)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_texts_need_a_tokenizer(models, method):
    model = models("autoregressive")
    if not model.compiled:
        model.compile("sgd")
    for texts in (["one", "two"], np.array(["one", "two"])):
        with pytest.raises(ValueError, match=f"`{method}` takes numbers. Received: texts. A token"):
            getattr(model, method)(texts)


@pytest.mark.parametrize("share", [7, -0.5, "half"])
def test_a_share_to_validate_with(models, share):
    model = models("vae")
    if not model.compiled:
        model.compile("sgd")
    with pytest.raises(ValueError, match="`validation_split` must be"):
        model.fit(*ROWS["vae"].arrays(8), validation_split=share)


def test_a_pipeline_without_batches(models):
    tf = pytest.importorskip("tensorflow")
    for name in ("vae", "flow", "diffusion"):
        model, (x,) = models(name), ROWS[name].arrays(8)
        if not model.compiled:
            model.compile("adam")
        for parts in (x, (x, x[:, 0])):
            with pytest.raises(ValueError, match=r"single examples.*\(6,\). dataset.batch\(32\)"):
                model.fit(tf.data.Dataset.from_tensor_slices(parts), verbose=0)
