"""Optimizers, and what they keep of each variable."""

from .names import uses


@uses("optimizer", "_trainable_variables")
def optimized_variables(optimizer):
    """The variables that an optimizer was built for, in its order."""
    return optimizer._trainable_variables


@uses("optimizer", "_variables")
def own_optimizer_variables(optimizer):
    """The variables that Keras's class has made for itself: the public list may hold more."""
    return optimizer._variables


@uses("optimizer", "_iterations")
def update_counter(optimizer):
    """Keras's own counter of calls, where `iterations` is another optimizer's."""
    return optimizer._iterations


@uses("optimizer", "_learning_rate")
def given_learning_rate(optimizer):
    """The schedule, the variable or the function that makes the rate; None where there is none."""
    return getattr(optimizer, "_learning_rate", None)


@uses("optimizer", "_get_variable_index")
def variable_index(optimizer, variable):
    """The place of a variable, and of its slots, in the order the optimizer was built with."""
    return optimizer._get_variable_index(variable)


@uses("optimizer", "_var_key")
def variable_key(optimizer, variable):
    """What the optimizer knows a variable by."""
    return optimizer._var_key(variable)


@uses("optimizer", "_check_variables_are_known")
def check_variables(optimizer, variables):
    """Raises Keras's error for variables that the optimizer wasn't built with."""
    optimizer._check_variables_are_known(variables)


@uses("optimizer", "_overwrite_variable_with_gradient")
def takes_gradient_as_value(optimizer, variable):
    """Whether the "gradient" of a variable is its next value, as for float8 scales."""
    return optimizer._overwrite_variable_with_gradient(variable)


@uses("averaging optimizer", "_model_variables_moving_average")
def moving_averages(optimizer):
    """The averages of an optimizer with `use_ema`, in the order of its variables."""
    return optimizer._model_variables_moving_average


@uses("adam", "_momentums", "_velocities")
def adam_moments(optimizer, index):
    """The first and second moment that Keras's Adam keeps for the variable at that place."""
    return optimizer._momentums[index], optimizer._velocities[index]
