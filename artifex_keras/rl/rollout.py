"""What a policy samples and how it scores it: the tensors that algorithms learn from.

Shapes: P prompts, G completions of each, N = P·G rows; T actions a row, which are C tokens or S
steps of a denoising chain; W the width of the prompts.
"""

from typing import NamedTuple

import numpy as np
from keras import ops

__all__ = ["Experience", "Rollout", "Scores", "either", "repeated"]


class Rollout(NamedTuple):
    """What a policy sampled: N rows, the completions of a prompt side by side.

    Attributes:
        completion: the tokens, int (N, C); or the samples of a denoising model, (N, ...).
        log_probs: ln p of each action under the policy that sampled it, (N, T), in nats; of
            denoising steps in nats per dimension.
        mask: (N, T), 1 on what counts: tokens up to and including the first end token; of an
            episode of several turns the policy's own.
        ended: (N,), 1 where a row ended by itself, 0 where it was cut off: a completion at C
            tokens, an episode by `max_turns` or the context.
        sequence: prompt and completion without a gap, int (N, W + C); None of denoising models.
        start: where in `sequence` the completion begins, int (N,); None of denoising models.
        states: the noisy samples on the way, (N, S + 1, ...); None of tokens.
        condition: what the samples were conditioned on, (N, ...), or None.
        greedy_reward: the reward (N,) of the likeliest completion of the same prompt, where the
            baseline is "greedy"; else None.
        turns: how many turns the episode of a row had, (N,); None without an environment.
        rewards: of episodes inside the compiled step, (N,), else None.
    """

    completion: object
    log_probs: object
    mask: object
    ended: object
    sequence: object = None
    start: object = None
    states: object = None
    condition: object = None
    greedy_reward: object = None
    turns: object = None
    rewards: object = None


class Scores(NamedTuple):
    """How likely the actions of a rollout are under some weights.

    Attributes:
        log_probs: ln p of each action, (N, T), in nats.
        entropy: of what might have been chosen instead, (N, T), in nats; None if not asked for.
        features: the hidden vectors before each token, (N, C, F); None of denoising models.
        means: of the Gaussians that denoising steps were drawn from, (N, S, ...); None of tokens.
    """

    log_probs: object
    entropy: object = None
    features: object = None
    means: object = None


class Experience(NamedTuple):
    """A rollout with what an algorithm learns from it: the same over all updates with it.

    Attributes:
        rollout: the `Rollout`, its mask 0 on what teaches nothing.
        advantages: (N,) of completions, or (N, T) of actions.
        reference: the `Scores` of the reference, None without one.
        values: what the critic said before each token, (N, C); None without a critic.
        returns: what it is to say, (N, C); None without a critic.
        weights: how much the loss of each action weighs, (N, T); None for all alike.
    """

    rollout: Rollout
    advantages: object
    reference: Scores | None = None
    values: object = None
    returns: object = None
    weights: object = None


def repeated(values, times):
    """Each of `values` so many times, side by side."""
    if isinstance(values, list):
        return [value for value in values for _ in range(times)]
    return np.repeat(values, times, axis=0)


def either(chosen, own, given, pad):
    """The rows of `own` where `chosen` (N,), else those of `given`; both get one width."""
    width = max(own.completion.shape[1], given.completion.shape[1])
    pairs = zip(_widened(own, width, pad), _widened(given, width, pad), strict=True)

    def pick(ours, theirs):
        return ops.where(ops.reshape(chosen, (-1,) + (1,) * (len(ours.shape) - 1)), ours, theirs)

    return Rollout(*[None if a is None else pick(a, b) for a, b in pairs])


def _widened(rollout, width, pad):
    """A rollout of tokens whose completions have `width` places."""
    more = width - rollout.completion.shape[1]

    def wide(rows, value):
        return ops.pad(rows, [[0, 0], [0, more]], constant_values=value)

    return rollout._replace(
        completion=wide(rollout.completion, pad),
        log_probs=wide(rollout.log_probs, 0.0),
        mask=wide(rollout.mask, 0.0),
        sequence=wide(rollout.sequence, pad),
    )
