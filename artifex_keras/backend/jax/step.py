"""The seam on JAX: the step is a pure function of its state, and several steps are one program."""

import functools
import itertools
from collections.abc import Sequence

import jax
import keras
from jax import numpy as jnp

from artifex_keras.aliases import Data
from artifex_keras.backend import keras_internals
from artifex_keras.backend.actors import actors, role
from artifex_keras.backend.ahead import overlap_of
from artifex_keras.backend.jax import processes
from artifex_keras.backend.jax.actors import OnActors
from artifex_keras.backend.jax.batches import shard_batches, stacked, together, watch_batches
from artifex_keras.backend.jax.memory import keep_memory
from artifex_keras.backend.jax.running import KeepsState
from artifex_keras.backend.jax.two_processes import BetweenProcesses
from artifex_keras.backend.live import Fed, fed_pairs
from artifex_keras.backend.predicting import PaddedBatches
from artifex_keras.backend.scope import ReadThroughScope, assign_all, pairs

__all__ = ["SHAPES_ARE_KNOWN", "TrainStep", "live_value", "shard_batches", "watch_batches"]

SHAPES_ARE_KNOWN = True  # those of batches, where a step is traced
live_value = keras_internals.stateless_value  # None outside of a step


class TrainStep(KeepsState):
    """Turns `train_on(data)` and `test_on(data)` into Keras's pure steps on JAX.

    A step of which the middle runs on the host is `interrupted`: its parts `begin_on` and
    `finish_on` are a program each. Between them `between` runs on the host; it may call another
    program, `turn_on`, with the weights of the moment, as often as it likes.
    """

    interrupted = False
    has_host_part = True  # of an interrupted step: whether `between` has something to do
    _real_rows = None  # what takes the padding out of a prediction

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # A newer Keras asks here first, and would pass over a model that is built: but batches must
        # be sharded, and the model under the distribution, at each `fit`.
        self._symbolic_build(iterator=iterator, data_batch=data_batch)

    def train_step(self, state, data):
        self._note_batch(data)
        return self._pure(self.train_on, state, data)

    def _note_batch(self, data):
        """Notes the shapes of a batch while a training step is traced."""
        data, _ = fed_pairs(self, data)
        leaves = jax.tree.leaves(data)
        if leaves and all(hasattr(leaf, "shape") for leaf in leaves) and leaves[0].ndim:
            shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), data)
            self.traced_batches[leaves[0].shape[0]] = shapes

    @functools.cached_property
    def traced_batches(self):
        """Shapes of the batches that were trained on by their numbers of rows, a dict. It has None
        where steps are more than what they do with a batch: turns with an environment."""
        return {}

    def test_step(self, state, data):
        return self._pure(self.test_on, state, data)

    def _pure(self, step, state, data, *more):
        groups = self._groups(state)
        data, live = fed_pairs(self, data)
        with ReadThroughScope([*pairs(groups, state), *live]) as scope:
            logs = step(data, *more)
            state = tuple([scope.get_current_value(v) for v in group] for group in groups)
        return logs, state

    def _groups(self, state):
        """The variables that a state holds, in Keras's order; test steps carry no optimizer."""
        running = self._running.groups
        if running and list(map(len, running)) == list(map(len, state)):
            return running
        return list(self._variables_of(True, True, len(state) == 4, True))

    def _means(self, state, names):
        """The results of the metrics of these names in that state."""
        with ReadThroughScope(pairs(self._groups(state), state)):
            return {metric.name: metric.result() for metric in self.metrics if metric.name in names}

    def make_train_function(self, force=False):
        if processes.count() > 1 and keras.distribution.distribution() is None:
            raise ValueError(
                f"{processes.count()} processes train one model under a distribution, and none is "
                "set: give a trainer one, or set that of `distributed.data_parallel()`."
            )
        keep_memory()
        if _averages(self.optimizer):
            _separate_buffers(self)
        if self.train_function is not None and not force:
            return
        if self.interrupted:
            self.train_function = self._in_parts(True, self._out(4))
        elif self.steps_per_execution > 1:
            self.train_function = self._fused(self.train_step, self._out(4))
        else:
            super().make_train_function(force=force)

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return
        if self.interrupted:
            self.test_function = self._in_parts(False, self._out(3))
        elif self.steps_per_execution > 1:
            self.test_function = self._fused(self.test_step, self._out(3))
        else:
            super().make_test_function(force=force)

    def predict(
        self,
        x: Data,
        batch_size: int | None = None,
        verbose: bool | int | str = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ):
        distribution = keras.distribution.distribution()
        given, real_rows = x, None
        if distribution is not None:
            given = PaddedBatches(x, batch_size, steps, distribution)
            batch_size, real_rows = None, given.real_rows
        self._real_rows = real_rows
        return super().predict(given, batch_size, verbose, steps, callbacks)

    def make_predict_function(self, force=False):
        if self.predict_function is None or force:
            super().make_predict_function(force=force)
            predict = self.predict_function

            def function(state, iterator):
                outputs, state = predict(state, iterator)
                return outputs if self._real_rows is None else self._real_rows(outputs), state

            self.predict_function = function
        return self.predict_function

    def _fused(self, step, out_shardings):
        """A train or test function of many batches as one scan, a remainder one by one."""
        steps = self.steps_per_execution
        step = _traced_once(step)

        def scanned(state, fed):
            names = set()
            batches, numbers = fed

            def body(state, batch):
                logs, state = step(state, Fed(batch, numbers))
                names.update(logs)
                return state, None

            # The logs are running means: read from the last state, not in every step.
            state, _ = jax.lax.scan(body, state, stacked(batches))
            return self._means(state, names), state

        def compiled(program):
            return jax.jit(program, donate_argnums=0, out_shardings=out_shardings)

        eager = self.run_eagerly or not self.jit_compile
        single, many = (step, None) if eager else map(compiled, (step, scanned))
        run_single, run_many = self._fed(self._kept(single)), self._fed(self._kept(many))
        one_by_one = [True] if eager else []  # else decided with the first batch

        def function(state, iterator):
            batches = list(itertools.islice(iterator, steps))
            if not batches:
                raise StopIteration
            if not one_by_one:
                on_cpu = jax.default_backend() == "cpu"
                traced = self._fed(single.trace)(state, batches[0])
                one_by_one.append(on_cpu and _convolves(traced.jaxpr))
            fuse = len(batches) == steps and not one_by_one[0]
            stack = together(batches) if fuse else None
            if stack is not None:
                return run_many(state, stack)
            for batch in batches:
                logs, state = run_single(state, batch)
            return logs, state

        return function

    def _in_parts(self, training, out_shardings):
        """A train or test function of steps that are interrupted by a part on the host.

        The part on the host may raise. So the program before it gives back only what it changes,
        and the one after it overwrites the state. Of several steps an execution it is all or none:
        a copy of the state is kept meanwhile.
        """
        begin, finish, changed = self._parts(training)
        turn = self._turn_part(training)
        newest, steps = self._running.newest, self.steps_per_execution
        remote, first = None, begin
        if not self.run_eagerly and self.jit_compile:
            begin, turn = jax.jit(begin), jax.jit(turn)
            finish = jax.jit(finish, donate_argnums=0, out_shardings=out_shardings)
        compiled, finish = finish, self._kept(finish) if steps == 1 else finish
        if role() is not None:
            remote = BetweenProcesses(self, first, compiled, finish, changed, training)
        elif actors() is not None:
            elsewhere = OnActors(self, first, actors(), keras.distribution.distribution())
            begin, finish = elsewhere.begin, elsewhere.finishing(compiled, finish)
        self.live_values.variables()  # made before a program is traced

        def in_turn(state, data, fed):
            outputs, changes = begin(state, fed)
            turn_now = functools.partial(turn, state, fed)
            outputs, values = self.between(turn_now, data, outputs, training)
            return finish(state, fed, outputs, values, changes)

        def overlapping(overlap, state, data, fed):
            states = [state]  # with what each call of `begin` changes

            def begin_next(data):
                outputs, changes = begin(states[-1], Fed(data, fed.numbers))
                states.append(self._changed(states[-1], changed, changes))
                return outputs

            between = self.between if self.has_host_part else None
            outputs, values = overlap.step(data, begin_next, between)
            return finish(states[-1], fed, outputs, values, [])

        def function(state, iterator):
            logs, overlap = None, overlap_of(self, training)
            step = in_turn if overlap is None else functools.partial(overlapping, overlap)
            step = step if remote is None else functools.partial(remote.step, overlap)
            if steps > 1:
                newest[:] = [({}, jax.tree.map(jnp.copy, state))]
            for data in itertools.islice(iterator, steps):
                logs, state = step(state, data, Fed(data, self.live_values.array()))
            if logs is None:
                raise StopIteration
            newest[:] = [(logs, state)]
            return newest[0]

        return function

    def _parts(self, training):
        """The programs of the state around the part on the host.

        `begin(state, data)` gives `(outputs, changes)`: the new values of some variables, such as
        seeds. `finish(state, data, outputs, values, changes)` gives `(logs, state)`. Besides the
        list of those variables, known once `begin` is traced; `changes` may be empty.
        """
        changed = []

        def begin(state, data):
            if training:
                self._note_batch(data)
            data, live = fed_pairs(self, data)
            with ReadThroughScope([*pairs(self._groups(state), state), *live]) as scope:
                outputs = self.begin_on(data, training=training)
                changed[:], values = scope.updates()
            return outputs, values

        def finish_on(data, outputs, values, changes):
            if changes:
                assign_all(changed, changes)
            return self.finish_on(data, outputs, values, training=training)

        return begin, functools.partial(self._pure, finish_on), changed

    def _changed(self, state, variables, values):
        """The state in which those variables have those values."""
        new = {id(variable): value for variable, value in zip(variables, values, strict=True)}
        groups = zip(self._groups(state), state, strict=True)
        return tuple(
            [new.get(id(variable), value) for variable, value in zip(*pair, strict=True)]
            for pair in groups
        )

    def _turn_part(self, training):
        """`turn_on` as a function of the state and the batch, of which it changes nothing."""

        def turn(state, data, *arrays):
            self.traced_batches[None] = None
            _, live = fed_pairs(self, data)
            with ReadThroughScope([*pairs(self._groups(state), state), *live]):
                return self.turn_on(*arrays, training=training)

        return turn

    def _out(self, groups):
        """Where the step's results live: as their variables under a distribution, else anywhere."""
        if keras.distribution.distribution() is None:
            return None
        shardings = keras_internals.state_shardings(self)
        if groups == 3:
            del shardings[2]
        return None, tuple(shardings)


