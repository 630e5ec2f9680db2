"""How the divergence of q(z|x) from the prior counts in a VAE's loss, and with what weight."""

from keras import ops

from artifex_keras.objectives import elbo
from artifex_keras.objectives.masks import sum_event

__all__ = ["Divergence"]


class Divergence:
    """The part of a `VAE` that weighs its divergence."""

    def _check_one_divergence(self):
        chosen = {
            "free_bits": self.free_bits > 0,
            "capacity": self.capacity is not None,
            "tc_weight": self.tc_weight is not None,
            "num_importance_samples": self.num_importance_samples > 1,
        }
        names = [f"`{name}`" for name, used in chosen.items() if used]
        if len(names) > 1:
            raise ValueError(
                f"Only one treatment of the divergence can be chosen. Received: "
                f"{' and '.join(names)}."
            )
        if (self.tc_weight is None) != (self.dataset_size is None):
            raise ValueError(
                "`tc_weight` and `dataset_size` go together. Received: tc_weight="
                f"{self.tc_weight}, dataset_size={self.dataset_size}."
            )

    def _kl_weight(self, training):
        """β w(t); the final weight outside training."""
        if not training:
            return ops.convert_to_tensor(self.beta, dtype="float32")
        return self.beta * elbo.kl_weight(
            ops.cast(self.step, "float32"),
            self.kl_annealing,
            self.kl_warmup_steps,
            self.cyclical_period,
        )

    def _divergence(self, z, mean, log_var, per_dimension, weight, sample_weight, training):
        if self.capacity is not None:
            mean_kl = self._mean(sum_event(per_dimension), sample_weight)
            target = elbo.capacity_schedule(self.step, self.capacity, self.capacity_steps)
            return elbo.capacity_penalty(mean_kl, target if training else self.capacity, weight)
        if self.tc_weight is not None:
            information, correlation, dimension_wise = elbo.beta_tc(
                z, mean, log_var, self.dataset_size
            )
            return weight * (information + self.tc_weight * correlation + dimension_wise)
        if self.uses("free_bits"):
            return weight * elbo.free_bits(per_dimension, self.free_bits, sample_weight)
        return weight * sum_event(per_dimension)
