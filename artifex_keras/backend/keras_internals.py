"""Keras's private names, each behind a function: nothing else in the package says one.

What Keras promises to nobody may go with its next release. So it stands in this file alone, with
what it is for, and a test lists by name what the installed Keras lacks. The file imports Keras and
nothing of ours, and looks names up only when they are used.

`USED`
    the names that we read, by where Keras keeps them (see `_uses`).
`OVERRIDDEN`
    the private methods of Keras's classes that ours replace: Keras calls these.
"""

import contextlib
import importlib
import inspect
import math
import random
import threading

import keras
import numpy as np

USED = {}

# What Keras calls and a class of ours defines in its place: where Keras has it, and why we do.
OVERRIDDEN = {
    "_symbolic_build": (
        "model",
        "Keras calls the model on symbols before the first step; ours builds networks, optimizer "
        "and average from the first batch, and shards them.",
    ),
    "_maybe_symbolic_build": (
        "tensorflow model",
        "leaves the building to the first trace, where nested traces would make variables twice.",
    ),
    "_get_jax_state": (
        "jax model",
        "takes the state out of the variables; ours notes it and them first.",
    ),
    "_make_function": (
        "jax model",
        "makes Keras's function from the compiled step; ours notes what each step gives.",
    ),
    "_use_weight_decay": (
        "optimizer",
        "asks whether a variable decays: biases and norms don't.",
    ),
    "_apply_weight_decay": (
        "optimizer",
        "decays all variables at once: ours within the update, or not at all where none decays.",
    ),
    "_backend_update_step": (
        "optimizer",
        "is the part of an update that all variables share, before each has its own.",
    ),
    "_backend_apply_gradients": (
        "optimizer",
        "applies gradients one variable at a time; optax takes all of them together.",
    ),
    "_update_model_variables_moving_average": (
        "optimizer",
        "averages the weights after an update; a schedule-free optimizer has done that already.",
    ),
    "_model_variables_moving_average": (
        "averaging optimizer",
        "is where `SwapEMAWeights` looks for the averages, which the inner optimizer has.",
    ),
}


def _uses(where, *names):
    """Notes that the function below needs these names of Keras's.

    `where` is a kind of object ("model", "layer", "optimizer", ...), with the backend before it
    where only one has the names ("jax model"), or a module of Keras ("keras.src...").
    """

    def note(function):
        USED.setdefault(where, []).extend(names)
        return function

    return note


def _module(name):
    return importlib.import_module(f"keras.src.{name}")


# Models and their loop


@_uses("model", "_assert_compile_called")
def require_compiled(model, method):
    """Raises Keras's error, which names `method`, for a model that isn't compiled."""
    model._assert_compile_called(method)


@_uses("model", "_loss_tracker")
def loss_metric(model):
    """The running mean that Keras calls `loss`; None before `compile`."""
    return getattr(model, "_loss_tracker", None)


@_uses("model", "_compile_loss")
def output_losses(model):
    """The running means of the losses of each output of a compiled model, a list."""
    return list(getattr(getattr(model, "_compile_loss", None), "metrics", ()))


@_uses("metric", "_direction")
def direction(metric):
    """The way in which one of Keras's metrics is better, "up" or "down"; None if it says none."""
    return getattr(metric, "_direction", None)


@_uses("model", "_symbolic_build")
def build_from_batch(model, batch):
    """Builds model and optimizer from one batch or its description, as `fit` does first."""
    model._symbolic_build(data_batch=batch)


@_uses("model", "_initial_epoch")
def set_initial_epoch(model, epoch):
    """Lets the next loop of `fit` begin at an epoch, None for the one that it is given.

    Read after `on_train_begin`, so that a callback can still say where a run is resumed.
    """
    model._initial_epoch = epoch


@_uses("callback", "_model")
def model_of(callback):
    """The model of a callback, whose weights may be inside a running step.

    `callback.model` first writes the state of the running loop back into the model on JAX, which
    waits for the step and makes the next one read the state anew.
    """
    return callback._model


CACHED_EVALUATION = "_use_cached_eval_dataset"  # an argument of `evaluate`


@_uses("evaluate", CACHED_EVALUATION)
def is_validation(options):
    """Whether these keyword arguments of `evaluate` come from `fit`, which prepared the data."""
    return bool(options.get(CACHED_EVALUATION))


# The loop on JAX, which holds the state while it runs

RUNNING_STATE = "_jax_state"  # the attribute that the loop sets after each execution


@_uses("jax model", RUNNING_STATE)
def last_state(model):
    """The arrays that the last step of a running `fit` gave, by kind of variable; else empty."""
    return getattr(model, RUNNING_STATE, None) or {}


@_uses("jax model", "_jax_state_synced")
def unsynced_state(model):
    """`last_state(model)` if the variables don't have its values yet, else empty."""
    state = last_state(model)
    return {} if state and model._jax_state_synced else state


