"""A replay buffer of past groups: what `GRPO(replay_buffer_size=...)` learns from again."""

from keras import ops

from artifex_keras.objectives.advantages import group_std
from artifex_keras.rl.rollout import Rollout

__all__ = ["GroupReplay"]

IDS = ("completion", "sequence", "start")  # the fields of a rollout of tokens that are integers
FLOATS = ("log_probs", "mask", "ended")


class GroupReplay:
    """The newest groups with a spread of rewards, as weights that no optimizer touches.

    So they are saved with the algorithm, carried through compiled steps and resumed. Shapes: B
    groups of G completions, P fresh groups a step.

    Args:
        algorithm: the model whose weights they are.
        size: B.
        group_size: G.
        width: tokens of a prompt at most.
        length: C, the tokens of a completion.
        pad: what fills a sequence up.
    """

    def __init__(self, algorithm, size, group_size, width, length, pad):
        self.size, self.group_size = size, group_size
        self.width, self.pad = width + length, pad
        shapes = {name: (length,) for name in ("completion", "log_probs", "mask")}
        shapes["sequence"] = (self.width,)

        def variable(name, dtype, shape):
            return algorithm.add_weight(
                name=f"replay_{name}",
                shape=shape,
                dtype=dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
            )

        kinds = {**dict.fromkeys(IDS, "int32"), **dict.fromkeys((*FLOATS, "rewards"), "float32")}
        self.groups = {
            name: variable(name, dtype, (size, group_size, *shapes.get(name, ())))
            for name, dtype in kinds.items()
        }
        self.filled = variable("filled", "int32", (size,))

    def exchange(self, rollout, rewards, draws):
        """`(rollout, rewards, share)`: a stored group in the place of each fresh one without a
        spread, as far as there are any; `share` of the groups were replaced. Stored groups are
        chosen by `draws` (B,), uniform on [0, 1). Then the fresh ones with a spread are stored,
        and the oldest forgotten."""
        flat = group_std(rewards, self.group_size) == 0
        fresh = self._grouped(rollout, rewards)
        both = {
            name: ops.concatenate([rows, ops.convert_to_tensor(self.groups[name])], axis=0)
            for name, rows in fresh.items()
        }
        filled = ops.convert_to_tensor(self.filled) > 0
        places, replaced = self._places(flat, filled, draws)
        rollout, rewards = self._flattened(ops.take(both[name], places, axis=0) for name in both)
        self._store(both, flat, filled)
        return rollout, rewards, ops.mean(ops.cast(replaced, "float32"))

    def _grouped(self, rollout, rewards):
        """The fields by name, (P, G, ...), with sequences of the buffer's width."""
        fields = {name: getattr(rollout, name) for name in (*IDS, *FLOATS)}
        more = self.width - fields["sequence"].shape[1]
        if more < 0:
            raise ValueError(
                "With a replay buffer prompts must have at most `max_prompt_length` tokens. "
                f"Received: a batch with {-more} more."
            )
        if more:
            sequence = fields["sequence"]
            fields["sequence"] = ops.pad(sequence, [[0, 0], [0, more]], constant_values=self.pad)
        fields["rewards"] = rewards
        return {
            name: ops.cast(
                ops.reshape(fields[name], (-1, self.group_size, *fields[name].shape[1:])),
                variable.dtype,
            )
            for name, variable in self.groups.items()
        }

    def _flattened(self, groups):
        rows = (ops.reshape(group, (-1, *group.shape[2:])) for group in groups)
        fields = dict(zip(self.groups, rows, strict=True))
        rewards = fields.pop("rewards")
        return Rollout(**fields), rewards

    def _places(self, flat, filled, draws):
        """Where each group to learn from stands among the P fresh and the B stored ones, (P,), and
        whether it is a stored one."""
        count = flat.shape[0]
        order = ops.argsort(ops.where(filled, draws, 2.0))
        rank = ops.cumsum(ops.cast(flat, "int32")) - 1
        replaced = ops.logical_and(flat, rank < ops.sum(ops.cast(filled, "int32")))
        chosen = ops.take(order, ops.clip(rank, 0, self.size - 1), axis=0)
        own = ops.arange(count, dtype="int32")
        return ops.where(replaced, count + ops.cast(chosen, "int32"), own), replaced

    def _store(self, both, flat, filled):
        """Keeps the first B of: fresh groups with a spread, then the stored ones, newest first."""
        kept = ops.concatenate([ops.logical_not(flat), filled], axis=0)
        number = ops.arange(kept.shape[0], dtype="int32")
        order = ops.argsort(number + ops.where(kept, 0, kept.shape[0]))[: self.size]
        for name, variable in self.groups.items():
            variable.assign(ops.take(both[name], order, axis=0))
        self.filled.assign(ops.cast(ops.take(kept, order, axis=0), "int32"))
