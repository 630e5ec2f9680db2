"""Speed beside what a person would write otherwise. Prints tables, writes JSON into
benchmarks/results."""

import argparse
import json
import os
import platform
from importlib import metadata
from pathlib import Path

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("keras", "jax", "jaxlib", "numpy", "tensorflow", "torch", "zuko", "keras-hub")


def fit(rounds):
    from benchmarks.fit import CASES, measured

    results = {}
    for name, case in CASES.items():
        results[name] = measured(case, rounds)
        show_fit(f"{name}, batch {case.batch_size}, {case.steps} steps an execution", results[name])
    return results


def show_fit(title, result):
    print(f"\n{title}")
    print(f"  {'':14}   us/step      best   ours/this (quartiles)    of best   CPU")
    for name, times in result["microseconds_per_step"].items():
        line = f"  {name:14} {times['median']:9.1f} {times['least']:9.1f}"
        if ratio := result["ratios"].get(name):
            line += compared(ratio)
        print(line, flush=True)


def imports(rounds):
    from benchmarks.imports import measured

    result = measured(rounds)
    print("\nimport in a fresh interpreter\n                          seconds   best    CPU")
    for name, times in result["seconds"].items():
        wall, cpu = times["wall"], times["cpu"]
        line = f"  {name:22} {wall['median']:8.3f} {wall['least']:7.3f} {cpu['median']:6.3f}"
        print(line + verdict(wall["median"], result["goal"].get(name)))
    return result


def sampling(rounds):
    from benchmarks.sampling import CASES, measured

    results = {}
    for name in CASES:
        results[name] = result = measured(name, rounds)
        print(f"\n{name}\n                 per second   ours/this (quartiles)    of best   CPU")
        for who, speed in result["per_second"].items():
            line = f"  {who:14} {speed['median']:9.0f}"
            if ratio := result["ratios"].get(who):
                line += compared(ratio)
            print(line, flush=True)
    return results


def callbacks(rounds):
    from benchmarks.callbacks import CASES, measured

    results = {}
    for name, case in CASES.items():
        results[name] = result = measured(case, rounds)
        print(f"\n{name}, batch {case.batch_size}")
        print(f"  {'':24}  us/step      best   with/without (quartiles)  of best   CPU")
        for who, times in result["microseconds_per_step"].items():
            line = f"  {who:24}{times['median']:9.1f} {times['least']:9.1f}"
            if ratio := result["ratios"].get(who):
                line += compared(ratio)
            print(line, flush=True)
    return results


def rl(rounds):
    from benchmarks.rl import measured

    return measured(rounds, show_rl)


def sft(rounds):
    from benchmarks.sft import measured

    return measured(rounds, show_rl)


def show_rl(title, result):
    print(f"\n{title}")
    for what in ("per_second", "milliseconds_of_a_step", "milliseconds_per_step"):
        for name, values in result.get(what, {}).items():
            low, high = values["quartiles"]
            numbers = f"{values['median']:9.2f} ({low:.2f}-{high:.2f})"
            print(f"  {name:40} {numbers}  {what.replace('_', ' ')}")
    for name, ratio in result["ratios"].items():
        print(f"  {name:40}{compared(ratio)}", flush=True)


def first_fit(rounds):
    from benchmarks.first_fit import CASES, measured

    results = {}
    for name in CASES:
        results[name] = result = measured(name, rounds)
        print(f"\nfirst fit, {name}\n{'':21}seconds    CPU   of keras (quartiles)")
        for cache, found in result.items():
            for who, times in found["seconds"].items():
                wall, cpu = times["wall"]["median"], times["cpu"]["median"]
                print(f"  {cache} {who:14} {wall:8.3f} {cpu:6.3f}", flush=True)
            ratio = found["ratios"]["cpu"]
            low, high = ratio["quartiles"]
            text = f"  {cache} CPU {ratio['median']:.3f} ({low:.3f}-{high:.3f})"
            print(text + verdict(ratio["median"], ratio["goal"]), flush=True)
    return results


def allocator(rounds):
    from benchmarks.allocator import CASES, measured

    results = {}
    for name in CASES:
        results[name] = result = measured(name, rounds)
        print(f"\n{name}\n{'':14}  faults/step   CPU ms  kernel ms  peak MB")
        for who in ("kept", "given back"):
            cost = [values["median"] for values in result[who].values()]
            print("  {:12} {:12.1f} {:8.2f} {:10.2f} {:8.0f}".format(who, *cost), flush=True)
        print(f"  CPU, kept to given back: {result['cpu_ratio']['median']:.3f}", flush=True)
    return results


def scaling(rounds):
    """Nothing is timed: of `rounds` there is one."""
    from benchmarks.scaling import CASES, DEVICES, LAYOUTS, measured

    results = {}
    for case in CASES:
        head = f"{'devices':>10} {'MB held':>9} {'MB in all':>9} {'GFLOP':>8} {'MB sent':>8}"
        print(f"\n{case}, on a device and in a step\n  {'':8}{head}   least ms, bound by")
        for layout in LAYOUTS:
            for devices in DEVICES:
                result = measured(case, layout, devices)
                results[f"{case}, {layout}, {devices}"] = result
                show_plan(layout, result)
    return results


def show_plan(layout, plan):
    memory = plan["memory"]
    weights = sum(memory[kind] for kind in ("parameters", "optimizer", "averages"))
    line = f"  {layout:8}{plan['devices']:10} {weights / 1e6:9.1f} {plan['total'] / 1e6:9.1f}"
    line += f" {plan['flops_per_device'] / 1e9:8.1f} {plan['wire'] / 1e6:8.1f}"
    print(f"{line} {1e3 * plan['step_seconds']:8.2f}, {plan['bound']}", flush=True)


def compared(ratio):
    """Our time over another contestant's, as the tables have it."""
    low, high = ratio["quartiles"]
    text = f"   {ratio['median']:6.3f} ({low:.3f}-{high:.3f})"
    text += f"   {ratio['of_best_rounds']:8.3f} {ratio['cpu']:6.3f}"
    return text + verdict(ratio["median"], ratio["goal"])


def verdict(value, goal):
    if goal is None:
        return ""
    return f"   goal {goal:.4g}: {'met' if value <= goal else 'missed'}"


BENCHMARKS = {
    "fit": fit,
    "sampling": sampling,
    "rl": rl,
    "sft": sft,
    "callbacks": callbacks,
    "import": imports,
    "first_fit": first_fit,
    "allocator": allocator,
    "scaling": scaling,
}


def surroundings():
    """Versions, device, cores, and the processes that wanted them before we began."""
    import jax

    import artifex_keras

    versions = {"python": platform.python_version(), "artifex_keras": artifex_keras.__version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="?", choices=[*BENCHMARKS, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be positive. Received: {options.rounds}.")
    for name in BENCHMARKS if options.which == "all" else [options.which]:
        head = {"rounds": options.rounds, **surroundings()}
        written(name, {**head, "results": BENCHMARKS[name](options.rounds)})


def written(name, result):
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: benchmarks/results/{path.name}", flush=True)


if __name__ == "__main__":
    main()
