"""The tracker of TensorBoard's event files."""

import os
import socket
import time
from pathlib import Path

from artifex_keras.atomic import user_path
from artifex_keras.tracking.files import still_there
from artifex_keras.tracking.params import table_of
from artifex_keras.tracking.tracker import Tracker
from artifex_keras.trust import open_image

__all__ = ["TensorBoard"]


class TensorBoard(Tracker):
    """Event files for TensorBoard: scalars, images, GIFs and texts, without TensorFlow.

    TensorBoard hides what an interrupted run wrote after the checkpoint from which it resumes.

    Args:
        folder: the folder of the event files; a relative path starts in the run's folder.

    Example:

        ```python
        from artifex_keras.tracking.tensorboard import TensorBoard

        tracker = TensorBoard(folder="events")  # or tracking={"tensorboard": {"folder": "events"}}
        tracker.begin("run", {})
        assert tracker.path.parts[-2:] == ("run", "events")
        ```
    """

    name = "tensorboard"
    package = "tensorboard"

    def __init__(self, *, folder="tensorboard"):
        self._folder = folder

    def begin(self, folder, state):
        self.path = Path(folder, user_path(self._folder)).absolute()

    def open(self, params, step):
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.path.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.path / name, "ab+")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        earlier = any(path.name != name for path in self.path.glob("events.out.tfevents.*"))
        if earlier:  # readers then drop the events of other files from this step on
            self._write(step=step + 1 if step else 0, session_log={"status": "START"})
        if not step:
            self.text("params", [{"name": k, "value": v} for k, v in params.items()], 0)

    def _write(self, **event):
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        file = still_there(self._file, Path(self._file.name))
        if file is not self._file:
            self._file, self._records = file, RecordWriter(file)
        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
        self._records.flush()

    def log(self, metrics, step):
        values = [{"tag": name, "simple_value": value} for name, value in metrics.items()]
        self._write(step=step, summary={"value": values})

    def picture(self, name, path, step):
        with open_image(path) as image:
            width, height = image.size
        encoded = Path(path).read_bytes()
        image = {"width": width, "height": height, "colorspace": 4, "encoded_image_string": encoded}
        self._write(step=step, summary={"value": [{"tag": name, "image": image}]})

    def text(self, name, rows, step):
        columns, data = table_of(rows)
        lines = [columns, ["---"] * len(columns), *data]
        cells = [[str(cell).replace("|", "\\|").replace("\n", "<br>") for cell in x] for x in lines]
        table = "\n".join(f"| {' | '.join(row)} |" for row in cells)
        value = {
            "tag": name,
            "metadata": {"plugin_data": {"plugin_name": "text"}},
            "tensor": {"dtype": "DT_STRING", "string_val": [table.encode()], "tensor_shape": {}},
        }
        self._write(step=step, summary={"value": [value]})

    def close(self, status):
        self._records.close()
