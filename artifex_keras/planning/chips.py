"""What there is to rent: peak figures as the makers state them, and the grids TPUs come in."""

import re
from typing import NamedTuple

from artifex_keras.arguments import lookup

__all__ = ["CHIPS", "Chip", "Target", "chip_of", "target_of"]

PLATFORMS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "tpu": "tpu"}


class Chip(NamedTuple):
    """Peak figures of one device.

    Attributes:
        platform: "gpu" or "tpu".
        bfloat16, float32: multiplications and additions per second, in matrix products. A TPU
            multiplies float32 in bfloat16 as JAX asks it by default; a GPU's float32 is TF32.
        memory: bytes.
        bandwidth: bytes per second between the device and its memory.
        links: bytes per second that a device sends in a ring: for a TPU both ways along one axis
            of its grid, for a GPU one way over NVLink.
        island: devices that such links join.
        beyond: bytes per second between islands, from one device; None isn't known.
        kind: how JAX's name of the device begins.
        accelerator, counts: a TPU's type as its environment names it, and what one chip counts
            for in it: of v4 and v5p cores are counted.
    """

    platform: str
    bfloat16: float
    float32: float
    memory: int
    bandwidth: float
    links: float
    island: int
    beyond: float | None
    kind: str
    accelerator: str = ""
    counts: int = 1

    def peak(self, dtype):
        """Multiplications and additions per second in "bfloat16", "float16" or "float32"."""
        return self.float32 if dtype == "float32" else self.bfloat16

    def sending(self, group):
        """Bytes per second that a device sends in a ring of so many; None isn't known."""
        return self.links if group <= self.island else self.beyond


GIB = 1 << 30
CHIPS = {
    "v4": Chip("tpu", 2.75e14, 2.75e14, 32 * GIB, 1.2e12, 9e10, 4096, None, "TPU v4", "v4", 2),
    "v5e": Chip(
        "tpu", 1.97e14, 1.97e14, 16 * GIB, 8.1e11, 9e10, 256, None, "TPU v5 lite", "v5litepod"
    ),
    "v5p": Chip("tpu", 4.59e14, 4.59e14, 95 * GIB, 2.8e12, 1.8e11, 8960, None, "TPU v5", "v5p", 2),
    "v6e": Chip("tpu", 9.2e14, 9.2e14, 32 * GIB, 1.6e12, 1.8e11, 256, None, "TPU v6 lite", "v6e"),
    "a100": Chip("gpu", 3.12e14, 1.56e14, 80 * GIB, 2.0e12, 3e11, 8, 2.5e10, "NVIDIA A100"),
    "h100": Chip("gpu", 9.89e14, 4.95e14, 80 * GIB, 3.35e12, 4.5e11, 8, 5e10, "NVIDIA H100"),
}

# Grids of chips by their number: of v5e and v6e in the plane, of v4 and v5p in space.
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
        grid = (PLANE if self.name in ("v5e", "v6e") else SPACE).get(self.count)
        return grid and f"{self.name}:{grid}"

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

    The number counts chips, of v4 and v5p too.

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
        grids = PLANE if name in ("v5e", "v6e") else SPACE
        raise ValueError(
            f"TPUs of kind {name} come in grids of {', '.join(map(str, grids))} chips. "
            f"Received: target={text!r}."
        )
    return target


def chip_of(kind):
    """The name in `CHIPS` of a device that JAX calls `kind`, or None."""
    fitting = [name for name, chip in CHIPS.items() if kind.startswith(chip.kind)]
    return max(fitting, key=lambda name: len(CHIPS[name].kind)) if fitting else None
