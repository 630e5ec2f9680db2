"""The callback that is called after all others, and lets the run be saved then."""

import keras

__all__ = ["LastCallback"]


class LastCallback(keras.callbacks.Callback):
    """Ends the list of callbacks, so that all others have been called before the owner saves."""

    def __init__(self, owner):
        super().__init__()
        self.owner = owner

    def on_train_begin(self, logs=None):
        self.owner.begin()

    def on_epoch_begin(self, epoch, logs=None):
        self.owner.begin_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        self.owner.begin_batch(batch)

    def on_test_begin(self, logs=None):
        self.owner.leave_epoch()

    def on_epoch_end(self, epoch, logs=None):
        self.owner.end_epoch(epoch, logs)

    def on_train_end(self, logs=None):
        self.owner.end()
