"""What trained policies reach, beside the numbers that a right implementation reaches.

    python -m benchmarks.quality

The tasks are those of `tests/token_toys.py`. Prints a table, writes
benchmarks/results/rl_quality.json; fails if a gate is missed.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SEEDS = 3
TESTS = Path(__file__).parent.parent / "tests"


def measured(toys, seeds, say=print):
    """What each toy reached with each seed, and whether all passed the gate."""
    from token_toys import learned

    results = {}
    for name, toy in toys.items():
        rewards, began = [], time.perf_counter()
        for seed in range(seeds):
            rewards.append(learned(toy, seed))
            told = "  ".join(f"{value:.3f} @{update}" for update, value in rewards[-1].items())
            say(f"  {name:12} seed {seed}:  {told}", flush=True)
        last = toy.told_at[-1]
        least = min(told[last] for told in rewards)
        results[name] = {
            "completions_per_update": toy.completions,
            "reward_at_update": {
                update: [told[update] for told in rewards] for update in toy.told_at
            },
            "peer": toy.peer,
            "gate": f">= {toy.gate} @{last}",
            "least": least,
            "met": least >= toy.gate,
            "seconds_per_seed": round((time.perf_counter() - began) / seeds, 1),
        }
    return results


def show(results):
    print(f"\n{'':12}  {'gate':12} {'least':>6}  {'':6}  peer")
    for name, result in results.items():
        line = f"{name:12}  {result['gate']:12} {result['least']:6.3f}"
        print(f"{line}  {'met' if result['met'] else 'missed':6}  {result['peer']}")


def main():
    sys.path.insert(0, str(TESTS))
    from token_toys import TOYS

    from benchmarks.__main__ import surroundings, written

    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--toy", action="append", choices=list(TOYS), help="one, or several")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many, from 0")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds must be positive. Received: {options.seeds}.")
    head = {"seeds": options.seeds, **surroundings()}
    results = measured({name: TOYS[name] for name in options.toy or TOYS}, options.seeds)
    show(results)
    if options.toy is None:
        written("rl_quality", {**head, "results": results})
    return not all(result["met"] for result in results.values())


if __name__ == "__main__":
    sys.exit(main())