@_uses("jax model", "_jax_state_synced")
def is_unsynced(model):
    """Whether the variables lack the values of a running loop."""
    return not model._jax_state_synced


def mark_synced(model, synced=True):
    """Says that the variables have the values of the running loop; or, if not `synced`, haven't."""
    # Not by the model's own `__setattr__`, which looks through a value for layers and weights.
    object.__setattr__(model, "_jax_state_synced", synced)


@_uses("jax model", "_get_state_sharding_spec")
def state_shardings(model):
    """The shardings of a training step's state, a list for each kind of variable."""
    return list(model._get_state_sharding_spec())


@_uses("keras.src.backend.common.stateless_scope", "in_stateless_scope")
def in_stateless_scope():
    """Whether variables are traced here, as in a step: Keras offers no public question."""
    return _module("backend.common.stateless_scope").in_stateless_scope()


@_uses("keras.src.backend.common.stateless_scope", "get_stateless_scope")
def stateless_scope():
    """The innermost `keras.StatelessScope` that is open in this thread, or None."""
    return _module("backend.common.stateless_scope").get_stateless_scope()


def stateless_value(variable):
    """The value that the innermost `keras.StatelessScope` has for a variable; None without any."""
    scope = stateless_scope()
    return None if scope is None else scope.get_current_value(variable)


# Files


def is_of_one_backend(module):
    """Whether a class of this module, as files name it, is one that a single backend has."""
    return str(module).startswith("keras.src.backend.")


# Data on their way into the loop


@_uses("keras.src.trainers.data_adapters.data_adapter", "DataAdapter")
def data_adapter_class():
    """The base class of what `fit` reads batches from: an instance is taken as it is."""
    return _module("trainers.data_adapters.data_adapter").DataAdapter


@_uses("keras.src.trainers.data_adapters", "get_data_adapter")
def data_adapter(x, *arguments, **options):
    """The adapter of Keras's for whatever `fit` may be given as data."""
    return _module("trainers.data_adapters").get_data_adapter(x, *arguments, **options)


@_uses("keras.src.trainers.data_adapters", "is_torch_dataloader")
def is_torch_loader(data):
    """Whether `data` is a torch DataLoader, by its class: torch is not imported."""
    return _module("trainers.data_adapters").is_torch_dataloader(data)


@_uses("keras.src.trainers.data_adapters.array_data_adapter", "ArrayDataAdapter")
def has_arrays(adapter):
    """Whether an adapter reads from arrays."""
    module = _module("trainers.data_adapters.array_data_adapter")
    return isinstance(adapter, module.ArrayDataAdapter)


def stacks_batches():
    """Whether Keras's iterators give several batches as one where a step is to run several.

    They do from keras PR 23527 on: its loop on JAX then scans over them. The version number doesn't
    tell, since a 3.16 without it exists, so we look at what they can be asked for.
    """
    asked = inspect.signature(data_adapter_class().get_jax_iterator).parameters
    return "super_batch" in asked


def stacked(batches, count):
    """`count` batches as one, as Keras's own adapters give them where `stacks_batches()`."""
    return _module("trainers.data_adapters.data_adapter_utils").super_batch_iterator(batches, count)


@_uses("jax keras.src.backend.jax.trainer", "_distribute_data")
def distribute_batch(batch):
    """A batch on JAX with its rows over the devices of the distribution, by its own shape."""
    return _module("backend.jax.trainer")._distribute_data(batch)


@_uses("iterator", "_get_iterator")
def replace_passes(iterator, open_pass):
    """Makes `open_pass()` what the iterator reads each pass from. Gives what it was before."""
    before, iterator._get_iterator = iterator._get_iterator, open_pass
    return before


@_uses("tensorflow iterator", "_distributed_dataset")
def open_dataset_again(iterator):
    """Lets an iterator on TensorFlow take its dataset from its adapter, which has changed."""
    if not type(iterator._distributed_dataset).__name__.startswith("Distributed"):
        iterator._distributed_dataset = iterator.data_adapter.get_tf_dataset()


@_uses("iterator", "_enumerate_iterator")
def replace_epochs(iterator, enumerate_epoch):
    """Makes `enumerate_epoch()` yield the steps of an epoch. Gives what did so before."""
    before, iterator._enumerate_iterator = iterator._enumerate_iterator, enumerate_epoch
    return before


@_uses("iterator", "_steps_seen")
def count_as_seen(iterator, batches):
    """Counts batches of the running pass as read, after which the iterator opens another one."""
    iterator._steps_seen += batches


@_uses("iterator", "_num_batches")
def set_num_batches(iterator, number):
    """Says how many batches a pass has, which Keras otherwise learns with the first one."""
    iterator._num_batches = number


