"""The seam on torch: the step runs eagerly, autograd gives the gradients."""

SHAPES_ARE_KNOWN = True


class TrainStep:
    """Turns `train_on(data)` and `test_on(data)` into Keras's steps on torch.

    Steps run eagerly: one that is `interrupted` by a part on the host is a step as any other.
    """

    interrupted = False

    def train_step(self, data):
        return self.train_on(data)

    def test_step(self, data):
        return self.test_on(data)


def shard_batches(epoch_iterator):
    """Does nothing: Keras distributes on JAX only."""
