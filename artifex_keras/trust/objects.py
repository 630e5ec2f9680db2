"""What a file may bring to life: plain values, Keras objects, and functions that were registered.

A saved model, a config and a checkpoint are data, often from somebody else. A name in them never
leads to code by a walk through modules: it is looked up in a table, or in what this process has
registered with Keras itself.
"""

import keras

from artifex_keras.arguments import shown

__all__ = ["deserialize_callable", "deserialize_schedule", "plain_value", "saved_value"]

PLAIN = (type(None), bool, int, float, str)


def deserialize_callable(config, what, custom_objects=None):
    """The callable object that `config` describes: a Keras layer, an object of a registered class,
    or a function that was registered with `keras.saving.register_keras_serializable`.

    Args:
        config: what `keras.saving.serialize_keras_object` wrote.
        what: the name of the argument that it is for, used in the error.
        custom_objects: functions and classes by name, registered for this call alone.

    Raises:
        ValueError: for any other function, one of Keras's own included: a file could call it with
            arguments of its choice.
    """
    if isinstance(config, dict) and config.get("class_name") == "function":
        name = config.get("config")
        found = isinstance(name, str) and keras.saving.get_registered_object(name, custom_objects)
        if not found:
            raise ValueError(
                f"`{what}` names the function {name!r}, and no function of that name is registered "
                "in this process. If it is yours, import the file that defines it under "
                '`@keras.saving.register_keras_serializable(package="...")` before you load.'
            )
        return found
    return keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)


def deserialize_schedule(config):
    """The learning-rate schedule that `config` describes.

    Raises:
        ValueError: where it describes something else.
    """
    schedule = keras.saving.deserialize_keras_object(config)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            "`learning_rate` must be a number or a Keras LearningRateSchedule. Received: "
            f"learning_rate={schedule!r}."
        )
    return schedule


def saved_value(cls, config, name, kind=object):
    """What the saved config of an object of `cls` holds under `name`.

    Raises:
        ValueError: if it holds nothing there, or something that is no `kind`.
    """
    if not isinstance(config, dict) or name not in config:
        raise ValueError(
            f"The saved config of a {cls.__name__} must have {name!r}. Received: {shown(config)}."
        )
    if not isinstance(config[name], kind):
        raise ValueError(
            f"{name!r} in the saved config of a {cls.__name__} must be a {kind.__name__}. "
            f"Received: {shown(config[name])}."
        )
    return config[name]


def plain_value(name, value):
    """`value`, if it is a number, a text, a truth value, None, or a list or tuple of them.

    Raises:
        ValueError: for anything else that stands in a file under `name`.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list | tuple):
        return type(value)(plain_value(name, item) for item in value)
    raise ValueError(
        f"`{name}` must be a number, a text, or a list of them where it comes from a file. "
        f"Received: {name}={value!r} of type {type(value).__name__}."
    )
