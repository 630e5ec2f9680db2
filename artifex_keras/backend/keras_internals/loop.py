"""Models, and the loop that trains them: on JAX it holds the state while it runs."""

from .names import uses


@uses("model", "_assert_compile_called")
def require_compiled(model, method):
    """Raises Keras's error, which names `method`, for a model that isn't compiled."""
    model._assert_compile_called(method)


@uses("model", "_loss_tracker")
def loss_metric(model):
    """The running mean that Keras calls `loss`; None before `compile`."""
    return getattr(model, "_loss_tracker", None)


@uses("model", "_compile_loss")
def output_losses(model):
    """The running means of the losses of each output of a compiled model, a list."""
    return list(getattr(getattr(model, "_compile_loss", None), "metrics", ()))


@uses("metric", "_direction")
def direction(metric):
    """The way in which one of Keras's metrics is better, "up" or "down"; None if it says none."""
    return getattr(metric, "_direction", None)


@uses("model", "_symbolic_build")
def build_from_batch(model, batch):
    """Builds model and optimizer from one batch or its description, as `fit` does first."""
    model._symbolic_build(data_batch=batch)


@uses("model", "_initial_epoch")
def set_initial_epoch(model, epoch):
    """Lets the next loop of `fit` begin at an epoch, None for the one that it is given.

    Read after `on_train_begin`, so that a callback can still say where a run is resumed.
    """
    model._initial_epoch = epoch


@uses("callback", "_model")
def model_of(callback):
    """The model of a callback, whose weights may be inside a running step.

    `callback.model` first writes the state of the running loop back into the model on JAX, which
    waits for the step and makes the next one read the state anew.
    """
    return callback._model


CACHED_EVALUATION = "_use_cached_eval_dataset"  # an argument of `evaluate`


@uses("evaluate", CACHED_EVALUATION)
def is_validation(options):
    """Whether these keyword arguments of `evaluate` come from `fit`, which prepared the data."""
    return bool(options.get(CACHED_EVALUATION))


RUNNING_STATE = "_jax_state"  # the attribute that the loop sets after each execution


@uses("jax model", RUNNING_STATE)
def last_state(model):
    """The arrays that the last step of a running `fit` gave, by kind of variable; else empty."""
    return getattr(model, RUNNING_STATE, None) or {}


@uses("jax model", "_jax_state_synced")
def unsynced_state(model):
    """`last_state(model)` if the variables don't have its values yet, else empty."""
    state = last_state(model)
    return {} if state and model._jax_state_synced else state


@uses("jax model", "_jax_state_synced")
def is_unsynced(model):
    """Whether the variables lack the values of a running loop."""
    return not model._jax_state_synced


def mark_synced(model, synced=True):
    """Says that the variables have the values of the running loop; or, if not `synced`, haven't."""
    # Not by the model's own `__setattr__`, which looks through a value for layers and weights.
    object.__setattr__(model, "_jax_state_synced", synced)


@uses("jax model", "_get_state_sharding_spec")
def state_shardings(model):
    """The shardings of a training step's state, a list for each kind of variable."""
    return list(model._get_state_sharding_spec())
