"""Trains rows of the gallery on your own files, and measures them.

    python -m benchmarks.gallery                                   lists the rows
    python -m benchmarks.gallery vae-mnist --data mnist.npz
    python -m benchmarks.gallery vae-mnist gan-mnist --data mnist.npz --gpu

Each row leaves a model, its numbers and a picture in a folder, `gallery` by default.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from artifex_keras.atomic import write_text  # noqa: E402
from artifex_keras.trust import read_json  # noqa: E402
from benchmarks.__main__ import RESULTS, surroundings  # noqa: E402
from benchmarks.gallery.page import HEAD, command, line, recorded  # noqa: E402
from benchmarks.gallery.rows import ROWS  # noqa: E402
from benchmarks.gallery.running import run  # noqa: E402

PICTURES = Path(__file__).parents[2] / "docs" / "gallery"
RECORD = RESULTS / "gallery.json"


def main():
    options = arguments()
    for name in options.rows:
        print(f"\n{name}", flush=True)
        found = run(
            name, ROWS[name], options.data, options.out, gpu=options.gpu, steps=options.steps
        )
        print(f"{HEAD}\n{line(name, found)}", flush=True)
        if options.record:
            record(name, found, Path(options.out))
    if options.table:
        print(HEAD, *[line(name, found) for name, found in recorded(RECORD).items()], sep="\n")
    elif not options.rows:
        print("The rows, and how each is trained:\n")
        print(*[f"  {command(name, row)}" for name, row in ROWS.items()], sep="\n")


def arguments():
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gallery",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names of rows, of one data set")
    parser.add_argument("--data", help="the .npz file with x_train, y_train, x_test, y_test")
    parser.add_argument("--out", default="gallery", help="the folder for what comes out")
    parser.add_argument("--gpu", action="store_true", help="the larger setting")
    parser.add_argument("--steps", type=int, help="so many training steps instead")
    parser.add_argument("--table", action="store_true", help="print the recorded table")
    parser.add_argument(
        "--record", action="store_true", help="keep the results for docs/gallery.md"
    )
    options = parser.parse_args()
    for name in options.rows:
        if name not in ROWS:
            parser.error(f"There is no row {name!r}. The rows are {', '.join(ROWS)}.")
    if options.rows and options.data is None:
        parser.error(f"A row needs your file: {command(options.rows[0], ROWS[options.rows[0]])}")
    return options


def record(name, found, folder):
    """Keeps a row's numbers in benchmarks/results and its picture in docs/gallery."""
    kept = read_json(RECORD) if RECORD.exists() else {"rows": {}}
    rows = {**kept["rows"], name: found}
    ordered = {each: rows[each] for each in ROWS if each in rows}
    write_text(RECORD, json.dumps({**surroundings(), "rows": ordered}, indent=2) + "\n")
    if (folder / f"{name}.png").exists():
        PICTURES.mkdir(exist_ok=True)
        shutil.copy(folder / f"{name}.png", PICTURES / f"{name}.png")


if __name__ == "__main__":
    main()
