"""The operations of a trace: how long they ran, and which took longest."""

from collections import defaultdict

__all__ = ["busy", "own_times", "slowest"]


def busy(operations):
    """Seconds in which at least one of `operations` ran."""
    total, until = 0.0, float("-inf")
    for operation in sorted(operations, key=lambda operation: operation.start):
        total += max(0.0, operation.end - max(operation.start, until))
        until = max(until, operation.end)
    return total


def own_times(operations):
    """Pairs of an operation and its seconds, without those of operations inside it."""
    lines = defaultdict(list)
    for operation in operations:
        lines[operation.line].append(operation)
    for line in lines.values():
        around, own = [], {}
        for index, operation in sorted(
            enumerate(line), key=lambda pair: (pair[1].start, -pair[1].end)
        ):
            while around and line[around[-1]].end <= operation.start:
                around.pop()
            length = operation.end - operation.start
            own[index] = length
            if around:
                own[around[-1]] -= length
            around.append(index)
        for index, seconds in own.items():
            yield line[index], max(seconds, 0.0)


def slowest(operations, count):
    """The `count` operations that took longest: dicts of op, program, calls, total_ms, share."""
    calls, totals = defaultdict(int), defaultdict(float)
    for operation, seconds in own_times(operations):
        calls[operation.name, operation.program] += 1
        totals[operation.name, operation.program] += seconds
    total = sum(totals.values()) or 1.0
    order = sorted(totals, key=lambda key: (-totals[key], key))[:count]
    return [
        {
            "op": name,
            "program": program,
            "calls": calls[name, program],
            "total_ms": 1e3 * totals[name, program],
            "share": totals[name, program] / total,
        }
        for name, program in order
    ]
