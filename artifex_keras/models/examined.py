"""All that can be said of a run before it begins, without training."""

import warnings
from typing import Any

import numpy as np
from keras import ops

from artifex_keras.aliases import Data
from artifex_keras.backend import keras_internals
from artifex_keras.models import advice, checks
from artifex_keras.models.remedies import remedies

__all__ = ["Examined"]


class Examined:
    """The part of a model that looks at a run before it begins."""

    def check(
        self,
        x: Data = None,
        y: Data = None,
        batch_size: int = 32,
        *,
        verbose: bool = True,
        **options: Any,
    ):
        """Looks for what would go wrong in `fit(x, y)`, and trains nothing: a list of texts.

        It runs the checks of the data, builds the model if it isn't, looks at what `fit` warns of
        (last layers, frozen weights, the learning rate, the data's scale), and evaluates one batch.
        No weight, seed or metric changes. Data that can be read only once lose that batch.

        Args:
            x, y: data in any form that `fit` takes.
            batch_size: rows of the batch.
            verbose: whether the findings are printed, a line each.
            **options: `sample_weight`, as for `evaluate`.

        Raises:
            ValueError: for a model that isn't compiled.

        Example:

        ```python
        import numpy as np

        import artifex_keras as ak

        images = np.random.default_rng(0).integers(0, 256, (32, 6)).astype("uint8")
        vae = ak.VAE(ak.networks.mlp_encoder(6, 2, (8,)), ak.networks.mlp_decoder(2, 6, (8,)))
        vae.compile("adam")
        found = vae.check(images)
        assert len(found) == 1 and "divide them by 255" in found[0]
        ```
        """
        keras_internals.require_compiled(self, "check")
        found = self._faults(x, y, batch_size, options)
        if self.built:
            found += advice.findings(self, x, sources=True)
        if verbose:
            print("\n".join(f"- {text}" for text in found) or "Nothing was found.")
        return found

    def _faults(self, x, y, batch_size, options):
        """What a batch's evaluation raises, warns of, or gives that is no number."""
        before = _values(self)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            try:
                checks.arrays(self, x, y)
                checks.values(self, x, y)
                logs = self.evaluate(
                    x, y, batch_size=batch_size, steps=1, verbose=0, return_dict=True, **options
                )
            except (ValueError, TypeError, FloatingPointError) as error:
                return [str(error)]
            finally:
                for variable, value in before:
                    variable.assign(value)
        found = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        if not np.isfinite(logs["loss"]):
            helps = "; ".join(remedies(self, x))
            found.append(
                f"`loss` is {logs['loss']} on the first batch. What usually helps: {helps}."
            )
        return found


def _values(model):
    variables = {id(v): v for v in [*model.variables, *model.metrics_variables]}
    return [(v, np.array(ops.convert_to_numpy(v.value))) for v in variables.values()]
