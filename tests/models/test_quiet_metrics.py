"""What the progress bar and the picture of the losses leave out; logs and histories have all."""

import re

import keras
import numpy as np
import pytest
from families import FAMILIES, points
from fresh import fresh

from artifex_keras import pictures
from artifex_keras.backend.fitting import loud
from artifex_keras.shell.recipes import FAMILIES as RECIPES

VAE = FAMILIES[0]
ALWAYS = {"loss", "kl_loss", "reconstruction_loss"}


def shown(text):
    """The metrics in the last state of a bar."""
    return set(re.findall(r"(\w+): -?[\d.]+", text.rpartition("\r")[2].rpartition("\x08")[2]))


@pytest.mark.parametrize(("annealing", "more"), [("none", set()), ("linear", {"kl_weight"})])
def test_a_vae_shows_what_changes(annealing, more, capsys):
    model = fresh(VAE)
    options = model.kl_annealing, model.kl_warmup_steps
    model.kl_warmup_steps, model.kl_annealing = 100, annealing
    x = points(32)
    history = model.fit(x, epochs=2, batch_size=16, verbose=1, validation_data=(x,)).history
    model.kl_annealing, model.kl_warmup_steps = options
    assert shown(capsys.readouterr().out) == {*ALWAYS, *more, *(f"val_{m}" for m in ALWAYS)}
    names = ALWAYS | {"elbo", "kl_weight"}
    assert set(history) == names | {f"val_{name}" for name in names}


def test_loud_leaves_out_validation_too():
    logs = dict.fromkeys(["loss", "elbo", "kl_weight", "val_elbo", "val_kl_weight"], 1.0)
    assert [*loud(logs, ("elbo", "kl_weight"))] == ["loss"]
    assert [*loud(logs, ("elbo", "val_kl_weight"))] == ["loss", "kl_weight"]
    assert loud(logs, ()) == logs


def test_a_bar_of_ones_own_stays(capsys):
    model = fresh(VAE)
    model.fit(points(16), verbose=1, callbacks=[keras.callbacks.ProgbarLogger()])
    assert "elbo" in shown(capsys.readouterr().out)


def test_the_picture_has_no_panel_for_them(tmp_path, monkeypatch):
    panels = []
    monkeypatch.setattr(pictures.curves, "_curve", lambda axes, *rest: panels.append(rest[1]))
    history = {"loss": [2.0, 1.0], "elbo": [-2.0, -1.0], "val_loss": [2.0, 1.5]}
    pictures.loss_curves(history, tmp_path / "a.png", quiet=("elbo",))
    assert panels == ["loss"]


def test_the_shell_says_why_a_loss_may_be_negative():
    recipe, dataset = RECIPES["vae"], type("D", (), {"shape": (28, 28, 1)})
    config = {"model": {"reconstruction": "gaussian", "variance": 0.03}}
    least = 784 / 2 * np.log(2 * np.pi * 0.03)
    assert f"down to {least:,.0f} nats" in recipe.note(config, dataset)
    for model in ({"reconstruction": "bce"}, {"reconstruction": "gaussian", "variance": 1.0},
                  {"reconstruction": "gaussian", "variance": "optimal"}):  # fmt: skip
        assert recipe.note({"model": model}, dataset) is None
