"""Folders of runs as the shell fills them, without training."""

import json

import numpy as np
from PIL import Image

ABOUT = {
    "data": "digits: 3 train images of shape (8, 8, 1)",
    "weights": 1234,
    "watched": "loss",
    "modes": {"loss": "min"},
    "units": {"loss": "nats"},
    "quiet": ["elbo"],
    "backend": "jax",
    "device": "cpu",
    "versions": {"keras": "3.15.1", "jax": "0.10.2"},
    "sessions": [
        {"command": "artifex-keras train vae --data digits", "began": "2026-01-02T03:04:05+00:00",
         "ended": "finished", "seconds": 125}
    ],
}  # fmt: skip
HISTORY = "epoch,loss,elbo,val_loss\n0,100.5,-1,90\n1,3.25,-2,4.5\n2,2.125,-3,5\n"
EVALUATION = {
    "samples": {
        "about": "300 samples beside 447 examples",
        "metrics": {"frechet_distance": 2.5, "frechet_distance_error": 0.25,
                    "frechet_distance_bias": 0.125},
    }
}  # fmt: skip


def write_run(folder, *, config="", about=ABOUT, history=HISTORY, pictures=("samples.png",)):
    """A folder of a VAE; what is None is left out."""
    folder.mkdir(parents=True)
    text = f"# made with keras 3.15.1 on jax\nfamily: vae\ndata: {{source: digits}}\n{config}"
    (folder / "config.yaml").write_text(text)
    if about is not None:
        (folder / "run.json").write_text(json.dumps(about))
    if history is not None:
        (folder / "history.csv").write_text(history)
    for name in pictures:
        Image.fromarray(np.zeros((4, 6), "uint8")).save(folder / name)
    (folder / "model.keras").touch()
    return folder
