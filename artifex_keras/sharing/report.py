"""A report of one run or several: one HTML file without scripts and without requests."""

import base64
import datetime
import itertools
from pathlib import Path

import numpy as np

from artifex_keras.arguments import broken_rule, checked, file_path
from artifex_keras.atomic import write_text
from artifex_keras.sharing.charts import Curve, chart, shown_number
from artifex_keras.sharing.facts import (
    data_text,
    date_text,
    duration,
    evaluation_rows,
    flat_settings,
    names_of,
    plain_text,
    version_text,
)
from artifex_keras.sharing.html import element, joined, page
from artifex_keras.sharing.places import file_to_write
from artifex_keras.sharing.record import mapping, read_run
from artifex_keras.sharing.style import STYLE, colour_rules

__all__ = ["write_report"]

SHOWN_TEXT = 6000  # characters of a text
MOST_RUNS = 50


def folders(name, value):
    """A list of paths, from one or several."""
    given = [value] if isinstance(value, str | Path) else value
    if not isinstance(given, list | tuple) or not 0 < len(given) <= MOST_RUNS:
        raise broken_rule(name, value, f"the folder of a run, or a list of up to {MOST_RUNS}")
    return [file_path(name, each) for each in given]


@checked(runs=folders, path=file_path)
def write_report(runs, path="report.html"):
    """Writes a report of runs as one HTML file that any browser shows.

    It has the curves of all metrics, the pictures and texts that the runs wrote, their last and
    best numbers, settings, versions and times. Several runs are drawn together, each in its colour,
    with a table of the settings in which they differ. The file makes no requests and has no
    scripts; what is in a run's folder is shown as text only.

    Args:
        runs: the folder of a run that `artifex-keras train` has filled, or a list of folders.
        path: the file to write.

    Returns:
        The path.

    Raises:
        ValueError: where there is no run, with the nearest name.
        FileError: for a config that can't be read, and a link out of a run's folder.

    Example:

        ```python
        from pathlib import Path
        import artifex_keras as ak

        Path("run").mkdir()
        Path("run/config.yaml").write_text("family: vae\\ndata: {source: digits}\\n")
        Path("run/history.csv").write_text("epoch,loss\\n0,2.5\\n1,1.5\\n")
        path = ak.sharing.write_report("run", "report.html")
        assert "vae trained on digits" in path.read_text()
        ```
    """
    records = [read_run(folder) for folder in runs]
    path = file_to_write(path, "report.html")
    write_text(path, report_text(records))
    return path


def report_text(records):
    """The report of `RunRecord`s as the text of a page."""
    names = names_of(records)
    title = _title(records)
    colours = max(2, len(records))
    parts = [
        _header(records, title),
        _tiles(records[0]) if len(records) == 1 else _runs_table(records, names),
        _notes(records, names),
        _curves(records, names),
        _differences(records, names),
        _pictures(records, names),
        _texts(records, names),
        _evaluations(records, names),
        _numbers(records[0]) if len(records) == 1 else None,
        _details(records, names),
        element("footer", f"Written by artifex_keras on {_today()}."),
    ]
    return page(title, STYLE + colour_rules(colours), *parts)


def _today():
    return datetime.datetime.now().strftime("%Y-%m-%d")


def _title(records):
    first = records[0]
    if len(records) == 1:
        return f"{first.family} trained on {first.data}"
    what = {f"{run.family} on {run.data}" for run in records}
    return f"{len(records)} runs: {what.pop()}" if len(what) == 1 else f"{len(records)} runs"


def _header(records, title):
    if len(records) > 1:
        return element("header", element("h1", title))
    run = records[0]
    return element(
        "header",
        element("h1", title),
        element("p", data_text(run), class_="soft"),
        element("p", " · ".join(filter(None, [
            str(run.folder), _began(run), version_text(run)])), class_="soft"),
        element("pre", run.command, class_="card command") if run.command else None,
    )  # fmt: skip


def _began(run):
    return date_text(run.sessions[0].get("began")) if run.sessions else None


def _section(title, *children):
    children = [child for child in children if child]
    return element("section", element("h2", title), *children) if children else None


# Numbers


