"""Where arrays lie: on which device, or cut over which mesh. On JAX; others refuse.

`arranged_devices(shape, names)`
    the order of a mesh's devices.
`lay_out(variable, layout)`
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

arranged_devices = _framework.arranged_devices
lay_out = _framework.lay_out
put_on = _framework.put_on
bytes_on_devices = _framework.bytes_on_devices

__all__ = ["arranged_devices", "bytes_on_devices", "lay_out", "put_on"]
