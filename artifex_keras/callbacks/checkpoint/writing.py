"""Writing beside the training, whose failures are warnings."""

import threading
import warnings
import weakref

__all__ = ["Writing"]


class Writing:
    """One piece of work beside the training; what goes wrong in it becomes a warning.

    Args:
        folder: where it writes.
    """

    threads = weakref.WeakKeyDictionary()  # of all callbacks of this process, with their folders

    def __init__(self, folder):
        self.folder = folder
        self._thread = self._failed = None

    @classmethod
    def finish(cls, folder):
        """Waits until no callback writes into `folder` any more."""
        for thread, place in list(cls.threads.items()):
            if place == folder:
                thread.join()

    def start(self, work, what, asynchronous):
        def run():
            try:
                work()
            except Exception as error:  # a full disk, a folder without rights
                self._failed = f"{what} could not be written: {error}. The run goes on."

        if asynchronous:
            self._thread = threading.Thread(target=run, name="checkpoint")
            self.threads[self._thread] = self.folder
            self._thread.start()
        else:
            run()
            self.wait()

    def wait(self):
        """Waits until the work is done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            warnings.warn(failed, stacklevel=2)
