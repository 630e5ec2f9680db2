"""The seam on JAX: the step is a pure function of its state, and several steps are one program."""

import functools
import itertools

import jax
import keras
import numpy as np
from jax import numpy as jnp

from artifex_keras.backend import keras_internals
from artifex_keras.backend.predicting import PaddedBatches
from artifex_keras.backend.processes import jax as processes
from artifex_keras.backend.scope import ReadThroughScope, assign_all, values_of

SHAPES_ARE_KNOWN = True  # those of batches, where a step is traced
# A Keras that scans over stacked batches itself has the loop to use.
KERAS_FUSES_STEPS = keras_internals.fuses_steps(keras_internals.jax_trainer())
ALIGNMENT = 64  # bytes, of memory that XLA shares with NumPy


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's pure steps on JAX.

    A step of which the middle runs on the host is `interrupted`: its parts `begin_on` and
    `finish_on` are a program each, and `on_host` runs between them.
    """

    interrupted = False
    _real_rows = None  # what takes the padding out of a prediction

    def __setattr__(self, name, value):
        # Keras's loop keeps the state of every execution here, and its `__setattr__` looks through
        # each array of it for layers and weights: longer than a small step takes to dispatch.
        if name == keras_internals.RUNNING_STATE:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def train_step(self, state, data):
        return self._pure(self.train_on, state, data)

    def test_step(self, state, data):
        return self._pure(self.test_on, state, data)

    def _pure(self, step, state, *data):
        groups = self._groups(state)
        with ReadThroughScope(_pairs(groups, state)) as scope:
            logs = step(*data)
            state = tuple([scope.get_current_value(v) for v in group] for group in groups)
        return logs, state

    def _groups(self, state):
        """The variables that a state holds, in Keras's order; test steps carry no optimizer."""
        groups = [self.trainable_variables, self.non_trainable_variables, self.metrics_variables]
        if len(state) == 4:
            groups.insert(2, self.optimizer.variables)
        return groups

    def _means(self, state, names):
        """The results of the metrics of these names in that state."""
        with ReadThroughScope(_pairs(self._groups(state), state)):
            return {metric.name: metric.result() for metric in self.metrics if metric.name in names}

    def make_train_function(self, force=False):
        if processes.count() > 1 and keras.distribution.distribution() is None:
            raise ValueError(
                f"{processes.count()} processes train one model under a distribution, and none is "
                "set: give a trainer one, or set that of `distributed.data_parallel()`."
            )
        if _averages(self.optimizer):
            _separate_buffers(self)
        if self.train_function is not None and not force:
            return
        if self.interrupted:
            self.train_function = self._in_parts(True, self._out(4))
        elif self._fuses():
            self.train_function = self._fused(self.train_step, self._out(4))
        else:
            super().make_train_function(force=force)

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return
        if self.interrupted:
            self.test_function = self._in_parts(False, self._out(3))
        elif self._fuses():
            self.test_function = self._fused(self.test_step, self._out(3))
        else:
            super().make_test_function(force=force)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
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

    def _fuses(self):
        return self.steps_per_execution > 1 and self.jit_compile and not KERAS_FUSES_STEPS

    def _fused(self, step, out_shardings):
        """A train or test function of many batches as one scan, a remainder one by one."""
        steps = self.steps_per_execution

        def scanned(state, batches):
            names = set()

            def body(state, batch):
                logs, state = step(state, batch)
                names.update(logs)
                return state, None

            # The logs are running means: read from the last state, not in every step.
            state, _ = jax.lax.scan(body, state, _stacked(batches))
            return self._means(state, names), state

        single, many = (
            jax.jit(program, donate_argnums=0, out_shardings=out_shardings)
            for program in (step, scanned)
        )

        one_by_one = []  # decided with the first batch, kept for the others

        def function(state, iterator):
            batches = list(itertools.islice(iterator, steps))
            if not batches:
                raise StopIteration
            if not one_by_one:
                on_cpu = jax.default_backend() == "cpu"
                one_by_one.append(on_cpu and _convolves(single.trace(state, batches[0]).jaxpr))
            whole = len(batches) == steps and not one_by_one[0]
            together = _together(batches) if whole else None
            if together is not None:
                return many(state, together)
            for batch in batches:
                logs, state = single(state, batch)
            return logs, state

        return function

    def _in_parts(self, training, out_shardings):
        """A train or test function of steps that are interrupted by a part on the host."""

        def program(part):
            step = functools.partial(self._pure, functools.partial(part, training=training))
            if self.run_eagerly or not self.jit_compile:
                return step
            return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)

        begin, finish = program(self.begin_on), program(self.finish_on)

        def function(state, iterator):
            logs = None
            for data in itertools.islice(iterator, self.steps_per_execution):
                made, state = begin(state, data)
                told = self.on_host(data, made, training=training)
                logs, state = finish(state, data, made, told)
            if logs is None:
                raise StopIteration
            return logs, state

        return function

    def _out(self, groups):
        """Where the step's results live: as their variables under a distribution, else anywhere."""
        if keras.distribution.distribution() is None:
            return None
        shardings = keras_internals.state_shardings(self)
        if groups == 3:
            del shardings[2]
        return None, tuple(shardings)


