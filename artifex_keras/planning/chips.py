"""What there is to rent: chips, and the grids TPUs come in."""

import re
from typing import NamedTuple

from artifex_keras.arguments import lookup
from artifex_keras.backend.chips import CHIPS, Chip, chip_of

__all__ = ["CHIPS", "Chip", "Target", "chip_of", "target_of"]

PLATFORMS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "tpu": "tpu"}


# Grids of chips by their number: of v5e and v6e in the plane, of the others in space.
PLANE = {
    **{1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8"},
    **{128: "8x16", 256: "16x16"},
}
SPACE = {
    **{4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"},
    **{256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16"},
}


class Target(NamedTuple):
    """What a plan is for: a platform, perhaps a chip, a row of `CHIPS`, and how many of it."""

    platform: str
    name: str | None = None
    count: int | None = None

    @property
    def chip(self):
        """The row of `CHIPS`, or None."""
        return CHIPS.get(self.name)

    @property
    def topology(self):
        """A TPU's grid as libtpu names it, "v5e:2x4"; None where there is none of so many."""
        if self.platform != "tpu" or self.chip is None:
            return None
        grid = _grids(self.name).get(self.count)
        name = "tpu7x" if self.name == "v7x" else self.name
        return grid and f"{name}:{grid}"

    @property
    def accelerator(self):
        """The same as Google sells it, "v5litepod-8"."""
        return f"{self.chip.accelerator}-{self.count * self.chip.counts}"

    @property
    def topology_options(self):
        """Further options for libtpu: a chip alone has a host of its own, and a v4 is one
        device, of two cores."""
        if self.count == 1:
            return {"chips_per_host_bounds": [1, 1, 1]}
        return {"chip_config_name": "megacore"} if self.name == "v4" else {}

    def __str__(self):
        name = f":{self.name}" if self.name else ""
        return f"{self.platform}{name}{f'-{self.count}' if self.count else ''}"


def target_of(text):
    """The `Target` that "cpu", "gpu", "gpu:h100", "tpu", "tpu:v5e" or "tpu:v5e-256" names.

    The number counts devices: chips, of v4 and v5p too, and of v7x two for each chip.

    Raises:
        ValueError: for a platform or a chip that isn't known, and for TPUs that don't come in
            such a number.
    """
    match = re.fullmatch(r"(\w+)(?::([a-z0-9]+?)(?:-(\d+))?)?", str(text).lower())
    if match is None:
        raise ValueError(
            "`target` must be a platform, or one with a chip and a number, as in 'cpu', "
            f"'gpu:h100' or 'tpu:v5e-256'. Received: target={text!r}."
        )
    platform = lookup(PLATFORMS, match[1], "platform of a `target`")
    name, count = match[2], int(match[3]) if match[3] else None
    if name is not None:
        lookup({n: c for n, c in CHIPS.items() if c.platform == platform}, name, "chip")
    target = Target(platform, name, count)
    if count is not None and platform == "tpu" and target.topology is None:
        what = "chips" if CHIPS[name].devices == 1 else "devices, two to a chip"
        raise ValueError(
            f"TPUs of kind {name} come in grids of {', '.join(map(str, _grids(name)))} {what}. "
            f"Received: target={text!r}."
        )
    return target


def _grids(name):
    """A TPU's grids of chips by the number of devices."""
    grids = PLANE if name in ("v5e", "v6e") else SPACE
    return {chips * CHIPS[name].devices: grid for chips, grid in grids.items()}
