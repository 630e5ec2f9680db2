"""The lists of Keras's private names, against which the installed Keras is tested.

`USED`
    the names that we read, by where Keras keeps them (see `uses`).
`OVERRIDDEN`
    the private methods of Keras's classes that ours replace: Keras calls these.
"""

import importlib

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


def uses(where, *names):
    """Notes that the function below needs these names of Keras's.

    `where` is a kind of object ("model", "layer", "optimizer", ...), with the backend before it
    where only one has the names ("jax model"), or a module of Keras ("keras.src...").
    """

    def note(function):
        USED.setdefault(where, []).extend(names)
        return function

    return note


def keras_module(name):
    """The module of that name inside `keras.src`."""
    return importlib.import_module(f"keras.src.{name}")
