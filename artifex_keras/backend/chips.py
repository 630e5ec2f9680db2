"""Peak figures of chips, as their makers state them."""

from typing import NamedTuple

from artifex_keras.backend import keras_internals

__all__ = ["CHIPS", "Chip", "chip_of", "precision"]


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


def chip_of(kind):
    """The name in `CHIPS` of a device that JAX calls `kind`, or None."""
    fitting = [name for name, chip in CHIPS.items() if kind.startswith(chip.kind)]
    return max(fitting, key=lambda name: len(CHIPS[name].kind)) if fitting else None


def precision(model):
    """The dtype that most of a model is computed in."""
    found = {layer.compute_dtype for layer in keras_internals.all_layers(model)}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in found), "float32")
