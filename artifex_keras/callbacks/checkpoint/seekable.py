"""What a kind of data source can do for passes that begin in their middle."""

from artifex_keras.callbacks.checkpoint.generators import (
    gathered,
    own_share,
    set_states,
    states_of,
)
from artifex_keras.callbacks.checkpoint.randomness import noted_randomness, restore_randomness

__all__ = ["Noted", "NotedRandomness", "Unseekable"]


class Unseekable:
    """A source that is read from its beginning."""

    def __init__(self, adapter):
        self._adapter = adapter

    # Whether the pass is read from its beginning where it was begun at another batch than expected:
    # a batch may depend on those before it, and reading one moves nothing that can't be set again.
    reads_again = False
    changes_passes = False  # whether the adapter's passes are others since there is this one

    def begin_fit(self, room):
        """Begins a `fit` in which so many batches at most are read ahead."""

    def generators(self):
        """The source's own random generators that a pass draws from, a list."""
        return []

    def note(self, index):
        """What the source needs to give the batch `index` of the running pass again, a dict."""
        return None

    def can_seek(self, note):
        """Whether the next pass can begin at a batch of which this note was made."""
        return False

    def seek(self, index, note):
        """Lets the next pass begin with its batch `index`, of which `note` was made."""
        raise NotImplementedError


class Noted(Unseekable):
    """A source that is set to where it was, noted before each batch: the newest notes are kept."""

    changes_passes = True

    def begin_fit(self, room):
        self._room = room
        self._notes = {}  # by the batch; a thread of the backend's may add one while we read
        self._target = 0, None

    def note(self, index):
        return self._notes.get(index)

    def seek(self, index, note):
        self._target = index, note

    def _begin(self):
        """`(index, note)` with which the pass that is opened now begins."""
        target, self._target = self._target, (0, None)
        self._notes.clear()
        return target

    def _add(self, index, note):
        self._notes[index] = note
        self._notes.pop(index - self._room, None)


class NotedRandomness(Noted):
    """A source whose batches may be drawn from random generators: their states are the notes."""

    def drawn_from(self):
        """The source's own generators from which batches are drawn in this process, a list."""
        return self.generators()

    def note(self, index):
        note = super().note(index)
        if note is None:
            return None
        states, own = note
        return {"random": gathered({**states(), "own": own})}

    def can_seek(self, note):
        return "random" in (note or ())

    def _restore(self, note):
        """Sets the generators to a note's states."""
        restore_randomness(note["random"])
        set_states(self.drawn_from(), own_share(note["random"].get("own")))

    def _noting(self, batches, index):
        """The batches of a pass from `index` on, with a note before each."""
        while True:
            self._add(index, (noted_randomness(), states_of(self.drawn_from())))
            try:
                batch = next(batches)
            except StopIteration:
                return
            yield batch
            index += 1
