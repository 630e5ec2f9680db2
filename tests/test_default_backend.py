"""Which backend is taken where nobody has said."""

import importlib.util
import json
import os
import sys

import pytest

from artifex_keras.default_backend import choose_backend


@pytest.mark.parametrize(
    "installed, configured, chosen, argv, expected",
    [
        (["jax"], None, None, ["script.py"], "jax"),
        (["jax"], "tensorflow", None, ["script.py"], "jax"),
        (["jax", "tensorflow"], None, None, ["script.py"], None),
        (["jax", "torch"], "torch", None, ["script.py"], None),
        (["jax", "tensorflow"], None, None, ["/usr/bin/artifex-keras", "train"], "jax"),
        (["jax", "tensorflow"], None, None, ["-m", "train"], "jax"),
        (["jax"], None, "torch", ["artifex-keras"], "torch"),
    ],
)
def test_jax_is_taken_where_kerass_own_default_cannot_serve(
    installed, configured, chosen, argv, expected, tmp_path, monkeypatch
):
    if configured:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": configured}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", chosen or "")  # so that it is restored afterwards
    if chosen is None:
        del os.environ["KERAS_BACKEND"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delitem(sys.modules, "keras")
    spec = object()
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name in installed else None
    )
    choose_backend()
    assert os.environ.get("KERAS_BACKEND") == expected


def test_nothing_is_chosen_once_keras_is_there(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "")
    del os.environ["KERAS_BACKEND"]
    monkeypatch.setattr(sys, "argv", ["artifex-keras"])
    choose_backend()
    assert "KERAS_BACKEND" not in os.environ