@_uses("keras.src.utils.rng_utils", "get_random_seed")
def random_seed():
    """The seed that `keras.utils.set_random_seed` has set; None without one."""
    return _module("utils.rng_utils").get_random_seed()


# Layers and variables


@_uses("layer", "_flatten_layers")
def all_layers(layer, include_self=True):
    """A layer and all layers inside it at any depth, a list; public `layers` goes one level."""
    return list(layer._flatten_layers(include_self=include_self))


def layers_of(layer):
    """The layers directly inside a layer, in the order in which it got them, a list."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


@_uses("layer", "_trainable_variables")
def own_trainable_variables(layer):
    """The trainable variables that this layer itself has made, frozen or not."""
    return layer._trainable_variables


@_uses("layer", "_non_trainable_variables")
def own_non_trainable_variables(layer):
    """What this layer itself keeps and doesn't train, such as statistics; no seeds."""
    return layer._non_trainable_variables


def own_variables(layer):
    """The variables that this layer itself has made, without those of layers inside it."""
    return [*own_trainable_variables(layer), *own_non_trainable_variables(layer)]


@_uses("layer", "_trainable")
def set_own_trainable(layer, value):
    """Freezes or thaws a layer by itself: `layer.trainable` would do so with all that is in it."""
    layer._trainable = value


@_uses("layer", "_seed_generators")
def seed_generators(layer):
    """The seed generators that this layer itself has made, as dropout does."""
    return layer._seed_generators


@_uses("layer", "_remat_mode", "rematerialized_call")
def recompute_by(layer, recompute):
    """Lets a layer made in a `keras.RematScope` call `recompute(call, arguments, named)` wherever
    Keras computes the whole call once more for the gradient."""
    mode, decide = layer._remat_mode, layer.rematerialized_call
    if not mode or "rematerialized_call" in vars(layer):
        return

    def rematerialized_call(call, *arguments, **named):
        decided = decide(call, *arguments, **named)
        if decided is call or mode.mode == "activations":
            return decided
        return lambda *arguments, **named: recompute(call, arguments, named)

    object.__setattr__(layer, "rematerialized_call", rematerialized_call)


@_uses("layer", "_tracker", "_lock_state")
@contextlib.contextmanager
def unlocked(layer):
    """Inside, a built layer takes further variables, layers and metrics, as an unbuilt one does."""
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._lock_state()


def untrack(layer, part):
    """Lets a layer forget a layer or a variable inside it, which is then no longer the layer's."""
    layer._tracker.untrack(part)


@_uses("variable", "_layout")
def layout_of(variable):
    """The layout that a variable was made or moved with; None where it has none."""
    return getattr(variable, "_layout", None)


def set_layout(variable, layout):
    """Notes the layout by which Keras places the variable's later values."""
    variable._layout = layout


@_uses("variable", "_value")
def is_inside_step(variable):
    """Whether a running loop on JAX holds the variable's value, which nobody else can read."""
    return variable._value is None


@_uses("variable", "_value")
def set_value(variable, value):
    """Puts an array into a variable as it lies; `assign` would move it to the old place."""
    variable._value = value


@_uses("variable", "_path")
def set_path(variable, path):
    """Gives a variable a path that its name and the open scopes don't make."""
    variable._path = path


@_uses("variable", "_autocast")
def autocasts(variable):
    """Whether layers read a variable in their compute dtype."""
    return variable._autocast


@_uses("variable", "_value")
@_uses("variable", "_initializer")
def empty(variables, on_read):
    """Takes the arrays out of variables, as a running loop on JAX does. `on_read(shape, dtype=...)`
    is called where one is read, until `end_emptiness`."""
    for variable in variables:
        variable._value, variable._initializer = None, on_read


@_uses("variable", "_initializer")
def end_emptiness(variables):
    """Variables that have been assigned again are as others."""
    for variable in variables:
        variable._initializer = None


SMALL = 2  # entries, which a seed has


@_uses("variable", "_convert_to_tensor", "_initialize_with_initializer")
@contextlib.contextmanager
def numbers_in(scope):
    """Inside, variables of one or two entries are made in `scope()`, as is what a Python number
    that is assigned to one becomes: in a trace, values that can be read, as learning rates are."""
    kind = keras.Variable  # which inherits both
    convert, initialize = kind._convert_to_tensor, kind._initialize_with_initializer

    def in_scope(small):
        return scope() if small else contextlib.nullcontext()

    def converted(variable, value, dtype=None):
        with in_scope(isinstance(value, int | float)):
            return convert(variable, value, dtype)

    def initialized(variable, initializer):
        with in_scope(math.prod(variable.shape) <= SMALL):
            initialize(variable, initializer)

    kind._convert_to_tensor, kind._initialize_with_initializer = converted, initialized
    try:
        yield
    finally:
        del kind._convert_to_tensor, kind._initialize_with_initializer


