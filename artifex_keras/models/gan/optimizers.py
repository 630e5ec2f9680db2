"""The two optimizers of a GAN, which Keras sees as one."""

from collections.abc import Mapping
from typing import Any

import keras

from artifex_keras.gradient_accumulation import GradientAccumulation, accumulated, portable
from artifex_keras.models import checks
from artifex_keras.optimizers.group import OptimizerGroup
from artifex_keras.optimizers.lazy import lazily_regularised

__all__ = ["TwoOptimizers"]


class TwoOptimizers:
    """The part of a `GAN` that gives each network an optimizer."""

    def compile(
        self,
        optimizer: str | Mapping[str, Any] | keras.optimizers.Optimizer | None = None,
        discriminator_optimizer: str | Mapping[str, Any] | keras.optimizers.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        """Gets both networks ready to train.

        Args:
            optimizer: the generator's.
            discriminator_optimizer: the discriminator's; by default one like the generator's.
            **kwargs: as in `GenerativeModel.compile`.
        """
        checks.compile_arguments("GAN", optimizer, kwargs, ("discriminator_optimizer",))
        optimizer = keras.optimizers.get(optimizer)
        other = keras.optimizers.get(discriminator_optimizer)
        other = None if other is optimizer or other is None else accumulated(other)
        optimizer = accumulated(optimizer)  # before it is kept for `load_model`
        if other is None:
            other = _sibling(optimizer)
        self._check_options()
        self._given = {"optimizer": optimizer, "discriminator_optimizer": other}
        if self.r1_every > 1:
            _check_every_step_updates(other)
            other = lazily_regularised(other, self.r1_every)
        super().compile(
            OptimizerGroup(
                {
                    "generator": super().prepare_optimizer(optimizer),
                    "discriminator": super().prepare_optimizer(other),
                }
            ),
            **kwargs,
        )

    def prepare_optimizer(self, optimizer):
        return optimizer  # the group's members were prepared one by one

    @property
    def generator_optimizer(self):
        """The optimizer of the generator."""
        return self.optimizer.parts["generator"]

    @property
    def discriminator_optimizer(self):
        """The optimizer of the discriminator."""
        return self.optimizer.parts["discriminator"]

    def build_optimizer(self):
        if not self.optimizer.built:
            self.optimizer.build_parts(
                {name: getattr(self, name).trainable_variables for name in self.submodels}
            )

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config |= {
                name: portable(keras.saving.serialize_keras_object(optimizer))
                for name, optimizer in self._given.items()
            }
        return config


def _check_every_step_updates(optimizer):
    if isinstance(accumulated(optimizer), GradientAccumulation):
        raise ValueError(
            "`r1_every` counts updates, and an accumulating discriminator makes none in most "
            "steps. Choose r1_every=1, or no gradient accumulation."
        )


def _sibling(optimizer):
    config = optimizer.get_config()
    return type(optimizer).from_config({**config, "name": f"discriminator_{optimizer.name}"})
