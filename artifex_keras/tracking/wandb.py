"""The tracker of Weights & Biases."""

import os
import uuid
from pathlib import Path

from artifex_keras.atomic import user_path
from artifex_keras.tracking.params import table_of
from artifex_keras.tracking.tracker import Tracker
from artifex_keras.utils import optional

__all__ = ["Wandb"]


class Wandb(Tracker):
    """A run of Weights & Biases, which keeps its id when training resumes.

    The x axis is `global_step`. `wandb sync` uploads offline runs later. A run that a `wandb.init`
    before training has opened is used and stays open. The key comes from WANDB_API_KEY or
    `wandb login`.

    Args:
        project, entity, name, group, tags, notes, id: as in `wandb.init`.
        mode: "online", "offline" or "disabled"; by default that of WANDB_MODE.
        folder: the parent of the folder `wandb`; by default WANDB_DIR or the run's folder.
        model: whether to upload the trained model as an artifact.

    Example:

        ```python
        from artifex_keras.tracking.wandb import Wandb

        tracker = Wandb(project="digits")  # or tracking={"wandb": {"project": "digits"}}
        tracker.begin("run", {})
        assert list(tracker.state()) == ["id"]
        ```
    """

    name = "wandb"
    package = "wandb"
    credentials = "WANDB_API_KEY, or run `wandb login`"
    slow = True

    def __init__(
        self,
        *,
        project=None,
        entity=None,
        name=None,
        group=None,
        tags=None,
        notes=None,
        mode=None,
        id=None,
        folder=None,
        model=True,
    ):
        self.keeps_model = model
        self._id, self._folder = id, folder
        given = {"project": project, "entity": entity, "name": name, "group": group}
        given |= {"tags": tags, "notes": notes, "mode": mode}
        self._given = {option: value for option, value in given.items() if value is not None}

    def begin(self, folder, state):
        self.id = state.get("id") or self._id or uuid.uuid4().hex[:8]
        self.path = user_path(self._folder or os.environ.get("WANDB_DIR") or folder).absolute()

    def state(self):
        return {"id": self.id}

    def open(self, params, step):
        wandb = optional("wandb", "wandb")
        self._ours = wandb.run is None
        if self._ours:
            mode = self._given.get("mode") or os.environ.get("WANDB_MODE")
            mode = mode or wandb.setup().settings.mode
            if mode == "online" and not wandb.login(prompt=False):
                raise RuntimeError(
                    "no key: run `wandb login`, set WANDB_API_KEY, or work with WANDB_MODE=offline"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            self.run = wandb.init(
                id=self.id, resume="allow", dir=str(self.path), **{**self._given, "mode": mode}
            )
        else:
            self.run, self.id = wandb.run, wandb.run.id
        self.run.config.update(params, allow_val_change=True)
        self.run.define_metric("global_step")
        self.run.define_metric("*", step_metric="global_step")

    def log(self, metrics, step):
        self.run.log({**metrics, "global_step": step})

    def picture(self, name, path, step):
        import wandb

        moving = Path(path).suffix.lower() in (".gif", ".mp4", ".webm")
        picture = wandb.Video(str(path)) if moving else wandb.Image(str(path))
        self.run.log({name: picture, "global_step": step})

    def text(self, name, rows, step):
        import wandb

        columns, data = table_of(rows)
        self.run.log({name: wandb.Table(columns=columns, data=data), "global_step": step})

    def artifact(self, name, path):
        import wandb

        kept = wandb.Artifact(f"{Path(name).stem}-{self.id}", type="model")
        kept.add_file(str(path), name=name)
        self.run.log_artifact(kept)

    def summary(self, values):
        self.run.summary.update(values)

    def close(self, status):
        if self._ours:
            folder = Path(self.run.dir).parent
            self.run.finish(exit_code=0 if status == "finished" else 1)
            if self.run.offline and not folder.exists():
                raise FileNotFoundError(f"its folder {str(folder)!r} was deleted, and what it held")
