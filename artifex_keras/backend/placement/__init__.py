"""Where arrays lie: on which device, or cut over which mesh. On JAX; others refuse.

`ordered_devices(shape, names)`
    the order of a mesh's devices.
`place_variable(variable, layout)`
    moves a variable to where a distribution wants it.
`put_on(array, where)`
    an array on a device or under a layout.
`bytes_on_devices()`
    what each device holds.
"""

import keras

if keras.config.backend() == "jax":
    from artifex_keras.backend.placement import jax as _framework
else:
    from artifex_keras.backend.placement import elsewhere as _framework

ordered_devices = _framework.ordered_devices
place_variable = _framework.place_variable
put_on = _framework.put_on
bytes_on_devices = _framework.bytes_on_devices

__all__ = ["ordered_devices", "bytes_on_devices", "place_variable", "put_on"]
