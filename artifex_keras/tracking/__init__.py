"""A run told to wandb, MLflow, TensorBoard and files, none of which can end it or slow it down.

`tracking={"wandb": {"project": "digits"}, "jsonl": {}}` of a trainer or of a `LoggingCallback`
names trackers, rows of `TRACKERS`, with their options. While `fit` runs, `active(model)` gives the
open ones to whoever has a picture or a text for them.
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
