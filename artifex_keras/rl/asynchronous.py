"""Sampling one update ahead: beside Python rewards in a thread (`asynchronous_rewards`), or on
devices of its own (`distributed.actor_learner`)."""

from artifex_keras.backend import processes
from artifex_keras.backend.actors import actors, role
from artifex_keras.rl.base import FineTuning

__all__ = ["AsynchronousRewards"]

OPTION = "`asynchronous_rewards` needs {}. Received: {}. {}"
DISTRIBUTION = "`actor_learner` needs {}. Received: {}. {}"
UNUSED = "of an algorithm whose ratio weighs what others have sampled"


class AsynchronousRewards(FineTuning):
    """The part of an on-policy algorithm that says when the next rollout may run beside the rewards
    of a batch and the update with it; how it does is `backend.ahead.Overlap`."""

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
                self._needs(
                    "a `reward_fn`",
                    "an `environment`, or `max_turns`",
                    "The turns of an episode are sampled one after the other, with its answers.",
                )
            )
        if rewards and not rewards.on_host:
            raise ValueError(
                self._needs(
                    "a Python reward",
                    f"rewards of tensors alone, {', '.join(map(repr, rewards.names))}",
                    "They are part of the compiled step, which waits for nothing: leave it out.",
                )
            )

    @property
    def samples_ahead(self):
        """Whether each batch of an epoch but the first is sampled one update behind."""
        return self.asynchronous_rewards or actors() is not None

    def check_cap(self):
        """Raises a ValueError without an `importance_cap` that the algorithm needs."""
        if self.samples_ahead and getattr(self, "importance_cap", UNUSED) is None:
            raise ValueError(
                self._needs(
                    "an `importance_cap`",
                    "importance_cap=None",
                    "Completions are of the policy before the last update, so each token must "
                    "weigh as the present one would write it: give importance_cap=2.0.",
                )
            )

    def check_overlap(self):
        """Raises a ValueError for a `fit` that can't sample ahead."""
        if not self.samples_ahead:
            return
        self.check_cap()
        if self.rewards.plays and self.rewards.on_host:
            raise ValueError(
                self._needs(
                    "a `reward_fn`, or an environment that is `rl.traceable`",
                    f"environment={self.environment!r}",
                    "Turns that Python plays would ask the learners' weights for each one: take "
                    "`data_parallel` or `model_parallel`.",
                )
            )
        if self.steps_per_execution > 1:
            raise ValueError(
                self._needs(
                    "a step an execution",
                    f"steps_per_execution={self.steps_per_execution}",
                    "Leave it out of `compile`: a step of two programs isn't fused anyway.",
                )
            )
        if actors() is not None and (self.run_eagerly or not self.jit_compile):
            raise ValueError(
                self._needs(
                    "compiled steps",
                    f"run_eagerly={self.run_eagerly}, jit_compile={self.jit_compile}",
                    "Leave these out of `compile`.",
                )
            )
        if processes.count() > 1 and role() is None:
            raise ValueError(
                self._needs(
                    "a single process",
                    f"{processes.count()} of them",
                    "Train on the devices of one process, or take `data_parallel` or "
                    "`model_parallel` without `asynchronous_rewards`.",
                )
            )

    def _needs(self, what, received, remedy):
        needs = OPTION if self.asynchronous_rewards else DISTRIBUTION
        return needs.format(what, received, remedy)