def _tiles(run):
    """The few numbers that one looks for first."""
    tiles = [("epochs", str(len(run.epochs)))]
    for name in run.metrics()[:1]:
        tiles.append((f"{_plain(name)}, last", shown_number(run.last(name))))
        if f"val_{name}" in run.curves:
            tiles.append((f"{_plain(name)} of validation", shown_number(run.last(f"val_{name}"))))
            if best := run.best(f"val_{name}"):
                tiles.append((f"best of validation, epoch {best[1]}", shown_number(best[0])))
    if weights := plain_text(run.about.get("weights")):
        tiles.append(("weights to train", weights))
    if run.seconds is not None:
        tiles.append(("time", duration(run.seconds)))
    return element("div", [
        element("div", element("b", value), element("span", name), class_="tile")
        for name, value in tiles
    ], class_="tiles")  # fmt: skip


def _runs_table(records, names):
    """A row for each run."""
    watched = records[0].metrics()[:1] or ["loss"]
    heads = ["run", "epochs", _plain(watched[0]), "validation", "best", "time"]
    mixed = len({(run.family, run.data) for run in records}) > 1
    rows = []
    for place, (run, name) in enumerate(zip(records, names, strict=True)):
        best = run.best(f"val_{watched[0]}")
        what = element("div", f"{run.family} on {run.data}", class_="soft") if mixed else None
        rows.append([
            joined(_key(place), name, what),
            str(len(run.epochs)),
            shown_number(run.last(watched[0])),
            shown_number(run.last(f"val_{watched[0]}")),
            _best(best),
            duration(run.seconds),
        ])  # fmt: skip
    return element("div", _table(heads, rows, numbers=range(1, 6)), class_="card")


def _numbers(run):
    """The last and the best values of all metrics."""
    rows = []
    units = mapping(run.about.get("units"))
    for name in run.metrics():
        best = run.best(f"val_{name}") or run.best(name)
        unit = units.get(name)
        rows.append([
            joined(_plain(name), element("span", f" {unit}", class_="unit") if unit else None),
            shown_number(run.last(name)),
            shown_number(run.last(f"val_{name}")),
            _best(best),
        ])  # fmt: skip
    if not rows:
        return None
    table = _table(["metric", "training", "validation", "best"], rows, numbers=(1, 2, 3))
    return _section("Final numbers", element("div", table, class_="card"))


def _best(best):
    """A best value and its epoch."""
    if best is None:
        return "–"
    return joined(shown_number(best[0]), element("div", f"epoch {best[1]}", class_="unit"))


def _evaluations(records, names):
    """What `evaluate` found, with the errors of sample metrics."""
    shown = []
    for run, name in zip(records, names, strict=True):
        for text, rows in evaluation_rows(run):
            table = _table(["metric", "value"], rows, numbers=(1,))
            head = f"{name}: {text}" if len(records) > 1 else text
            shown.append(element("div", element("p", head, class_="soft"), table, class_="card"))
    if not shown:
        return None
    return _section("Evaluation", element("div", shown, class_="charts"))


def _notes(records, names):
    """What is missing."""
    lines = [
        f"{name}: {text}" if len(records) > 1 else text
        for run, name in zip(records, names, strict=True)
        for text in run.missing
    ]
    if not lines:
        return None
    return element("div", element("ul", [element("li", line) for line in lines]), class_="notes")


def _table(heads, rows, numbers=()):
    def cells(tag, values):
        for place, value in enumerate(values):
            yield element(tag, value, class_="number" if place in numbers else None)

    head = element("tr", list(cells("th", heads)))
    return element("table", head, [element("tr", list(cells("td", row))) for row in rows])


def _plain(name):
    return name.replace("_", " ")


def _key(colour, dashed=False):
    return element("span", class_=f"key{' dashed' * dashed}", style=f"--c:var(--c{colour})")


# Curves


def _curves(records, names):
    """A chart for each metric that changes."""
    quiet = {name for run in records for name in run.quiet}
    metrics = dict.fromkeys(name for run in records for name in run.metrics() if name not in quiet)
    figures, constant = [], []
    for metric in metrics:
        curves = _curves_of(records, names, metric)
        values = np.concatenate([curve.known[1] for curve in curves])
        if len(values) > 1 and np.ptp(values) == 0:
            constant.append(f"{_plain(metric)} {shown_number(float(values[0]))}")
        elif drawn_chart := chart(curves, _plain(metric)):
            figures.append(_figure(records, metric, curves, drawn_chart))
    dashes = element("p", "Solid: training. Dashed: validation.", class_="soft")
    said = element("p", f"These did not change: {', '.join(constant)}.", class_="soft")
    return _section(
        "Curves", dashes if figures and len(records) > 1 else None,
        element("div", figures, class_="charts") if figures else None,
        said if constant else None,
    )  # fmt: skip


