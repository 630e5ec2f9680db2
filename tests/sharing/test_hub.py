"""Models on the Hugging Face Hub, saved by Keras's `hf://`, against a server on this machine."""

import keras
import numpy as np
import pytest
from sharing.runs import write_run
from sharing.stand_in import hub

import artifex_keras as ak
from artifex_keras.sharing import write_card

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The stand-in, which `huggingface_hub` takes for the Hub."""
    from huggingface_hub import constants

    with hub() as (address, server):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        yield server


def small_vae():
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4)])
    return ak.VAE(encoder, decoder, beta=0.5, seed=0)


def test_a_model_comes_back_from_the_hub(server):
    model = small_vae()
    model.compile(optimizer=ak.create_optimizer("adamw", learning_rate=0.01))
    model.save("hf://ada/vae")
    files = server.files["ada/vae"]
    assert {"config.json", "metadata.json", "model.weights.h5", "README.md"} <= set(files)
    again = keras.saving.load_model(huggingface_hub.snapshot_download("ada/vae"))
    assert isinstance(again, ak.VAE) and again.beta == 0.5
    samples = [keras.ops.convert_to_numpy(each.sample(3, seed=1)) for each in (model, again)]
    np.testing.assert_array_equal(*samples)


def test_the_folder_of_a_run_is_uploaded_with_its_card(server, tmp_path):
    """What the guide says: a card, `upload_folder`, and the code of the card."""
    run = write_run(tmp_path / "run")
    model = small_vae()
    model.save(run / "model.keras")
    text = write_card(run, license="mit", repository="ada/run").read_text()
    api = huggingface_hub.HfApi()
    api.create_repo("ada/run", exist_ok=True)
    api.upload_folder(repo_id="ada/run", folder_path=run, ignore_patterns=["checkpoints/*"])
    assert server.files["ada/run"]["README.md"].decode() == text
    code = text.split("```python\n")[1].split("```")[0]
    found = {}
    exec(code, found)
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(found["samples"]),
        keras.ops.convert_to_numpy(model.sample(16, seed=0)),
    )
