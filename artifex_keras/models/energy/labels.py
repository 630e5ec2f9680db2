"""The labels of an energy-based model: its network takes them, or it is a classifier."""

from keras import ops

from artifex_keras.models import checks, data_contract
from artifex_keras.models.batch import as_tensor
from artifex_keras.models.conditioning import label_values
from artifex_keras.objectives import energy as energies

__all__ = ["Labelled"]


class Labelled:
    """The part of an `EnergyModel` that knows labels."""

    def _label_values(self):
        """What values labels may have."""
        if self.num_classes is not None:
            return data_contract.labels(self.num_classes)
        return label_values([self.network], self.label_spec)

    def _check_labels(self, y):
        if not self.conditional and self.num_classes is None:
            checks.unconditional(
                "EnergyModel", y, "Let the network take [x, labels], or give `num_classes`."
            )
        elif y is None:
            raise ValueError("This EnergyModel learns with labels: call fit(x, labels).")
        elif self.num_classes is not None and len(y.shape) != 1:
            raise ValueError(
                f"Labels must be integers of shape (B,). Received: labels of shape {y.shape}."
            )

    def _labels(self, labels, n):
        """`n` labels from one or from `n`; None where there are none to take."""
        if not self.conditional and self.num_classes is None:
            labels = labels if labels is None else ops.convert_to_tensor(labels)
            checks.unconditional("EnergyModel", labels, "Its energy is one of the data alone.")
            return None
        if labels is None:
            if self.conditional:
                raise ValueError("This EnergyModel's network takes labels. Received: none.")
            return None
        data_contract.check(self._label_values(), labels)
        labels = as_tensor(labels)
        if len(labels.shape) == 0:
            return ops.broadcast_to(labels, (n,))
        if labels.shape[0] != n:
            raise ValueError(
                "`condition` must be one label or as many as there are examples. Received: labels "
                f"of shape {tuple(labels.shape)} for {n} examples."
            )
        return labels

    def _energy_of(self, output, y=None):
        """E (B,) from what the network gave; of a classifier that of x, or of x and y."""
        if self.num_classes is None:
            return ops.reshape(output, (-1,))
        return energies.label_energy(output) if y is None else -_at_label(output, y)

    def _joint_terms(self, generative, logits, labels):
        entropy = -energies.label_energy(logits) - _at_label(logits, labels)
        right = ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int32"))
        return {
            "loss": entropy + self.generative_weight * generative,
            "classification_loss": entropy,
            "accuracy": ops.cast(right, "float32"),
        }


def _at_label(logits, labels):
    """f(x)[y], (B,)."""
    chosen = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)
    return ops.sum(logits * chosen, axis=-1)
