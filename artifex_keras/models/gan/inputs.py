"""What a GAN's networks take: codes, labels or none."""

import keras

__all__ = ["check_codes", "input_count", "label_input", "takes_labels"]


def input_count(network):
    """How many inputs a network takes, or None where it doesn't say."""
    inputs = getattr(network, "inputs", None)
    return len(inputs) if inputs else None


def takes_labels(generator, discriminator):
    """Whether both networks take labels; False where they don't say."""
    counts = [input_count(generator), input_count(discriminator)]
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(
            "Generator and discriminator must both take labels, or neither. Received: "
            f"a generator with {counts[0]}, a discriminator with {counts[1]} inputs."
        )
    return 2 in counts


def label_input(generator):
    """The spec of the labels that the generator takes, None without."""
    if input_count(generator) != 2:
        return None
    labels = generator.inputs[1]
    return keras.KerasTensor(labels.shape, labels.dtype)


def check_codes(generator, latent_dim):
    """Raises a ValueError unless the generator takes codes of that width."""
    if input_count(generator) and tuple(generator.inputs[0].shape[1:]) != (latent_dim,):
        raise ValueError(
            f"`latent_dim` must be the width of the generator's input. Received: "
            f"latent_dim={latent_dim}, a generator for codes of shape "
            f"{tuple(generator.inputs[0].shape[1:])}."
        )