def _convolves(jaxpr):
    """Whether there are convolutions in a traced program.

    Inside a loop XLA's CPU compiler leaves their gradients to code ten times slower.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            return True
        inner = jax.tree.leaves(equation.params, is_leaf=_is_program)
        if any(_convolves(getattr(part, "jaxpr", part)) for part in filter(_is_program, inner)):
            return True
    return False


def _traced_once(step):
    """The step for several programs, of which the first traces it for all."""
    program = jax.jit(lambda state, batch: step(state, batch), inline=True)
    return functools.wraps(step)(lambda state, batch: program(state, batch))


def _is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _averages(optimizer):
    inner = getattr(optimizer, "inner_optimizer", None)
    parts = getattr(optimizer, "parts", {}).values()
    return getattr(optimizer, "use_ema", False) or any(
        _averages(part) for part in [inner, *parts] if part is not None
    )


def _separate_buffers(model):
    """Gives each variable its own buffer.

    `a.assign(b)` makes two JAX variables share one, which the next step would donate twice. Keras
    does just that at the end of `fit` for an optimizer with `use_ema=True`.
    """
    seen = set()
    for variable in model.variables + model.optimizer.variables:
        value = variable.value
        if isinstance(value, jax.Array):
            key = tuple(shard.data.unsafe_buffer_pointer() for shard in value.addressable_shards)
            if key in seen:
                variable.assign(jnp.copy(value))
            seen.add(key)