# What Keras keeps for the whole program


@_uses("keras.src.backend.common.global_state", "GLOBAL_STATE_TRACKER")
@contextlib.contextmanager
def global_state_kept():
    """Afterwards Keras's global state is what it was before: the numbers in automatic names, the
    distribution, the generator behind unseeded noise, and Python's and NumPy's random numbers."""
    state = vars(_module("backend.common.global_state").GLOBAL_STATE_TRACKER)
    names, before = "object_name_uids", dict(state)
    if names in before:
        before[names] = before[names].copy()
    numbers = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        state.clear()
        state.update(before)
        random.setstate(numbers[0])
        np.random.set_state(numbers[1])


@_uses("keras.src.saving.saving_lib", "_load_state")
@contextlib.contextmanager
def without_loading(reject):
    """Inside, `reject()` is called in place of reading weights from a file, in this thread."""
    module, here = _module("saving.saving_lib"), threading.get_ident()
    before = module._load_state

    def load(*arguments, **options):
        if threading.get_ident() == here:
            reject()
        return before(*arguments, **options)

    module._load_state = load
    try:
        yield
    finally:
        module._load_state = before


# The graph of a functional model


@_uses("tensor", "_keras_history")
@_uses("operation", "_inbound_nodes")
def origin(tensor):
    """`(operation, inputs)` that a symbolic tensor is the output of."""
    operation, index, _ = tensor._keras_history
    return operation, operation._inbound_nodes[index].input_tensors


def compute(tensor, values, **options):
    """Calls the operation that a symbolic tensor is an output of: `values` has what its inputs are,
    by their ids, and gets its outputs."""
    operation, index, _ = tensor._keras_history
    node = operation._inbound_nodes[index]
    arguments, named = node.arguments.fill_in(values)
    made = operation(*arguments, **{**named, **options})
    values.update(zip(map(id, node.outputs), keras.tree.flatten(made), strict=True))


@_uses("functional", "_standardize_inputs")
def functional_inputs(model, inputs):
    """The inputs of a functional model as Keras's own `call` takes them, a list."""
    return model._standardize_inputs(inputs)


def call_inputs(operation):
    """The symbolic tensors that went into an operation, over all its calls."""
    return [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]


# Optimizers


@_uses("optimizer", "_trainable_variables")
def optimized_variables(optimizer):
    """The variables that an optimizer was built for, in its order."""
    return optimizer._trainable_variables


@_uses("optimizer", "_variables")
def own_optimizer_variables(optimizer):
    """The variables that Keras's class has made for itself: the public list may hold more."""
    return optimizer._variables


@_uses("optimizer", "_iterations")
def update_counter(optimizer):
    """Keras's own counter of calls, where `iterations` is another optimizer's."""
    return optimizer._iterations


@_uses("optimizer", "_learning_rate")
def given_learning_rate(optimizer):
    """The schedule, the variable or the function that makes the rate; None where there is none."""
    return getattr(optimizer, "_learning_rate", None)


@_uses("optimizer", "_get_variable_index")
def variable_index(optimizer, variable):
    """The place of a variable, and of its slots, in the order the optimizer was built with."""
    return optimizer._get_variable_index(variable)


@_uses("optimizer", "_var_key")
def variable_key(optimizer, variable):
    """What the optimizer knows a variable by."""
    return optimizer._var_key(variable)


@_uses("optimizer", "_check_variables_are_known")
def check_variables(optimizer, variables):
    """Raises Keras's error for variables that the optimizer wasn't built with."""
    optimizer._check_variables_are_known(variables)


@_uses("optimizer", "_overwrite_variable_with_gradient")
def takes_gradient_as_value(optimizer, variable):
    """Whether the "gradient" of a variable is its next value, as for float8 scales."""
    return optimizer._overwrite_variable_with_gradient(variable)


@_uses("averaging optimizer", "_model_variables_moving_average")
def moving_averages(optimizer):
    """The averages of an optimizer with `use_ema`, in the order of its variables."""
    return optimizer._model_variables_moving_average


@_uses("adam", "_momentums", "_velocities")
def adam_moments(optimizer, index):
    """The first and second moment that Keras's Adam keeps for the variable at that place."""
    return optimizer._momentums[index], optimizer._velocities[index]


# KerasHub's language models


@_uses("keras_hub", "_build_cache")
def hub_cache_arguments(model):
    """The names of the arguments that a KerasHub model must be given to fill its key-value cache.

    None for a model without one.
    """
    if not hasattr(model, "_build_cache"):
        return None
    arguments = inspect.signature(model._build_cache).parameters.values()
    return [entry.name for entry in arguments if entry.default is entry.empty]


def fill_hub_cache(model, ids, **arguments):
    """The key-value cache of a KerasHub model after token ids (P, W)."""
    return model._build_cache(ids, **arguments)[1]