def shard_batches(epoch_iterator):
    """Lets Keras's iterator over the data lay each batch out by its own shape.

    Under a distribution it lays all out like the first, and fails at a last one that the devices
    don't divide.
    """
    if keras.distribution.distribution() is not None:
        batches = functools.partial(_distributed_batches, epoch_iterator)
        keras_internals.replace_passes(epoch_iterator, batches)


def _distributed_batches(epoch_iterator):
    adapter = epoch_iterator.data_adapter
    batches = adapter.get_jax_iterator()
    if processes.count() > 1:
        own = getattr(adapter, "own_rows", False)
        return processes.shard_rows(batches, adapter.num_batches, own)
    return map(keras_internals.distribute_batch, batches)


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


def _is_program(value):
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _pairs(groups, state):
    return [
        pair
        for group, values in zip(groups, state, strict=True)
        for pair in zip(group, values, strict=True)
    ]


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


def _together(batches):
    """The batches as the fused program takes them, or None if they differ in shape.

    NumPy arrays are stacked here, for one transfer; device arrays by the program.
    """
    leaves, structure = jax.tree.flatten(batches[0])
    columns = list(zip(*map(structure.flatten_up_to, batches), strict=True))
    if any(
        leaf.shape != column[0].shape or leaf.dtype != column[0].dtype
        for column in columns
        for leaf in column
    ):
        return None
    if not all(isinstance(leaf, np.ndarray) for column in columns for leaf in column):
        return batches
    return jax.tree.unflatten(structure, [_stacked_on_host(column) for column in columns])


def _stacked_on_host(arrays):
    """The arrays as one, in memory that XLA takes as it is: other memory it copies once more."""
    size = len(arrays) * arrays[0].nbytes
    memory = np.empty(size + ALIGNMENT, "uint8")
    start = -memory.ctypes.data % ALIGNMENT
    stacked = memory[start : start + size].view(arrays[0].dtype)
    stacked = stacked.reshape(len(arrays), *arrays[0].shape)
    for index, array in enumerate(arrays):
        stacked[index] = array
    return stacked


def _stacked(batches):
    if isinstance(batches, list):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    return batches


def _recorded(fn, pairs, assigned):
    """`fn()` under a scope of `pairs`: its result and the values it assigned to other variables.

    The variables themselves are left in the list `assigned`: they are known once it was traced.
    """
    pairs = list(pairs)
    with ReadThroughScope(pairs) as scope:
        result = fn()
        assigned[:], values = scope.updates(excluding=[variable for variable, _ in pairs])
    return result, values


def value_and_grad(fn, variables):
    """`(loss, aux, gradients)` of `fn() -> (loss, aux)` with respect to `variables`.

    What `fn` assigns to other variables (batch statistics, seeds) is assigned here as well.
    """
    assigned = []

    def pure(values):
        pairs = zip(variables, values, strict=True)
        (loss, aux), changes = _recorded(fn, pairs, assigned)
        return loss, (aux, changes)

    (loss, (aux, changes)), gradients = jax.value_and_grad(pure, has_aux=True)(values_of(variables))
    assign_all(assigned, changes)
    return loss, aux, gradients


def without_gradient(fn):
    """`fn()` as a constant, through which no gradient flows."""
    return jax.lax.stop_gradient(fn())


def input_gradient(fn, x):
    """The gradient of the summed `fn(x)` with respect to `x`, of the shape of `x`.

    Differentiable once more, for gradient penalties and score matching.
    """
    assigned = []

    def pure(x):
        value, changes = _recorded(lambda: fn(x), (), assigned)
        return jnp.sum(value), changes

    gradient, changes = jax.grad(pure, has_aux=True)(jnp.asarray(x))
    assign_all(assigned, changes)
    return gradient


def over_rows(fn, x):
    """On a CPU of its own as rows; where chips or several devices share the work, as it stands.

    Of the gradient of a product with three axes XLA makes, on a CPU, a transposed copy, for which
    it computes once more all that stands before the product: with rows a step of a transformer of
    four layers took a quarter less time. For TPUs XLA doesn't, and would move more bytes for rows.
    """
    alone = jax.default_backend() == "cpu" and keras.distribution.distribution() is None
    if not alone or isinstance(x, keras.KerasTensor):
        return fn(x)
    made = fn(jnp.reshape(x, (-1, x.shape[-1])))
    return jnp.reshape(made, (*x.shape[:-1], made.shape[-1]))


