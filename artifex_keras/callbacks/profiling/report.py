"""The report of a profile as a table to read."""

__all__ = ["format_report"]

PARTS = {  # of a step's time, in the order of the table
    "step": "a step, while the profiler runs",
    "data_wait": "waiting for the next batch",
    "dispatch": "handing the step to the device",
    "drain": "waiting for the device at the end",
    "other": "callbacks and Keras's loop",
    "device": "the device at work (beside the host)",
    "step_before": "a step before the profiler ran",
}
UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))


def format_report(report):
    lines = [f"Profile of {report['steps']} steps", "", "  ms/step"]
    for name, value in report["milliseconds"].items():
        shown = "      -  " if value is None else f"{value:9.3f}"
        lines.append(f"{shown}  {name}: {PARTS[name]}")
    lines += ["", "    share  total ms    calls  operation"]
    for row in report["operations"]:
        program = f"  in {row['program']}" if row["program"] else ""
        share, total, calls = row["share"], row["total_ms"], row["calls"]
        lines.append(f"  {share:6.1%}  {total:8.3f}  {calls:7}  {row['op']}{program}")
    if not report["operations"]:
        lines.append("  (the trace has no operations)")
    if "memory" in report:
        lines += ["", "  memory", *(f"  {line}" for line in _memory_lines(report["memory"]))]
    return "\n".join(lines)


def _memory_lines(memory):
    yield f"{_format_size(memory['host']):>10}  this process in main memory"
    for name in ("device_in_use", "device_peak"):
        if memory[name] is not None:
            yield f"{_format_size(memory[name]):>10}  {name.replace('_', ' ', 2)}"
    for kind, size in memory["program"].items():
        yield f"{_format_size(size):>10}  the compiled step: {kind.replace('_', ' ')}"


def _format_size(size):
    if size is None:
        return "unknown"
    unit, factor = next(pair for pair in UNITS if size >= pair[1] or pair[1] == 1)
    return f"{size / factor:.1f} {unit}" if factor > 1 else f"{size} B"
