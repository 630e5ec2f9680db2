"""`remat` and `chunk_size` of a config: set on the networks of a model, with its numbers."""

import keras
import numpy as np
import pytest
from temporaries import temporaries

import artifex_keras as ak
from artifex_keras import planning
from artifex_keras.networks.recomputed import recomputable

IDS = np.random.default_rng(0).integers(0, 13, (8, 6)).astype("int32")
IMAGES = np.random.default_rng(1).normal(size=(8, 4, 4, 1)).astype("float32")
QUIET = {"num_epochs": 1, "batch_size": 4, "verbose": 0, "seed": 0}


def tokens(**options):
    keras.utils.set_random_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "width": 8, "dropout": 0.5}
    return ak.Autoregressive(ak.networks.CausalTransformer(13, 8, **sizes), **options)


def images():
    keras.utils.set_random_seed(0)
    return ak.Diffusion(ak.networks.dit((4, 4, 1), 8, depth=1, heads=2))


def trained(model, data, **config):
    """The loss of an epoch and the weights after it."""
    trainer = ak.Trainer(model, {**QUIET, "optimizer": "sgd", **config}, data)
    loss = trainer.train().history["loss"]
    return trainer, [np.array(loss), *model.get_weights()]


@pytest.mark.seam
@pytest.mark.parametrize(
    "make, data, config",
    [(tokens, IDS, {"remat": "full", "chunk_size": 8}), (images, IMAGES, {"remat": "full"})],
)
def test_the_numbers_are_those_without(make, data, config):
    """With dropout; also for a DiT that was made without `remat`."""
    _, kept = trained(make(), data)
    trainer, again = trained(make(), data, **config)
    assert [network.remat for network in recomputable(trainer.model)] == ["full"]
    assert getattr(trainer.model, "chunk_size", None) == config.get("chunk_size")
    for a, b in zip(kept, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_what_a_config_doesnt_say_stays_as_it_was_made():
    model = tokens(chunk_size=5)
    model.network.remat = "dots"
    ak.Trainer(model, QUIET, IDS)
    assert (model.network.remat, model.chunk_size) == ("dots", 5)
    ak.Trainer(model, {**QUIET, "chunk_size": None}, IDS)
    assert model.chunk_size is None


def test_a_policy_is_set_too():
    keras.utils.set_random_seed(0)
    policy = ak.networks.CausalTransformer(13, 8, num_layers=1, num_heads=2, width=8)
    rows = [{"prompt": [1, 2], "chosen": [3], "rejected": [4]}] * 4
    trainer = ak.DPOTrainer(policy, {**QUIET, "remat": "full", "chunk_size": 3}, rows)
    assert policy.remat == "full"
    assert trainer.model.chunk_size == trainer.model.actor.chunk_size == 3


def test_what_cant_be_done_says_so():
    vae = ak.VAE(ak.networks.mlp_encoder((6,), 2, (8,)), ak.networks.mlp_decoder(2, (6,), (8,)))
    x = np.zeros((8, 6), "float32")
    with pytest.raises(ValueError, match=r"remat='full' for VAE.*`keras.RematScope`"):
        ak.Trainer(vae, {**QUIET, "remat": "full"}, x)
    with pytest.raises(ValueError, match="VAE has no such option.*Received: chunk_size=8"):
        ak.Trainer(vae, {**QUIET, "chunk_size": 8}, x)
    with pytest.raises(ValueError, match="`chunk_size`.*VAE.*Received: chunk_size=None"):
        ak.Trainer(vae, {**QUIET, "chunk_size": None}, x)
    with pytest.raises(ValueError, match="Unknown remat 'dots'. Choices: full"):
        ak.Trainer(images(), {**QUIET, "remat": "dots"}, IMAGES)
    with pytest.raises(ValueError, match="Did you mean 'full'"):
        ak.TrainingConfig(remat="ful")
    with pytest.raises(ValueError, match="Did you mean 'auto'"):
        ak.TrainingConfig(chunk_size="aut")


def test_a_finished_unet_doesnt_take_any_word_and_its_copy_has_no_parts():
    network = ak.networks.unet((4, 4, 1), (4,), blocks=1, attention=None)
    with pytest.raises(ValueError, match="remat.*Did you mean 'full'"):
        network.remat = "ful"
    with pytest.raises(ValueError, match="is a copy without them"):
        keras.models.clone_model(network).remat = "full"


@pytest.mark.backends("jax")
def test_a_finished_unet_takes_less_memory_too():
    network = ak.networks.unet((16, 16, 1), (8,), groups=2, attention=None)
    inputs = [np.zeros((16, 16, 16, 1), "float32"), np.zeros(16, "float32")]
    kept = temporaries(network, inputs)
    network.remat = "full"
    assert temporaries(network, inputs) < 0.7 * kept


@pytest.mark.backends("jax")
def test_a_plan_says_what_is_used():
    def planned(**config):
        keras.utils.set_random_seed(0)
        network = ak.networks.CausalTransformer(13, 128, num_layers=4, num_heads=4, width=32)
        data = np.zeros((8, 128), "int32")
        return ak.Trainer(ak.Autoregressive(network), {**QUIET, "batch_size": 8, **config}, data)

    kept = planned().plan()
    again = planned(remat="full", chunk_size=64).plan()
    assert (kept.remat, kept.chunk_size) == ("none", "auto")
    assert (again.remat, again.chunk_size) == ("full", 64)
    assert again.memory["temporaries"] < 0.5 * kept.memory["temporaries"]
    assert "  remat                 full\n  chunk_size            64\n" in str(again)
    vae = ak.VAE(ak.networks.mlp_encoder((6,), 2, (8,)), ak.networks.mlp_decoder(2, (6,), (8,)))
    vae.compile("adam")
    none = planning.plan(vae, np.zeros((8, 6), "float32"))
    assert none.remat is none.chunk_size is None and "remat" not in str(none)
