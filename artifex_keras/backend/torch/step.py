"""The seam on torch: the step runs eagerly, autograd gives the gradients."""

import contextlib
import weakref

from artifex_keras.backend.adapters import watched
from artifex_keras.backend.ahead import overlap_of
from artifex_keras.backend.scope import ReadThroughScope, assign_all, restored_on_error, undoable

SHAPES_ARE_KNOWN = True
_kept = weakref.WeakKeyDictionary()  # the `undoable` variables by model, of its running `fit`


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's steps on torch.

    Steps run eagerly, and what one has changed before it raises is taken back. One with the parts
    `begin_on`, `between` and `finish_on` changes no variable before the part on the host is over.
    """

    interrupted = False
    begin_on = None

    def make_train_function(self, force=False):
        _kept.pop(self, None)  # another optimizer has other variables
        super().make_train_function(force=force)

    def train_step(self, data):
        if self not in _kept:
            _kept[self] = undoable(self)
        with _as_before_if_it_fails(_kept[self]):
            if self.begin_on is None:
                return self.train_on(data)
            overlap = overlap_of(self, True)
            return self._in_parts(data, True) if overlap is None else self._beside(overlap, data)

    def test_step(self, data):
        return self.test_on(data) if self.begin_on is None else self._in_parts(data, False)

    def _beside(self, overlap, data):
        """A step of which the part on the host runs beside the first part of the next one."""

        def begin(data):
            outputs, changes = self._first_part(data, True)
            assign_all(*changes)
            return outputs

        outputs, values = overlap.step(data, begin, self.between)
        return self.finish_on(data, outputs, values, training=True)

    def _first_part(self, data, training):
        """What `begin_on` gives, and the variables that it changes with their new values."""
        with ReadThroughScope() as scope:
            return self.begin_on(data, training=training), scope.updates()

    def _in_parts(self, data, training):
        outputs, (changed, changes) = self._first_part(data, training)

        def turn(*arrays):
            return self.turn_on(*arrays, training=training)

        outputs, values = self.between(turn, data, outputs, training)
        with restored_on_error(changed):
            assign_all(changed, changes)
            return self.finish_on(data, outputs, values, training=training)


@contextlib.contextmanager
def _as_before_if_it_fails(variables):
    """As `restored_on_error`, for each step: so few calls as can be."""
    before = [variable.value.detach().clone() for variable in variables]
    try:
        yield
    except BaseException:
        assign_all(variables, before)
        raise


def shard_batches(epoch_iterator):
    """Does nothing: Keras distributes on JAX only."""


def live_value(variable):
    """None: a step runs eagerly and reads the number itself."""
    return None


def watch_batches(adapter, begin):
    """Shows each batch to `begin()`, made anew each pass, before it gets into a step."""
    watched(adapter, "get_torch_dataloader", begin)
