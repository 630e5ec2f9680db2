"""Which changes of the code ask for a recorded test or notebook again, and which don't."""

import importlib.util
import json
import shutil

import closure
import pytest

ROOT = closure.ROOT

# A package like ours in small: names in lists, a name put in from above, an import in a function.
TREE = {
    "artifex_keras/__init__.py": """
        from artifex_keras.default_backend import choose
        choose()
        from artifex_keras import models, tools
        from artifex_keras.models import *
        models.given = tools.given
        """,
    "artifex_keras/default_backend.py": "def choose(): ...",
    "artifex_keras/backend/__init__.py": "",
    "artifex_keras/backend/jax/step.py": "STEP = 1",
    "artifex_keras/backend/torch/step.py": "STEP = 1",
    "artifex_keras/models/__init__.py": """
        from artifex_keras.models.one import One
        from artifex_keras.models.two import Two as Second
        __all__ = ["One", "Second"]
        def made_here(): ...
        """,
    "artifex_keras/models/one.py": """
        class One:
            def fit(self):
                from artifex_keras.tools.late import late
                return late()
        """,
    "artifex_keras/models/two.py": "from .shared import base\nclass Two(base): ...",
    "artifex_keras/models/shared.py": "class base: ...",
    "artifex_keras/tools/__init__.py": "from artifex_keras.tools.given import given",
    "artifex_keras/tools/given.py": "def given(): ...",
    "artifex_keras/tools/late.py": "def late(): ...",
    "artifex_keras/tools/plugins.py": "import importlib\ndef load(n): importlib.import_module(n)",
    "artifex_keras/cli.py": "from artifex_keras import tools\ntools.late",
    "tests/conftest.py": """
        import pytest
        def pytest_addoption(parser): ...
        @pytest.fixture(autouse=True)
        def seeded(): ...
        @pytest.fixture
        def asked(inner): ...
        @pytest.fixture
        def inner(): ...
        @pytest.fixture
        def marked(): ...
        @pytest.fixture
        def other(): ...
        """,
    "tests/toys.py": "from artifex_keras.models import Second",
    "tests/member.py": "from artifex_keras.tools.late import late",
    "tests/test_it.py": """
        from artifex_keras.models import One
        from toys import Second
        SIZES = (1, 2)
        def helper(): return One
        @pytest.mark.usefixtures("marked")
        def test_one(): helper()
        def test_second(asked): Second(SIZES)
        """,
}


def plant(folder, files):
    """`files`, {name: text}, in `folder`; a notebook's text is that of its one cell."""
    for name, text in files.items():
        text = "\n".join(line.removeprefix(" " * 8) for line in text.splitlines())
        if name.endswith(".ipynb"):
            text = json.dumps({"cells": [{"cell_type": "code", "source": [text]}]})
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def closure_of(folder):
    """`closure` as it reads the tree in `folder`, with nothing read yet."""
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copy(closure.__file__, folder / "tests")
    spec = importlib.util.spec_from_file_location("its_closure", folder / "tests" / "closure.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reached(folder, source):
    """The files of ours that a program leads to, but for those that always count."""
    plant(folder, {**TREE, "notebooks/it.ipynb": source})
    its = closure_of(folder)
    files = [file for file, _ in its.parts(folder / "notebooks" / "it.ipynb")]
    names = [f.relative_to(folder / "artifex_keras").as_posix() for f in files[:-1]]
    assert {"__init__.py", "default_backend.py", "backend/jax/step.py"} <= set(names)
    return {name for name in names if "__init__" not in name and "backend" not in name}


ALL = {"cli.py", "models/one.py", "models/shared.py", "models/two.py"}
ALL |= {f"tools/{name}.py" for name in ("given", "late", "plugins")}
ONE, SECOND = {"models/one.py", "tools/late.py"}, {"models/two.py", "models/shared.py"}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("import artifex_keras as ak\nak.One()", ONE),
        ("import artifex_keras\nartifex_keras.models.Second().fit()", SECOND),
        ("from artifex_keras import One", ONE),
        ("from artifex_keras import models\nmodels.Second()", SECOND),
        ("from artifex_keras.models import *", ONE | SECOND),
        ("import artifex_keras.models.two", SECOND),
        ("import artifex_keras as ak\nak.models.given()", {"tools/given.py"}),
        ("def f():\n    from artifex_keras.tools import late", {"tools/late.py"}),
        ("import artifex_keras as ak\nak.__version__", set()),
        ("patch('artifex_keras.tools.given.given')", {"tools/given.py"}),
        ("run('-c', 'import artifex_keras as ak\\nak.Second()')", SECOND),
        ("%pip install artifex-keras", set()),
        ("%%writefile it.py\nfrom artifex_keras import One", ONE),
        # What can't be followed.
        ("import artifex_keras as ak\ngetattr(ak, name)()", ALL),
        ("from artifex_keras import models\nvars(models)", ONE | SECOND),
        ("import artifex_keras as ak\nak.forgotten()", ALL),
        ("from artifex_keras import forgotten", ALL),
        ("from artifex_keras.tools.plugins import load", ALL),
        ("import importlib\nimportlib.import_module(f'artifex_keras.{name}')", ALL),
        ("run(f'from artifex_keras import {name}; { {} }')", ALL),
        ("!artifex-keras train one", ALL),
        ("run(['python', '-m', 'artifex_keras', 'train'])", ALL),
        ("%%bash\ncd runs; artifex-keras train one", ALL),
    ],
)
def test_what_a_program_leads_to(tmp_path, source, files):
    assert reached(tmp_path, source) == files


