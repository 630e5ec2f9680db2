"""What reads a file is in `trust/`, or on this list with a reason: found in the source, not listed.

A module that is added later and reads on its own is found too.
"""

import ast
from pathlib import Path

import artifex_keras

PACKAGE = Path(artifex_keras.__file__).parent
# As they are called: by a module, as a method of anything, or bare.
READERS = {
    *("open", "io.open", "Image.open", "wave.open", "gzip.open", "bz2.open", "lzma.open"),
    *(f"{name}.load" for name in ("json", "yaml", "np", "numpy", "pickle", "marshal", "torch")),
    *("json.loads", "pickle.loads", "marshal.loads", "yaml.safe_load", "saving.load_model"),
    *(".read_text", ".read_bytes", ".memmap", ".fromfile", ".genfromtxt", ".loadtxt", ".load_file"),
    *(".ZipFile", ".TarFile", ".ParquetFile", ".read_table", ".read_csv", ".read_parquet"),
    *("h5py.File", ".from_file", ".FromString", ".unpack_archive", ".safe_open"),
    *("exec", "eval", "__import__", ".spec_from_file_location", ".run_path"),
}
OURS = "what this process or its child has just written"
ALLOWED = {
    "backend/lowering/process.py": OURS,
    "backend/jax/lowering.py": OURS,
    "backend/tensorflow/profile.py": OURS,
    "backend/operations.py": OURS,
    "backend/messages.py": "a message of a process that knows the secret",
    "callbacks/checkpoint/orbax_files.py": "text with a checksum, which `kept.py` checks",
    "config/text.py": "JSON that it has just made",
    "datasets/columns.py": "Parquet, inside of `reading`",
    "datasets/tokenizers.py": "other libraries, inside of `reading`",
    "distributed/launcher.py": OURS,
    "default_backend.py": "the user's own settings of Keras, before Keras is there",
    "folder_lock.py": "the owner of a lock, of which only plain values are shown",
    "remote_lock.py": "the owner of a lock, and what the system says of processes",
    "tracking/files.py": "the rows of a log, in front of which `Guarded` stands",
    "tracking/tensorboard.py": "a picture that `open_image` has opened",
}


def calls(path):
    """The lines of a file that call a reader."""
    text = path.read_text()
    if not any(f"{name}(" in text for name in READERS):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            words = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if READERS & set(names(node.func)) and not writes(words):
                yield node.lineno


def names(function):
    if isinstance(function, ast.Name):
        return [function.id]
    if not isinstance(function, ast.Attribute):
        return []
    owner = getattr(function.value, "attr", getattr(function.value, "id", ""))
    return [f".{function.attr}", f"{owner}.{function.attr}"]


def writes(words):
    return any(isinstance(word, str) and set(word) & set("wax") and len(word) < 4 for word in words)


def test_whoever_reads_a_file_does_it_by_trust():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith("trust/") and (lines := list(calls(path))):
            found[name] = lines
    assert {name: lines for name, lines in found.items() if name not in ALLOWED} == {}
    assert ALLOWED.keys() <= found.keys(), "these read nothing any more: take them off"
