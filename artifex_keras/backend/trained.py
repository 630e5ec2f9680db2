"""Which of an optimizer's variables train at the moment: layers may be frozen and thawed."""

from artifex_keras.backend import keras_internals

__all__ = ["known_places"]


def known_places(optimizer, variables):
    """`(known, places)`: the variables that a built optimizer was made for, and the place of each
    of `variables` among them.

    Raises:
        ValueError: for one that it wasn't made for.
    """
    known = keras_internals.optimized_variables(optimizer)
    places = {id(variable): place for place, variable in enumerate(known)}
    unknown = [variable.path for variable in variables if id(variable) not in places]
    if unknown:
        raise ValueError(
            "The optimizer must know the variables that are trained: a layer was thawed after "
            f"`compile`, which made it for {len(known)} of them. Received: "
            f"{', '.join(unknown[:3])} among {len(unknown)} others. Call `compile` again, between "
            "two calls of `fit`."
        )
    return known, [places[id(variable)] for variable in variables]
