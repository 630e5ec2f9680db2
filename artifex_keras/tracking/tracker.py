"""What a tracker is: the base class of those for files, TensorBoard, wandb and MLflow."""

__all__ = ["Tracker"]


class Tracker:
    """Receives a run's metrics, pictures, texts and files, and by default keeps none of them.

    A tracker is a subclass in a file of its own, and a row of `run.TRACKERS`. Its constructor takes
    the options as keyword arguments. Every method but `begin` and `state` may raise and take its
    time: a `Guarded` calls them.

    Attributes:
        name: its key in `tracking={...}`.
        package: what must be installed, None for nothing; also the name of the extra.
        credentials: how to give a secret outside the options, for the error message.
        slow: whether a call may wait for a network or a lock; then a thread makes the calls.
        keeps_model: whether the trained model is handed to `artifact`.
    """

    name = None
    package = None
    credentials = "a variable"
    slow = False
    keeps_model = False

    def begin(self, folder, state):
        """Prepares a run in `folder`, a new one or the one that gave `state`; writes nothing."""

    def state(self):
        """What a checkpoint keeps, for `begin` of the resumed run: a dict."""
        return {}

    def open(self, params, step):
        """Starts the run with its flat dict of `params`, after `step` steps if it is resumed."""

    def log(self, metrics, step):
        """Keeps a dict of numbers."""

    def picture(self, name, path, step):
        """Keeps a picture, a file at `path`."""

    def text(self, name, rows, step):
        """Keeps texts: a list of strings, or of dicts or tuples that are rows of a table."""

    def artifact(self, name, path):
        """Keeps a file, such as the model."""

    def summary(self, values):
        """Keeps the final values, a dict."""

    def close(self, status):
        """Ends the run as "finished" or "failed"."""
