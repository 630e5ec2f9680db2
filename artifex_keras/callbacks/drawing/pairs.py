"""Images beside their reconstructions or completions."""

from artifex_keras import pictures
from artifex_keras.callbacks.drawing.arrays import to_numpy
from artifex_keras.callbacks.drawing.kind import Kind

__all__ = ["COMPLETIONS", "RECONSTRUCTIONS"]

PAIRS = 20  # at most


def _pairs(view, rebuild):
    """Examples and their images under the model, `(originals, rebuilt)`."""
    count = min(view.num_samples, PAIRS)
    originals = view.subset(count)
    return originals, to_numpy(rebuild(originals, *view.given(count)))


def _draw_pairs(labels):
    def draw(view, pair, path, title):
        originals, rebuilt = map(view.images, pair)
        rows = -(-len(originals) // 10)
        return pictures.reconstructions(
            originals,
            rebuilt,
            path,
            title=title,
            columns=-(-len(originals) // rows),
            limits=view.limits(originals),
            labels=labels,
        )

    return draw


def _complete(images, view):
    return view.model.complete(images, view.shape[0] // 2, seed=view.seed)


RECONSTRUCTIONS = Kind(
    title="Reconstructions",
    needs="`reconstruct(x)`, and images as data",
    applies=lambda view: view.has("reconstruct") and view.x is not None and view.layout == "images",
    content=lambda view: _pairs(view, view.model.reconstruct),
    draw=_draw_pairs(("original", "rebuilt")),
)

COMPLETIONS = Kind(
    title="Upper halves, completed",
    needs="`complete(x, rows, seed=...)`, and images as data",
    applies=lambda view: view.has("complete") and view.x is not None and view.layout == "images",
    content=lambda view: _pairs(view, lambda images: _complete(images, view)),
    draw=_draw_pairs(("original", "completed")),
)
