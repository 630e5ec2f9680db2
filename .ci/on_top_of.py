"""Lets an environment find what it lacks in another one: `its/python .ci/on_top_of.py .venv`.

Pip sees those packages too, and installs only what has to be another version.
"""

import site
import sys
from pathlib import Path

(packages,) = Path(sys.argv[1]).resolve().glob("lib/python*/site-packages")
own = Path(site.getsitepackages()[0])
# Of its own `.pth` files, such as that of an editable package, Python reads none without this.
(own / "base.pth").write_text(f"import site; site.addsitedir({str(packages)!r})\n")
