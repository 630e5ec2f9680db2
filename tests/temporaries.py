"""How much memory the gradient of a network takes."""

from keras import ops

from artifex_keras import backend


def temporaries(network, shapes):
    """XLA's own figure, in bytes, of a gradient with respect to the weights."""
    import jax

    variables = network.trainable_variables

    def step(values, inputs):
        with backend.ReadThroughScope(zip(variables, values, strict=True)):
            return backend.value_and_grad(
                lambda: (ops.mean(ops.square(network(inputs, training=True))), None), variables
            )[2]

    lowered = jax.jit(step).lower(backend.values_of(variables), shapes)
    return lowered.compile().memory_analysis().temp_size_in_bytes
