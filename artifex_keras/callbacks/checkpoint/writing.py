"""Writing in a thread beside the training; a failure becomes a warning."""

import threading
import warnings
import weakref

from artifex_keras.callbacks.checkpoint.failures import cause_of

__all__ = ["Writing"]


class Writing:
    """One save at a time in a thread beside the training; a failure becomes a warning.

    Args:
        folder: the folder of the checkpoints.
    """

    threads = weakref.WeakKeyDictionary()  # folder by thread, of all callbacks of the process

    def __init__(self, folder):
        self.folder = folder
        self._thread = self._failed = None

    @classmethod
    def finish(cls, folder):
        """Waits until no callback of this process writes into `folder`."""
        for thread, place in list(cls.threads.items()):
            if place == folder:
                thread.join()

    def start(self, work, what, asynchronous):
        """Calls `work()`, in a thread if `asynchronous`; `what` names it in a warning."""

        def run():
            try:
                work()
            except Exception as error:  # a full disk, a folder without rights
                self._failed = (
                    f"{what} could not be written: {cause_of(error)}. The run continues, and "
                    "earlier checkpoints stay."
                )

        if asynchronous:
            self._thread = threading.Thread(target=run, name="checkpoint")
            self.threads[self._thread] = self.folder
            self._thread.start()
        else:
            run()
            self.wait()

    def wait(self):
        """Waits until the save is done, and warns if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            warnings.warn(failed, stacklevel=2)
