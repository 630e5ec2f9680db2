"""What reports and model cards say of a run, as plain texts."""

import datetime
import json
from pathlib import Path

from artifex_keras.sharing.charts import shown_number
from artifex_keras.sharing.record import mapping, number

__all__ = [
    "data_text",
    "date_text",
    "duration",
    "evaluation_rows",
    "flat_settings",
    "names_of",
    "plain_text",
    "version_text",
]

LONGEST = 300  # characters of a value in a table
UNSHOWN = ("training.checkpoint_dir",)  # which is a place, no setting


def plain_text(value):
    """A value of a file as a short text; None for None, lists and dicts."""
    if value is None or isinstance(value, dict | list):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**15 else "a long number"
    return _short(str(value))


def _short(text):
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def names_of(records):
    """A name for each run: that of its folder, with folders above where two are the same."""
    parts = [record.folder.resolve().parts for record in records]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def flat_settings(run):
    """{"section.key": value as text} of all settings that are set."""
    return {key: _setting(value) for key, value in _flat(run.config) if key not in UNSHOWN}


def _flat(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None and value != {}:
            yield f"{prefix}{name}", value


def _setting(value):
    """A value as YAML would have it; the home folder is `~`."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    home = str(Path.home())
    return _short(text.replace(home, "~") if len(home) > 1 else text)


def data_text(run):
    """A sentence about the data."""
    said = plain_text(run.about.get("data"))
    return said if said else f"Data: {run.data}"


def version_text(run):
    """The backend and its versions in a few words; "" where they aren't known."""
    versions = mapping(run.about.get("versions"))
    backend = plain_text(run.about.get("backend"))
    found = [f"{name} {plain_text(versions[name])}" for name in ("keras", backend)
             if name in versions]  # fmt: skip
    return ", ".join(found) if backend in versions or not backend else ", ".join([*found, backend])


def duration(seconds):
    """Seconds as a person says them: "42 s", "3 min 5 s", "2 h 10 min"; a dash for None."""
    seconds = number(seconds)
    if seconds is None or seconds < 0:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours:,} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def date_text(text):
    """An ISO date and time without its seconds; other texts as they are."""
    try:
        return datetime.datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M %Z").strip()
    except (TypeError, ValueError):
        return plain_text(text) or "at an unknown time"


def evaluation_rows(run):
    """`(what was compared, rows of name and value)` of what `evaluate` found."""
    for part in ("test", "samples"):
        found = mapping(run.evaluation.get(part))
        values = mapping(found.get("metrics"))
        rows = [[name.replace("_", " "), _with_error(name, values)] for name in values
                if not name.endswith(("_error", "_bias"))]  # fmt: skip
        if rows:
            yield plain_text(found.get("about")) or part, rows


def _with_error(name, values):
    text = shown_number(number(values[name]))
    if (error := number(values.get(f"{name}_error"))) is not None:
        text += f" ± {error:.2g}"
    if (bias := number(values.get(f"{name}_bias"))) is not None:
        text += f" ({bias:.2g} for equal distributions)"
    return text
