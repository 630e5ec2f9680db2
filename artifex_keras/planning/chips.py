"""What there is to rent: peak figures as the makers state them, and the grids TPUs come in."""

import re
from typing import NamedTuple

from artifex_keras.arguments import lookup

__all__ = ["CHIPS", "Chip", "Target", "chip_of", "target_of"]

PLATFORMS = {"cpu": "cpu", "gpu": "gpu", "cuda": "gpu", "tpu": "tpu"}


class Chip(NamedTuple):
    """Peak figures of one device, which is a chip, or of a v7x half of one.

    Attributes:
        platform: "gpu" or "tpu".
        bfloat16, float32: multiplications and additions per second, in matrix products. A TPU
            multiplies float32 in bfloat16 as JAX asks it by default; a GPU's float32 is TF32.
        memory: bytes.
        bandwidth: bytes per second between the device and its memory.
        links: bytes per second that a device sends in a ring: for a TPU both ways along one axis
            of its grid, for a GPU one way over NVLink.
        island: devices that such links join.
        beyond: bytes per second that a device sends to other islands; None isn't known.
        kind: how JAX's name of the device begins.
        accelerator, counts: a TPU's type as its environment names it, and what one device counts
            for in it: of v4 and v5p cores are counted.
        devices: how many devices JAX shows for a chip.
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
    devices: int = 1

    def peak(self, dtype):
        """Multiplications and additions per second in "bfloat16", "float16" or "float32"."""
        return self.float32 if dtype == "float32" else self.bfloat16

    def sending(self, reach):
        """Bytes per second that a device sends in a ring over so many; None isn't known."""
        return self.links if reach <= self.island else self.beyond


GIB = 1 << 30
# Figures of TPUs are those of docs.cloud.google.com/tpu/docs/<chip>; `links` are the bytes per
# second and axis of "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus).
CHIPS = {
    # Between pods: nothing is published.
    "v4": Chip("tpu", 2.75e14, 2.75e14, 32 * GIB, 1.2e12, 9e10, 4096, None, "TPU v4", "v4", 2),
    # Between pods: 6.4 Tbit/s of a pod of 256 (.../docs/v6e, in the column of v5e).
    "v5e": Chip(
        *("tpu", 1.97e14, 1.97e14, 16 * GIB, 8.1e11, 9e10, 256, 3.125e9),
        *("TPU v5 lite", "v5litepod"),
    ),
    # Between pods: 50 Gbit/s a chip (.../docs/v5p).
    "v5p": Chip(
        *("tpu", 4.59e14, 4.59e14, 95 * GIB, 2.8e12, 1.8e11, 8960, 6.25e9),
        *("TPU v5", "v5p", 2),
    ),
    # Between pods: 25.6 Tbit/s of a pod of 256, 100 Gbit/s a chip (.../docs/v6e).
    "v6e": Chip(
        *("tpu", 9.2e14, 9.2e14, 32 * GIB, 1.6e12, 1.8e11, 256, 1.25e10),
        *("TPU v6 lite", "v6e"),
    ),
    # Ironwood (.../docs/tpu7x). A chip is two devices: 2,307 TFLOP/s, 192 GiB, 7,380 GB/s and
    # 100 Gbit/s between pods are those of the chip; its links are as fast as v5p's.
    "v7x": Chip(
        *("tpu", 1.1535e15, 1.1535e15, 96 * GIB, 3.69e12, 1.8e11, 18432, 6.25e9),
        *("TPU7x", "tpu7x", 1, 2),
    ),
    # NVIDIA's data sheets: dense figures, TF32 for float32; between hosts one network card of
    # 200 Gbit/s (DGX A100) or 400 Gbit/s (DGX H100, H200, B200) for each GPU.
    "a100": Chip("gpu", 3.12e14, 1.56e14, 80 * GIB, 2.0e12, 3e11, 8, 2.5e10, "NVIDIA A100"),
    "h100": Chip("gpu", 9.89e14, 4.95e14, 80 * GIB, 3.35e12, 4.5e11, 8, 5e10, "NVIDIA H100"),
    # H200 SXM: 141 GB, 4.8 TB/s, else as H100.
    "h200": Chip("gpu", 9.89e14, 4.95e14, 141 * 10**9, 4.8e12, 4.5e11, 8, 5e10, "NVIDIA H200"),
    # An eighth of a DGX B200: 18 PFLOP/s, 9 of TF32, 1,440 GB, 64 TB/s; NVLink 1.8 TB/s both ways.
    "b200": Chip("gpu", 2.25e15, 1.125e15, 180 * 10**9, 8e12, 9e11, 8, 5e10, "NVIDIA B200"),
}

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


def chip_of(kind):
    """The name in `CHIPS` of a device that JAX calls `kind`, or None."""
    fitting = [name for name, chip in CHIPS.items() if kind.startswith(chip.kind)]
    return max(fitting, key=lambda name: len(CHIPS[name].kind)) if fitting else None
