"""Trackers of a run: wandb, MLflow, TensorBoard and JSON lines; none can end a run or slow it.

`tracking={"wandb": {"project": "digits"}, "jsonl": {}}` of a trainer or of a `LoggingCallback`
names trackers, rows of `TRACKERS`, with their options. While `fit` runs, any callback can send
pictures and texts to the open trackers, `active(model)`.

To add a tracker, write a subclass of `Tracker` in a file of its own and put it in `TRACKERS`.

Example:

    ```python
    import json
    import keras
    import numpy as np
    import artifex_keras as ak

    x = np.random.default_rng(0).normal(size=(32, 4))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    log = ak.callbacks.LoggingCallback(2, tracking={"jsonl": {"path": "run.jsonl"}}, console=False)
    model.fit(x, x[:, :1], batch_size=8, verbose=0, callbacks=[log])
    rows = [json.loads(line) for line in open("run.jsonl")]
    assert list(rows[0]) == ["params"] and list(rows[-1]) == ["step", "summary"]
    ```
"""

from artifex_keras.tracking.files import RowFile, Rows
from artifex_keras.tracking.guarded import Guarded
from artifex_keras.tracking.params import description
from artifex_keras.tracking.run import TRACKERS, Trackers, active
from artifex_keras.tracking.tracker import Tracker

__all__ = [
    "TRACKERS",
    "Guarded",
    "RowFile",
    "Rows",
    "Tracker",
    "Trackers",
    "active",
    "description",
]