def repeat(body, xs):
    """The stacked results of `body(x)` for each row `x` of `xs`, in order, in one `lax.scan`.

    What `body` assigns is carried from row to row and on to the caller.
    """
    carried = []
    jax.eval_shape(
        lambda x: _recorded(lambda: body(x), (), carried)[0], jax.tree.map(lambda leaf: leaf[0], xs)
    )
    variables = list(carried)

    def scanned(values, x):
        with ReadThroughScope(zip(variables, values, strict=True)) as scope:
            result = body(x)
            return [scope.get_current_value(v) for v in variables], result

    values, results = jax.lax.scan(scanned, values_of(variables), xs)
    assign_all(variables, values)
    return results


def when(condition, body, otherwise):
    """`body()` if `condition`, else `otherwise()`: results of one structure.

    What `body` assigns stays as it was where the condition doesn't hold; only one is computed.
    """
    touched = []
    jax.eval_shape(lambda: _recorded(body, (), touched)[0])
    variables = list(touched)

    def run():
        with ReadThroughScope() as scope:
            result = body()
            return result, [scope.get_current_value(v) for v in variables]

    result, values = jax.lax.cond(condition, run, lambda: (otherwise(), values_of(variables)))
    assign_all(variables, values)
    return result


def apply_gradients(optimizer, gradients, variables):
    """One update; stateless inside, for a loss scale or an accumulator branches on its state."""
    values, optimizer_values = optimizer.stateless_apply(
        values_of(optimizer.variables), gradients, values_of(variables)
    )
    assign_all(variables, values)
    assign_all(optimizer.variables, optimizer_values)


def compiled(method):
    """The method as one jitted program of the model's variables and the positional arguments.

    Keyword arguments are static. Called inside a step, it is simply part of that step.
    """

    @functools.wraps(method)
    def call(self, *args, **static):
        if keras_internals.in_stateless_scope():
            return method(self, *args, **static)
        variables = self.variables
        key = (method.__qualname__, tuple(sorted(static.items())))
        if key not in self.compiled_methods:
            self.compiled_methods[key] = jax.jit(_program(method, self, static))
        result, changes = self.compiled_methods[key](values_of(variables), args)
        for index, value in changes.items():
            variables[index].assign(value)
        return result

    return call


def _program(method, model, static):
    def program(values, args):
        variables = model.variables
        with ReadThroughScope(zip(variables, values, strict=True)) as scope:
            result = method(model, *args, **static)
            changed = {id(variable) for variable in scope.updates()[0]}
            changes = {
                index: scope.get_current_value(variable)
                for index, variable in enumerate(variables)
                if id(variable) in changed
            }
        return result, changes

    return program


def reader(model, fn, weights=False):
    """A function that gives `fn()`, scalar tensors by name, as floats, in the middle of `fit`.

    `fn` may read metrics, scalars of the optimizer and, with `weights`, the trainable weights:
    between two steps Keras's loop holds their values itself, and the variables are empty. All is
    one program, which waits for the step and leaves the values where they are.
    """
    scalars = [i for i, v in enumerate(model.optimizer.variables) if v.shape == ()]
    groups = [
        model.trainable_variables if weights else [],
        [model.optimizer.variables[i] for i in scalars],
        model.metrics_variables,
    ]
    names = []

    @jax.jit
    def program(values):
        with ReadThroughScope(_pairs(groups, values)):
            found = fn()
        names[:] = found
        return jnp.asarray([jnp.asarray(value, "float32") for value in found.values()])

    def read():
        state = keras_internals.unsynced_state(model)
        if state:
            optimizer = state["optimizer_variables"]
            values = (
                list(state["trainable_variables"] if weights else []),
                [optimizer[i] for i in scalars],
                list(state["metrics_variables"]),
            )
        else:
            values = tuple([variable.value for variable in group] for group in groups)
        return dict(zip(names, np.asarray(program(values)).tolist(), strict=True))

    return read


@jax.jit
def global_norm(values):
    """The root of the sum of squares over all entries of a list of tensors, in float32."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(value.astype("float32"))) for value in values))


def device_memory():
    """`(bytes in use, the most so far)` on this process's first device; None on a CPU."""
    stats = _first_device().memory_stats() or {}
    in_use = stats.get("bytes_in_use")
    return None if in_use is None else (in_use, stats.get("peak_bytes_in_use", in_use))


@functools.cache
def _first_device():
    return jax.local_devices()[0]


def spread(x, axis=0):
    """`x` with its rows over the devices of the running distribution; without one, as it is.

    Rows that the devices don't divide are padded by the compiler, and the padding left out again.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(x, jax.core.Tracer) or x.ndim <= axis:
        return x
    rows = jax.sharding.PartitionSpec(*[None] * axis, distribution.batch_dim_name)
    mesh = distribution.device_mesh.backend_mesh
    return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, rows))
