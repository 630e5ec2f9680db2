"""Times of contestants that take turns, and the ratios between them."""

import time

import numpy as np

__all__ = ["CLOCKS", "interleaved", "ratio", "spread"]

# What a person waits for, and what all cores together worked for this process. On a busy machine
# the second is the steadier one; it doesn't see what runs side by side.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def interleaved(contestants, rounds):
    """Seconds of each contestant in each round: a dict by clock of dicts of lists.

    They run one after the other in every round, another one first each time: what else the machine
    does meets them all, so the ratios within a round say more than the times.
    """
    names = list(contestants)
    seconds = {clock: {name: [] for name in names} for clock in CLOCKS}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = {clock: now() for clock, now in CLOCKS.items()}
            contestants[name](turn)
            for clock, now in CLOCKS.items():
                seconds[clock][name].append(now() - began[clock])
    return seconds


def spread(values):
    """The median of `values` with the quartiles and the least."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "median": float(median),
        "quartiles": [float(low), float(high)],
        "least": float(min(values)),
    }


def ratio(seconds, others):
    """The median and quartiles of the ratios within the rounds, and the ratio of the best rounds.

    On a busy machine the best rounds come nearest to what an idle one would show.
    """
    within = spread(np.asarray(seconds) / np.asarray(others))
    del within["least"]
    return {**within, "of_best_rounds": min(seconds) / min(others)}
