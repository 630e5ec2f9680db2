"""The operations in a trace."""

import gzip
import json
from typing import NamedTuple

__all__ = ["Operation", "chrome_events"]


class Operation(NamedTuple):
    """One run of an operation: where, of which program, and when, in seconds of the trace."""

    line: str  # a thread of the host or a stream of a device
    name: str
    program: str
    start: float
    end: float


def chrome_events(path):
    """`(process, thread, event)` of each event with a duration in a file for Chrome's viewer."""
    opened = gzip.open if str(path).endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    names = {}
    for event in events:
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name"):
            place = event["pid"], event.get("tid") if event["name"] == "thread_name" else None
            names[place] = event["args"]["name"]
    for event in events:
        if event.get("ph") == "X":
            pid, tid = event["pid"], event.get("tid")
            yield names.get((pid, None), str(pid)), names.get((pid, tid), str(tid)), event
