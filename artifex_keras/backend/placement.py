"""Where arrays lie: on which device, or sharded over which mesh. On JAX; others raise an error.

`ordered_devices(shape, names)`
    the order of a mesh's devices.
`place_variable(variable, layout)`
    moves a variable to where a distribution wants it.
`put_on(array, where)`
    an array on a device or under a layout.
`bytes_on_devices()`
    what each device holds.
"""

from artifex_keras.backend import choice


def _unsupported(*arguments):
    raise NotImplementedError(
        "Many devices need the JAX backend: set KERAS_BACKEND=jax before Keras is imported."
    )


if choice.name() == "jax":
    _framework = choice.part("placement")
    ordered_devices = _framework.ordered_devices
    place_variable = _framework.place_variable
    put_on = _framework.put_on
    bytes_on_devices = _framework.bytes_on_devices
else:
    ordered_devices = place_variable = put_on = bytes_on_devices = _unsupported

__all__ = ["ordered_devices", "bytes_on_devices", "place_variable", "put_on"]
