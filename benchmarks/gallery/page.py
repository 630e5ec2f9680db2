"""The table of docs/gallery.md, from benchmarks/results/gallery.json."""

from artifex_keras.trust import read_json
from benchmarks.gallery.rows import DATA

__all__ = ["FILES", "HEAD", "command", "line", "recorded"]

FILES = {  # as a user may call them
    "mnist": "mnist.npz",
    "fashion": "fashion_mnist.npz",
    "cifar": "cifar10.npz",
    "shakespeare": "shakespeare.txt",
}
HEAD = (
    "| row | family | data | CPU s | wall s | likelihood | Fréchet | floor | precision | recall |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def recorded(path):
    """The results by the names of their rows."""
    return read_json(path)["rows"]


def command(name, row, gpu=False):
    """What trains a row, as a user types it."""
    return f"python -m benchmarks.gallery {name} --data {FILES[row.data]}" + " --gpu" * gpu


def line(name, result):
    """A row's line of the table."""
    seconds = result["seconds"]["training"]
    cells = [
        f"[{name}](#{name})",
        f"`{result['family']}`",
        DATA[result["data"]],
        f"{seconds['cpu']:.0f}",
        f"{seconds['wall']:.0f}",
        _likelihood(result.get("likelihood")),
        *_distances(result),
    ]
    return "| " + " | ".join(cells) + " |"


def _likelihood(found):
    if found is None:
        return ""
    value = f"{found['value']:.1f}" if "nats" in found["unit"] else f"{found['value']:.2f}"
    return f"{value} {found['unit']}"


def _distances(result):
    if "frechet" not in result:
        return [""] * 4
    return [
        f"{result['frechet']:.3g}",
        f"{result['floor']:.3g}",
        f"{result['precision']:.2f}",
        f"{result['recall']:.2f}",
    ]
