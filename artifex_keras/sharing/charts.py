"""Curves as SVG inside a page: its colours follow the page, light or dark."""

import dataclasses
import math

import numpy as np

from artifex_keras.sharing.html import element, joined

__all__ = ["Curve", "chart", "shown_number"]

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 8, 26  # margins around the curves
MOST_POINTS = 400  # of a curve; beyond, the lowest and highest of neighbours
MOST_MARKS = 40  # points up to which each is marked and says its value
FALL = 20  # a curve of positive values that falls by more gets a logarithmic axis


@dataclasses.dataclass(frozen=True)
class Curve:
    """A curve of a chart: its name, the number of its colour, its points."""

    name: str
    colour: int
    x: np.ndarray
    y: np.ndarray
    dashed: bool = False

    @property
    def known(self):
        """The points that are numbers."""
        known = np.isfinite(self.y)
        return self.x[known], self.y[known]


def shown_number(value):
    """A number in at most five digits; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.3g}"


def chart(curves, name):
    """An `svg` of curves over epochs; None where no curve has a point."""
    curves = [curve for curve in curves if len(curve.known[0])]
    if not curves:
        return None
    xs = np.concatenate([curve.known[0] for curve in curves]).astype(float)
    ys = np.concatenate([curve.known[1] for curve in curves])
    log = any(_falls(curve.known[1]) for curve in curves) and ys.min() > 0
    across = _Axis(xs.min(), xs.max(), LEFT, WIDTH - RIGHT)
    up = _Axis(ys.min(), ys.max(), HEIGHT - BOTTOM, TOP, log=log, margin=0.06)
    return element(
        "svg", _grid(across, up), *(_line(curve, across, up) for curve in curves),
        viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{name} over epochs",
    )  # fmt: skip


def _falls(values):
    low, high = values.min(), values.max()
    return low > 0 and high > FALL * low and values.argmax() < values.argmin()


class _Axis:
    """From values to places along a side of the chart."""

    def __init__(self, low, high, begin, end, log=False, margin=0.0):
        self.log = log
        low, high = (math.log10(low), math.log10(high)) if log else (float(low), float(high))
        if high - low <= 1e-12 * max(abs(low), abs(high)):
            size = 0.5 if log or low == 0 else abs(low) / 10
            low, high = low - size, high + size
        room = margin * (high - low)
        self.low, self.high, self.begin, self.end = low - room, high + room, begin, end

    def at(self, value):
        value = math.log10(value) if self.log else value
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, most, integers=False):
        """Round values along the axis, `most` at most."""
        if self.log:
            return self._log_ticks(most)
        step = 10 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(s * step for s in (1, 2, 5, 10) if (self.high - self.low) / (s * step) <= most)
        step = max(1, round(step)) if integers else step
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [(first + number) * step for number in range(count)]

    def _log_ticks(self, most):
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for parts in ((1, 2, 5), (1, 3), (1,)):
            found = [part * 10.0**power for power in powers for part in parts]
            found = [value for value in found if self.low <= math.log10(value) <= self.high]
            if len(found) <= most:
                return found
        return found[:: -(-len(found) // most)]


def _grid(across, up):
    """Lines with numbers on both sides."""
    for value in up.ticks(5):
        y = up.at(value)
        yield element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y)
        yield element("text", _tick(value), x=LEFT - 6, y=y + 3.5, text_anchor="end")
    for value in across.ticks(6, integers=True):
        yield element(
            "text", f"{value:g}", x=across.at(value), y=HEIGHT - BOTTOM + 16, text_anchor="middle"
        )
    yield element("text", "epoch", x=0, y=HEIGHT - BOTTOM + 16)


def _tick(value):
    value = 0.0 if abs(value) < 1e-12 else value
    return f"{value:,.6g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def _line(curve, across, up):
    """A curve with gaps where it is no number, and what each of a few points says."""
    x, y = _fewer(*curve.known) if curve.dashed else _fewer(curve.x, curve.y)
    places, pen = [], "M"
    for at, value in zip(x, y, strict=True):
        if np.isfinite(value):
            places.append(f"{pen}{across.at(float(at))} {up.at(float(value))}")
            pen = "L"
        else:
            pen = "M"
    dashed = " dashed" if curve.dashed else ""
    line = element("path", class_=f"curve{dashed}", d="".join(places), style=_colour(curve))
    x, y = curve.known
    marks = zip(x, y, strict=True) if len(x) <= MOST_MARKS else [(x[-1], y[-1])]
    return joined(line, [_mark(curve, at, value, across, up) for at, value in marks])


def _mark(curve, at, value, across, up):
    said = element("title", f"{curve.name}: {shown_number(float(value))} in epoch {at}")
    return element("g", said, element(
        "circle", cx=across.at(float(at)), cy=up.at(float(value)), r=2, style=_colour(curve)
    ), element(
        "circle", cx=across.at(float(at)), cy=up.at(float(value)), r=7, class_="near"
    ))  # fmt: skip


def _colour(curve):
    return f"--c:var(--c{curve.colour})"


def _fewer(x, y):
    """At most so many points, with the lowest and the highest of each stretch."""
    if len(x) <= MOST_POINTS:
        return x, y
    kept = []
    for part in np.array_split(np.arange(len(x)), MOST_POINTS // 2):
        known = np.where(np.isfinite(y[part]), y[part], np.nan)
        if np.isnan(known).all():
            kept.append(part[0])
        else:
            kept += sorted({part[np.nanargmin(known)], part[np.nanargmax(known)]})
    return x[kept], y[kept]
