"""Where a run is, and which files in its folder may be read."""

from pathlib import Path

from artifex_keras.arguments import nearest
from artifex_keras.atomic import user_path
from artifex_keras.trust import FileError

__all__ = ["CONFIG", "file_to_write", "find_run", "own_files"]

CONFIG = "config.yaml"
USUAL = "runs"  # where the shell puts new runs
SKIPPED = ("checkpoints",)  # folders in which there is nothing to show
MOST = 10_000  # files of a folder that are looked at


def file_to_write(path, name):
    """`path` of a user as a path, if it is no folder; `name` is what a file there may be called."""
    path = user_path(path)
    if path.is_dir():
        raise ValueError(
            f"`path` (--output) must be a file. Received: the folder {str(path)!r}. Name a file in "
            f"it, such as {str(path / name)!r}."
        )
    return path


def find_run(folder):
    """`folder` as a path, if it is the folder of a run.

    Raises:
        ValueError: with the nearest names of runs, if it isn't.
    """
    path = user_path(folder)
    if (path / CONFIG).is_file():
        return path
    inside = sorted(str(each.parent) for each in path.glob(f"*/{CONFIG}"))[:5]
    hint = f" The runs in it: {', '.join(inside)}." if inside else _nearest_run(path)
    raise ValueError(f"{str(folder)!r} is not the folder of a run: no {CONFIG} in it.{hint}")


def _nearest_run(path):
    """What a message says of runs whose names are like that of `path`."""
    found = {}
    for parent in dict.fromkeys((path.parent, Path(USUAL))):
        for config in parent.glob(f"*/{CONFIG}"):
            found.setdefault(config.parent.name, str(config.parent))
    near = nearest(path.name, [name for name in found if found[name] != str(path)])
    for name, place in sorted(found.items(), key=lambda pair: -len(pair[0])):
        near = near.replace(repr(name), repr(place))
    return near


def own_files(folder):
    """The files in the folder of a run and in its folders, in order of their names.

    Raises:
        FileError: for a link that leads out of it: whoever sends the report would send that file.
    """
    root, found = folder.resolve(), []
    for path in sorted(folder.iterdir())[:MOST]:
        if path.name.startswith(".") or path.name in SKIPPED:
            continue
        _check_inside(path, root)
        if path.is_dir():
            inside = [each for each in sorted(path.iterdir())[:MOST] if each.is_file()]
            for each in inside:
                _check_inside(each, root)
            found += inside
        elif path.is_file():
            found.append(path)
    return found


def _check_inside(path, root):
    target = path.resolve()
    if not target.is_relative_to(root):
        raise FileError(
            f"{path.name!r} in the folder {str(root)!r} is a link to {str(target)!r}, outside of "
            "it. Put a copy of that file in its place, or delete the link."
        )
