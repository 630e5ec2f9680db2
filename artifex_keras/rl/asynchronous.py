"""Python rewards in a thread, while the next batch is sampled: `asynchronous_rewards`."""

from artifex_keras.backend import processes
from artifex_keras.rl.base import FineTuning

__all__ = ["AsynchronousRewards"]

NEEDS = "`asynchronous_rewards` needs {}. Received: {}. {}"


class AsynchronousRewards(FineTuning):
    """The part of an on-policy algorithm that says when its rewards may run beside the next
    rollout; how they do is `backend.ahead.Overlap`."""

    def check_asynchronous(self, rewards, plays):
        """Raises a ValueError where there is nothing that the next rollout could run beside.

        Args:
            rewards: the `Rewards`, or those of an environment.
            plays: whether there is an environment.
        """
        if not self.asynchronous_rewards:
            return
        if plays:
            raise ValueError(
                NEEDS.format(
                    "a `reward_fn`",
                    "an `environment`, or `max_turns`",
                    "The turns of an episode are sampled one after the other, with its answers.",
                )
            )
        if rewards and not rewards.on_host:
            raise ValueError(
                NEEDS.format(
                    "a Python reward",
                    f"rewards of tensors alone, {', '.join(map(repr, rewards.names))}",
                    "They are part of the compiled step, which waits for nothing: leave it out.",
                )
            )

    def check_cap(self):
        """Raises a ValueError without an `importance_cap` that the algorithm needs."""
        if self.asynchronous_rewards and self.importance_cap is None:
            raise ValueError(
                NEEDS.format(
                    "an `importance_cap`",
                    "importance_cap=None",
                    "Completions are of the policy before the last update, so each token must "
                    "weigh as the present one would write it: give importance_cap=2.0.",
                )
            )

    def check_overlap(self):
        """Raises a ValueError for a `fit` that can't sample ahead."""
        if not self.asynchronous_rewards:
            return
        if self.steps_per_execution > 1:
            raise ValueError(
                NEEDS.format(
                    "a step an execution",
                    f"steps_per_execution={self.steps_per_execution}",
                    "Leave it out of `compile`: a step with a Python reward isn't fused anyway.",
                )
            )
        if processes.count() > 1:
            raise ValueError(
                NEEDS.format(
                    "a single process",
                    f"{processes.count()} of them",
                    "Set it to False, or train on the devices of one process.",
                )
            )