def _curves_of(records, names, metric):
    """The curves of a metric: training and validation in two colours, or runs in theirs."""
    single, found = len(records) == 1, []
    for place, (run, name) in enumerate(zip(records, names, strict=True)):
        for key, part in ((metric, "training"), (f"val_{metric}", "validation")):
            if key in run.curves and key not in run.quiet:
                validation = part == "validation"
                colour = int(validation) if single else place
                label = part if single else f"{name} {part}"
                found.append(Curve(label, colour, run.epochs, run.curves[key],
                                   dashed=validation and not single))  # fmt: skip
    return found


def _figure(records, metric, curves, svg):
    units = (plain_text(mapping(run.about.get("units")).get(metric)) for run in records)
    unit = next(filter(None, units), None)
    known = [curve for curve in curves if len(curve.known[0])]
    pairs = itertools.groupby(known, lambda curve: curve.colour)
    legend = [element("span", [_legend_of(records, c) for c in pair]) for _, pair in pairs]
    head = element("b", _plain(metric))
    unit = element("span", f" {unit}", class_="unit") if unit else None
    return element("figure", head, unit, element("div", legend, class_="legend"), svg)


def _legend_of(records, curve):
    """A curve's key and last value; of several runs, validation is named by its dashes alone."""
    name = "" if curve.dashed else curve.name.removesuffix(" training" * (len(records) > 1))
    last = shown_number(float(curve.known[1][-1]))
    return element("span", _key(curve.colour, curve.dashed), f"{name} {last}", title=curve.name)


# Settings


def _differences(records, names):
    """A table of the settings in which several runs differ."""
    if len(records) == 1:
        return None
    settings = [flat_settings(run) for run in records]
    unset = "default" if len({run.family for run in records}) == 1 else "–"
    keys = list(dict.fromkeys(key for each in settings for key in each))
    rows = [
        [key, *(each.get(key, unset) for each in settings)]
        for key in keys
        if len({each.get(key) for each in settings}) > 1
    ]
    if not rows:
        return _section("Settings that differ", element("p", "None: all settings are equal."))
    heads = ["setting", *(joined(_key(place), name) for place, name in enumerate(names))]
    return _section("Settings that differ", element("div", _table(heads, rows), class_="card"))


def _details(records, names):
    """The command, the versions and all settings of each run, folded."""
    shown = []
    for run, name in zip(records, names, strict=True):
        settings = _table(["setting", "value"], list(flat_settings(run).items()))
        head = "Settings" if len(records) == 1 else f"Settings of {name}"
        shown.append(element("details", element("summary", head), settings))
        shown.append(element(
            "details", element("summary", head.replace("Settings", "Command, versions and time")),
            _table(["", ""], _facts(run)),
        ))  # fmt: skip
    return _section("How it was made", *shown)


def _facts(run):
    """Rows of what is known of how a run was made."""
    yield ["folder", str(run.folder)]
    for place, session in enumerate(run.sessions):
        command = plain_text(session.get("command"))
        began = date_text(session.get("began"))
        took = duration(session.get("seconds"))
        word = "begun" if not place else "resumed"
        text = f"{began}, {took}, {plain_text(session.get('ended')) or 'not ended'}"
        yield [word, text]
        if command:
            yield ["command", element("code", command)]
    if device := plain_text(run.about.get("device")):
        yield ["device", device]
    yield ["backend", plain_text(run.about.get("backend")) or "–"]
    for package, version in mapping(run.about.get("versions")).items():
        yield [package, plain_text(version) or "–"]


# What the run wrote


def _pictures(records, names):
    shown = []
    for run, name in zip(records, names, strict=True):
        figures = [
            element(
                "figure",
                element("img", src=_data_address(picture), alt=picture.name,
                        width=picture.size[0], height=picture.size[1], loading="lazy"),
                element("figcaption", picture.name),
            )
            for picture in run.pictures
        ]  # fmt: skip
        if figures:
            shown.append(element("h3", name) if len(records) > 1 else None)
            shown.append(element("div", figures, class_="pictures"))
    return _section("Pictures", *shown)


def _data_address(picture):
    return f"data:{picture.type};base64,{base64.b64encode(picture.content).decode()}"


def _texts(records, names):
    shown = []
    for run, name in zip(records, names, strict=True):
        for file, text in run.texts.items():
            more = len(text) - SHOWN_TEXT
            shown.append(element("h3", f"{name}: {file}" if len(records) > 1 else file))
            shown.append(element("pre", text[:SHOWN_TEXT], class_="card"))
            if more > 0:
                said = f"{more:,} more characters are in the file."
                shown.append(element("p", said, class_="soft"))
    return _section("Texts", *shown)
