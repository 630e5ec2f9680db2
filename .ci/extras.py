"""Resolves the wheel with each of its extras for a bare environment, and says what each adds.

    python .ci/extras.py build/dist

Nothing is installed: pip's dry run finds versions that agree, or fails.
"""

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path


def extras(wheel):
    """The names of a wheel's extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode()).get_all("Provides-Extra")


def resolved(python, requirement, report):
    """The packages, with versions, that `requirement` brings into the environment of `python`."""
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--dry-run", "--report", report, requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{requirement} has no versions that agree:\n{done.stderr}")
    installed = json.loads(report.read_text("utf-8"))["install"]
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in installed}


def main(folder):
    (wheel,) = Path(folder).glob("*.whl")
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python, report = Path(place) / "bin" / "python", Path(place) / "report.json"
        alone = resolved(python, str(wheel), report)
        print(f"without extras: {len(alone)} packages")
        for extra in extras(wheel):
            found = resolved(python, f"{wheel}[{extra}]", report)
            more = sorted(found.keys() - alone.keys())
            added = ", ".join(f"{package} {found[package]}" for package in more)
            print(f"{extra}: {len(more)} more packages: {added}", flush=True)
            for package, version in alone.items():
                if found.get(package) != version:
                    print(f"    {package} {found.get(package, 'is left out')}, alone {version}")


if __name__ == "__main__":
    main(*sys.argv[1:])
