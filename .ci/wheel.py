"""Builds the sdist and the wheel into a folder, and checks what is in them.

    python .ci/wheel.py build/dist

The wheel that is left there is the one made from the sdist; it equals the one made from the tree.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "artifex_keras").rglob("*")
    if path.suffix in (".py", ".typed")
)
# What an sdist has beside the package; hatchling adds the last two.
BESIDE = ["CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"]
BESIDE += [".gitignore", "PKG-INFO"]


def build(source, folder, *kinds):
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, *kinds, source]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def digests(wheel):
    """The digest of each file in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def check_sdist(path):
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {*PACKAGE, *BESIDE}, sorted(names ^ {*PACKAGE, *BESIDE})


def check_wheel(path):
    """Exactly the package, its licence, and the metadata of one version."""
    names = digests(path)
    info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
    assert {name for name in names if not name.startswith(info)} == set(PACKAGE)
    assert "artifex_keras/py.typed" in names and f"{info}/licenses/LICENSE" in names
    with zipfile.ZipFile(path) as archive:
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    version = metadata["Version"]
    assert f'__version__ = "{version}"' in (ROOT / "artifex_keras/__init__.py").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert path.name == f"artifex_keras-{version}-py3-none-any.whl"
    return version


def main(folder):
    shutil.rmtree(folder, ignore_errors=True)
    build(ROOT, folder)  # the sdist, and from it the wheel
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    check_sdist(sdist)
    version = check_wheel(wheel)
    with tempfile.TemporaryDirectory() as other:
        build(ROOT, Path(other), "--wheel")
        assert digests(next(Path(other).glob("*.whl"))) == digests(wheel)
    print(f"{sdist.name}, {wheel.name}: version {version}, {len(PACKAGE)} files of the package")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
