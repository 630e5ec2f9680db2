"""What a user installs: one version, what the classifiers promise, the legs of the workflow."""

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import artifex_keras

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "artifex_keras").rglob("*.py"))


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_one_version_everywhere():
    """`pyproject.toml` reads it from the package; what is cited names the same."""
    assert "version" in project()["project"]["dynamic"]
    assert project()["tool"]["hatch"]["version"]["path"] == "artifex_keras/__init__.py"
    assert importlib.metadata.version("artifex-keras") == artifex_keras.__version__
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(cited["version"]) == artifex_keras.__version__
    assert cited["repository-code"] == project()["project"]["urls"]["Repository"]


def test_the_package_says_that_it_is_annotated():
    assert (ROOT / "artifex_keras" / "py.typed").exists()


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_sources_are_in_the_grammar_of_each_python(minor):
    assert f"Programming Language :: Python :: 3.{minor}" in project()["project"]["classifiers"]
    for path in SOURCES:
        ast.parse(path.read_text("utf-8"), path.name, feature_version=(3, minor))


def test_the_workflow_runs_targets_of_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    matrix = workflow["jobs"]["python"]["strategy"]["matrix"]
    legs = {*matrix["leg"], *(row["leg"] for row in matrix["include"])}
    targets = set(re.findall(r"^([a-z -]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert legs <= {name for line in targets for name in line.split()}
    # Long learning runs, further backends' examples and the newest Keras are not for every push.
    run = set(re.findall(r"^leg (\S+)", (ROOT / ".ci/run").read_text("utf-8"), re.M))
    rest = {"install", "environments", "demo", "slow", "examples-tf", "examples-torch"}
    assert run - legs == rest
