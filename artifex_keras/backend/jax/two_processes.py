"""Steps of which one process runs the first program and another one the second, on JAX.

Both run the same `fit`: the same batches in the same order, the same callbacks with the same logs.
In each step the one that samples, the actor, begins the next batch and sends the outputs of this
one. The learner updates the state with them, and sends the logs and the weights that sampling
reads.
"""

import jax
import numpy as np

from artifex_keras.backend import processes
from artifex_keras.backend.actors import role
from artifex_keras.backend.jax.actors import kind_of, put_rows, read_leaves, unchanged_leaves
from artifex_keras.backend.link import current_link
from artifex_keras.backend.live import Fed
from artifex_keras.backend.messages import pack_error, unpack_error

__all__ = ["BetweenProcesses"]

SMALL = 1024  # numbers of a variable that goes with the logs, whatever it is for


class BetweenProcesses:
    """A train or test step of two processes, as one of them takes part in it.

    Args:
        model: whose step it is.
        begin: the first program of a step.
        compiled: the second one, compiled.
        finish: what runs that.
        changed: the variables that `begin` changes, known once it is traced.
        training: whether it is a training step.
    """

    def __init__(self, model, begin, compiled, finish, changed, training):
        self.model, self.changed, self.training = model, changed, training
        self._compiled, self._finish = compiled, finish
        self._unchanged = {}  # the numbers of leaves that an update leaves as they are, by the kind
        self._begin = begin
        self._sample = jax.jit(begin)
        self._changes = jax.jit(lambda state, fed: begin(state, fed)[1])
        self._kinds = {}  # by the kind of batch: the large leaves, the small ones, the outputs
        self._sent = {}  # the newest leaves that both have

    def step(self, overlap, state, data, fed):
        """`(logs, state)` after a step on a batch; `overlap` is that of the running `fit`."""
        link, fit = current_link(), self.model.running_fit
        if fit is not None and link.close not in fit.at_exit:
            fit.at_exit.append(link.close)
        part = self._learn if role() == "learner" else self._act
        try:
            return part(link, overlap, state, data, fed)
        except BaseException:
            link.close()
            raise

    def _learn(self, link, overlap, state, data, fed):
        large, small, structure = self._kind(state, fed)
        leaves = jax.tree.leaves(state)
        self._send(link, state, small, [i for i in large if self._sent.get(i) is not leaves[i]])
        states = [state]

        def begin_next(data):
            changes = self._changes(states[-1], Fed(data, fed.numbers))
            states.append(self.model._changed(states[-1], self.changed, changes))

        if overlap is None:
            begin_next(data)
        else:
            overlap.step(data, begin_next, None)
        found = link.receive()
        if found["error"] is not None:
            raise unpack_error(found["error"])
        outputs = put_rows(jax.tree.unflatten(structure, found["outputs"]))
        given = fed, outputs, found["values"], []
        kind = kind_of(fed)
        if kind not in self._unchanged:
            self._unchanged[kind] = unchanged_leaves(self._compiled, states[-1], *given)
        unchanged = self._unchanged[kind]
        leaves = jax.tree.leaves(states[-1])
        kept = [i for i in unchanged if i in self._sent and self._sent[i] is leaves[i]]
        logs, state = self._finish(states[-1], *given)
        changed = [index for index in large if index not in unchanged] if self.training else []
        self._send(link, state, small, changed, logs)
        leaves = jax.tree.leaves(state)
        self._sent = {index: leaves[index] for index in (*kept, *changed)}
        return logs, state

    def _act(self, link, overlap, state, data, fed):
        self._kind(state, fed)
        state, _ = self._received(link, state)
        states = [state]

        def begin_next(data):
            outputs, changes = self._sample(states[-1], Fed(data, fed.numbers))
            states.append(self.model._changed(states[-1], self.changed, changes))
            return outputs

        def between(*arguments):
            with processes.by_itself():  # this process alone asks for rewards
                return self.model.between(*arguments)

        found = {"error": None}
        try:
            if not self.model.has_host_part:
                between = None
            if overlap is not None:
                outputs, values = overlap.step(data, begin_next, between)
            else:
                outputs, values = begin_next(data), ()
                if between is not None:
                    outputs, values = between(None, data, outputs, self.training)
            found["outputs"] = [processes.to_host_array(leaf) for leaf in jax.tree.leaves(outputs)]
            found["values"] = values
        except Exception as error:
            link.send({"error": pack_error(error)})
            raise
        link.send(found)
        state, logs = self._received(link, state)
        return logs, state

    def _send(self, link, state, small, large, logs=None):
        """Sends these leaves of the state, small ones with the logs, large ones one by one."""
        leaves = jax.tree.leaves(state)
        numbers = {index: processes.to_host_array(leaves[index]) for index in small}
        if logs is not None:
            logs = {name: processes.to_host_array(value) for name, value in logs.items()}
        link.send({"logs": logs, "small": numbers, "large": large})
        for index in large:
            self._sent[index] = leaves[index]
            link.send(processes.to_host_array(leaves[index]))

    def _received(self, link, state):
        """`(state, logs)` with what `_send` has sent."""
        leaves, structure = jax.tree.flatten(state)
        head = link.receive()
        values = head["small"] | {index: link.receive() for index in head["large"]}
        places = [leaves[index].sharding for index in values]
        for index, value in zip(values, jax.device_put(list(values.values()), places), strict=True):
            leaves[index] = value
        return jax.tree.unflatten(structure, leaves), head["logs"]

    def _kind(self, state, fed):
        """`(large, small, structure)` for such a batch: the numbers of the leaves to send, and how
        the outputs are made of arrays."""
        kind = kind_of(fed)
        if kind not in self._kinds:
            read, structure = read_leaves(self._begin, state, fed)
            optimizer = len(state[0]) + len(state[1]) if self.training else 0
            slots = range(optimizer, optimizer + len(state[2]) if self.training else 0)
            sizes = [np.size(leaf) for leaf in jax.tree.leaves(state)]
            small = [i for i, size in enumerate(sizes) if size <= SMALL and i not in slots]
            large = [i for i in read if i not in small]
            self._kinds[kind] = large, small, structure
        return self._kinds[kind]
