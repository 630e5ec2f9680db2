"""The labels of an energy-based model: its network takes them, or it is a classifier."""

import keras
from keras import ops

from artifex_keras.models import checks, data_contract
from artifex_keras.models.conditioning import label_values, repeated
from artifex_keras.objectives import energy as energies

__all__ = ["Labelled"]

CLASSES = keras.KerasTensor((None,), "int32")


class Labelled:
    """The part of an `EnergyModel` that knows labels."""

    def _label_values(self):
        """What values labels may have."""
        if self.num_classes is not None:
            return data_contract.labels(self.num_classes)
        return label_values([self.network], self.label_spec)

    def _check_labels(self, y):
        hint = "Let the network take [x, labels], or give `num_classes`."
        checks.condition("EnergyModel", y, self._taken_labels, hint)
        checks.condition_shape(y, self._taken_labels)

    def _labels(self, labels, n):
        """`n` labels from one or from `n`; None where there are none to take."""
        data_contract.check(self._label_values(), labels)
        labels = repeated(labels, n, self._taken_labels)
        if labels is not None or self.num_classes is None:
            hint = "Its energy is one of the data alone."
            checks.condition("EnergyModel", labels, self._taken_labels, hint)
            checks.condition_shape(labels, self._taken_labels)
        return labels

    @property
    def _taken_labels(self):
        """The spec of the labels that the network takes or a classifier learns, or None."""
        return self.label_spec if self.num_classes is None else CLASSES

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
