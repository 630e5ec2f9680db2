"""The style and colours of all pictures, and figures outside matplotlib's global state."""

from artifex_keras.atomic import atomic_file, user_path

INK = "#333333"
TRAINING, VALIDATION = "#1f5fa8", "#e07b16"
GREY = "#b8b8b8"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


class new_figure:
    """A context with a new figure of a size in inches, in our style, unknown to pyplot."""

    def __init__(self, size, title):
        self.size, self.title = size, title

    def __enter__(self):
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        self.style = rc_context(STYLE)
        self.style.__enter__()
        width, height = self.size
        figure = Figure(
            (width, height + (0.35 if self.title else 0)), layout="constrained", dpi=150
        )
        if self.title:
            figure.suptitle(self.title, fontsize=11)
        return figure

    def __exit__(self, *error):
        return self.style.__exit__(*error)


def save_figure(figure, path):
    """Writes the figure, creating folders. Returns the path."""
    path = user_path(path)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.1)
    return path
