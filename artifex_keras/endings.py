"""Which files hold data, by their endings: the one table that `--help`, readers and messages read.

It imports nothing, so that the shell can show it at once.
"""

__all__ = ["ARRAYS", "FILES", "IMAGES", "PACKED", "PROMPTS", "TABLES", "TEXTS", "listed"]

ARRAYS = (".npz", ".npy")
TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
TEXTS = (".txt", ".md")
PROMPTS = (".jsonl", ".csv", ".tsv", ".parquet", ".txt")  # rows of prompts, answers, labels
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")

PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z")

FILES = {"arrays": ARRAYS, "a table": TABLES, "a text": TEXTS}  # of data for the families


def listed(files=FILES):
    """The endings with what they hold, for a message or a help text."""
    return ", ".join(f"{' '.join(endings)} ({what})" for what, endings in files.items())
