"""TensorFlow and torch: Keras distributes on JAX alone."""


def _refused(*arguments):
    raise NotImplementedError(
        "Many devices need the JAX backend: set KERAS_BACKEND=jax before Keras is imported."
    )


ordered_devices = place_variable = put_on = bytes_on_devices = _refused
