"""Trainings that are killed at random moments and go on, beside one that never was.

For each row of `tests/families.py` a child process trains with a checkpoint every two steps,
written beside the training. It gets SIGKILL after a random step and a random while, so that most
kills hit a save; is started again; and so on. When a trial's kills have hit, it may end. Then every
variable of model, optimizer and metrics, the history, the rows of an `EvaluationCallback` and the
file of a `LoggingCallback` must have the SHA-256 that a training without checkpoints and kills
gives. Before each start every checkpoint in the folder is read whole.

    python -m benchmarks.kill --trials 200
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parent.parent / "tests"


def trials_of(families, sources, trials):
    """`(family, source, seed)` of each trial: families in turn, then the sources."""
    for seed in range(trials):
        family = families[seed % len(families)]
        yield family, sources[seed // len(families) % len(sources)], seed


def measured(trials, kills, families, sources, in_rewards=False, say=print):
    """The report: totals, and the same by family and by source."""
    from killing import Nursery

    told = []
    with Nursery() as nursery:
        for family, source, seed in trials_of(families, sources, trials):
            began = time.perf_counter()
            result = nursery.trial(
                family, kills=kills, seed=seed, source=source, in_rewards=in_rewards
            )
            told.append({"family": family, "source": source, **result})
            verdict = "exact" if result["runs"] == result["exact"] else result["differences"]
            seconds = time.perf_counter() - began
            say(f"{seed + 1:4} {family:26} {source:10} {seconds:5.1f} s  {verdict}", flush=True)
    return {
        **total(told),
        "by_family": {name: total(told, family=name) for name in families},
        "by_source": {name: total(told, source=name) for name in sources},
    }


def total(told, **which):
    """Sums over the results that have these values."""
    told = [r for r in told if all(r[key] == value for key, value in which.items())]
    lost = [steps for result in told for steps in result["lost_steps"]]
    sums = {
        key: sum(result[key] for result in told)
        for key in ("runs", "exact", "kills", "in_a_save", "empty", "unreadable")
    }
    different = sorted({name for result in told for name in result["differences"]})
    return {
        "trials": len(told),
        **sums,
        "lost_steps_mean": float(np.mean(lost)) if lost else None,
        "lost_steps_most": max(lost, default=None),
        **({"differences": different} if different else {}),
    }


def main():
    sys.path.insert(0, str(TESTS))
    from algorithms import NAMES as ALGORITHMS
    from algorithms import ON_POLICY
    from families import NAMES
    from killing import SOURCES

    from benchmarks.__main__ import surroundings, written

    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5, help="of each trial")
    parser.add_argument("--family", action="append", choices=NAMES + ALGORITHMS)
    parser.add_argument("--source", action="append", choices=list(SOURCES))
    parser.add_argument(
        "--in-rewards", action="store_true", help="kill algorithms while a Python reward scores"
    )
    options = parser.parse_args()
    all_rows = [row.name for row in ON_POLICY] if options.in_rewards else NAMES + ALGORITHMS
    families, sources = options.family or all_rows, options.source or ["arrays"]
    head, began = surroundings(), time.perf_counter()
    report = measured(options.trials, options.kills, families, sources, options.in_rewards)
    head = {"seconds": round(time.perf_counter() - began), "kills_each": options.kills, **head}
    print(*(f"{name}: {value}" for name, value in total_of(report).items()), sep="\n")
    written("kill_in_rewards" if options.in_rewards else "kill", {**head, "results": report})
    return report["runs"] != report["exact"] or report["unreadable"] > 0


def total_of(report):
    return {name: value for name, value in report.items() if not name.startswith("by_")}


if __name__ == "__main__":
    sys.exit(main())