def test_what_an_init_defines_is_followed_with_all_of_it(tmp_path):
    assert reached(tmp_path, "from artifex_keras.models import made_here") == ONE | SECOND


def changes(folder, edits, digests):
    """Which of `digests`, {name: (file, test)}, change by each of `edits`, of (file, old, new)."""

    def taken():
        its = closure_of(folder)
        return {name: its.digest(folder / file, test) for name, (file, test) in digests.items()}

    before, found = taken(), []
    for edit in edits:
        kept = {file: (folder / file).read_text() for file, _, _ in edit}
        for file, old, new in edit:
            text = (folder / file).read_text()
            assert old in text
            (folder / file).write_text(text.replace(old, new, 1))
        after = taken()
        found.append({name for name in digests if after[name] != before[name]})
        for file, text in kept.items():
            (folder / file).write_text(text)
    return found


def test_of_a_file_of_tests_what_one_test_uses_counts(tmp_path):
    plant(tmp_path, TREE)
    edits = [
        ("tests/test_it.py", "return One", "return One()"),
        ("tests/test_it.py", "(1, 2)", "(1, 3)"),
        ("tests/test_it.py", "SIZES)", "SIZES, 2)"),
        ("tests/toys.py", "import Second", "import One, Second"),
        ("artifex_keras/models/shared.py", "base", "base(list)"),
        ("tests/conftest.py", "seeded(): ...", "seeded(): return 1"),
        ("tests/conftest.py", "marked(): ...", "marked(): return 1"),
        ("tests/conftest.py", "asked(inner): ...", "asked(inner): return 1"),
        ("tests/conftest.py", "inner(): ...", "inner(): return 1"),
        ("tests/conftest.py", "other(): ...", "other(): return 1"),
        ("tests/conftest.py", "parser): ...", "parser): return 1"),
        ("artifex_keras/backend/jax/step.py", "1", "2"),
        ("artifex_keras/backend/torch/step.py", "1", "2"),
    ]
    tests = {name: ("tests/test_it.py", f"test_{name}") for name in ("one", "second")}
    one, second, no = {"one"}, {"second"}, set()
    fixtures = [one | second, one, second, second, no, no]
    expected = [one, second, second, second, second, *fixtures, one | second, no]
    assert changes(tmp_path, [[edit] for edit in edits], tests) == expected


def test_scripts_and_data_beside_a_test_count(tmp_path):
    run = "def test_run(): run(HERE / 'member.py', HERE / 'golden.json')"
    plant(tmp_path, {**TREE, "tests/test_run.py": run, "tests/golden.json": "[1, 2]"})
    edits = [
        ("artifex_keras/tools/late.py", "late", "later"),
        ("tests/member.py", "late", "given"),
        ("tests/golden.json", "2", "3"),
    ]
    digests = {"run": ("tests/test_run.py", "test_run")}
    assert changes(tmp_path, [[edit] for edit in edits], digests) == [{"run"}] * 3


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_the_version_of_the_backend_counts(tmp_path, monkeypatch, backend):
    plant(tmp_path, TREE)
    module, found = closure_of(tmp_path), set()
    monkeypatch.setattr(module, "BACKEND", backend)
    for number in "12":
        versions = {"keras": "3", "jax": "0", backend: number}
        monkeypatch.setattr(module.importlib.metadata, "version", versions.__getitem__)
        found.add(module.digest.__wrapped__(tmp_path / "tests" / "test_it.py", "test_one"))
    assert len(found) == 2


def test_our_own_notebooks_follow_their_families():
    assert_a_gans(ROOT / "notebooks" / "02_gan.ipynb")


def test_our_own_learning_runs_follow_their_families():
    """The fixtures that run with every test must not lead to all of the package."""
    assert_a_gans(ROOT / "tests/models/test_gan.py", "test_a_gan_with_r1_finds_all_eight_modes")


def assert_a_gans(path, test=None):
    files = {file.relative_to(ROOT).as_posix() for file, _ in closure.parts(path, test)}
    inside = {"models/gan/model", "models/base", "objectives/adversarial", "networks/mlp"}
    outside = {"models/vae/model", "rl/dpo", "trainers/trainer", "planning/plan", "cli"}
    assert {f"artifex_keras/{name}.py" for name in inside} <= files
    assert not {f"artifex_keras/{name}.py" for name in outside} & files


def test_our_own_code_counts_without_comments_and_lists(tmp_path):
    """On a copy of the package as it is."""
    for name in ("artifex_keras", "notebooks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc"))
    model = ("artifex_keras/models/gan/model.py", "import keras", "import keras\nMORE = 1")
    edits = [
        ("artifex_keras/models/__init__.py", '"GAN",', '"GAN", "Batch",'),
        ("artifex_keras/models/gan/model.py", '"""', '"""Another sentence. '),
        ("artifex_keras/models/gan/model.py", "class GAN(", "# A comment.\n\n\nclass GAN("),
        ("artifex_keras/rl/dpo.py", "import keras", "import keras\nMORE = 1"),
    ]
    gan = {"gan": ("notebooks/02_gan.ipynb", None)}
    assert changes(tmp_path, [[model], edits], gan) == [{"gan"}, set()]
