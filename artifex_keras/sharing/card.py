"""The model card of a run: a README.md with the front matter of the Hugging Face Hub."""

import os
import re

from artifex_keras.arguments import broken_rule, checked, file_path, optional, text
from artifex_keras.atomic import write_text
from artifex_keras.sharing.charts import shown_number
from artifex_keras.sharing.facts import (
    data_text,
    date_text,
    duration,
    evaluation_rows,
    flat_settings,
    plain_text,
)
from artifex_keras.sharing.places import file_to_write
from artifex_keras.sharing.record import CURVES, mapping, read_run
from artifex_keras.trust import dump_yaml

__all__ = ["write_card"]

NAME = "README.md"
TO_DO = "To be filled in"  # what a person still has to say, easy to search for
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&^])")  # to Markdown, and to HTML inside of it
FIRST = re.compile(r"^(\s*\d{0,9})([-+=.)])")  # to Markdown at the start of a line
NUMBER = re.compile(r"-?\d+[.]\d")
LINK = re.compile(r"(?<=:)//|(?<=www)\.", re.IGNORECASE)  # what turns a bare address into a link
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,60}")

# What models of a family are, and how they are sampled from; others are in the last row.
SAMPLE = "samples = model.sample(16, seed=0)\nprint(samples.shape)"
TOKENS = "rows = model.sample(4, seed=0)  # ids of tokens\nprint(rows)"
POLICY = "policy = model.policy  # ids of tokens in, logits out\nprint(policy.name)"
REWARD = (
    "rows = [[1, 2, 3]]  # ids of tokens; texts need `model.tokenizer`\nprint(model.reward(rows))"
)
FAMILIES = {
    "vae": ("a variational autoencoder", SAMPLE),
    "gan": ("a generative adversarial network", SAMPLE),
    "diffusion": ("a diffusion model", SAMPLE),
    "flow": ("a normalizing flow", SAMPLE),
    "flow-matching": ("a flow matching model", SAMPLE),
    "energy": ("an energy-based model", SAMPLE),
    "autoregressive": ("an autoregressive model of tokens", TOKENS),
    "pixel-autoregressive": ("an autoregressive model of pixels", SAMPLE),
    "grpo": ("a language model fine-tuned by GRPO", POLICY),
    "ppo": ("a language model fine-tuned by PPO", POLICY),
    "reinforce": ("a language model fine-tuned by REINFORCE", POLICY),
    "rloo": ("a language model fine-tuned by RLOO", POLICY),
    "sft": ("a language model fine-tuned on examples", POLICY),
    "distillation": ("a language model distilled from a larger one", POLICY),
    "reward": ("a reward model of texts", REWARD),
    "dpo": ("a language model fine-tuned by DPO", POLICY),
    "kto": ("a language model fine-tuned by KTO", POLICY),
    None: ("a generative model", "model.summary()"),
}


def _repository(name, value):
    plain = text(name, value)
    if not REPOSITORY.fullmatch(plain):
        raise broken_rule(name, value, "USER/NAME, as on the Hugging Face Hub")
    return plain


def _licence(name, value):
    plain = text(name, value)
    if not LICENCE.fullmatch(plain):
        raise broken_rule(name, value, "the short name of a licence, such as apache-2.0")
    return plain.lower()


@checked(run=file_path, path=optional(file_path), license=optional(_licence),
         repository=optional(_repository))  # fmt: skip
def write_card(run, path=None, *, license=None, repository=None):
    """Writes the model card of a run: data, settings, curves, metrics, versions, and code that
    loads the model and samples from it.

    What only a person knows (the licence, what the model is for) is marked by `To be filled in`.

    Args:
        run: the folder of a run that `artifex-keras train` has filled.
        path: the file to write; by default README.md in that folder, where the Hub looks for it.
            Pictures are named relative to it.
        license: the short name of the licence of the weights, such as "apache-2.0" or "mit".
        repository: "user/name", where the model will be on the Hub.

    Returns:
        The path.

    Raises:
        ValueError: where there is no run, with the nearest name, and where there is a file at
            `path` already.
        FileError: for a config that can't be read, and a link out of the run's folder.

    Example:

        ```python
        from pathlib import Path
        import artifex_keras as ak

        Path("run").mkdir()
        Path("run/config.yaml").write_text("family: vae\\ndata: {source: digits}\\n")
        path = ak.sharing.write_card("run", license="mit", repository="ada/digits")
        assert path.read_text().startswith("---\\nlibrary_name: keras\\nlicense: mit\\n")
        ```
    """
    record = read_run(run)
    path = record.folder / NAME if path is None else file_to_write(path, NAME)
    if path.exists():
        raise ValueError(
            f"There is a file {str(path)!r} already, which may have been edited. Delete it, or "
            "choose another place for the card (--output FILE, `path`)."
        )
    write_text(path, card_text(record, path, license=license, repository=repository))
    return path


def card_text(run, path, *, license=None, repository=None):
    """The card of a `RunRecord` as text; pictures are named relative to `path`."""
    what, _ = _family(run)
    name = repository.rpartition("/")[2] if repository else run.name
    sections = [
        f"# {escaped(name)}",
        f"This is {what} that was trained on {escaped(run.data)} with artifex\\_keras, in Keras 3. "
        "It runs on JAX, TensorFlow and PyTorch.",
        *_samples(run, path),
        "## How to use it",
        _usage(run, repository),
        "## Data",
        _data(run),
        "## Training",
        *_training(run, path),
        "## Results",
        *_results(run),
        "## Limits",
        _limits(run),
        "## Versions",
        _versions(run),
    ]
    return front_matter(run, license) + "\n\n".join(filter(None, sections)) + "\n"


def front_matter(run, license):
    """The YAML that the Hub reads."""
    tags = ["keras", "artifex-keras", run.family, "generative"]
    values = {
        "library_name": "keras",
        **({"license": license} if license else {}),
        "tags": [tag for tag in tags if LICENCE.fullmatch(tag)],
    }
    missing = "" if license else f"# {TO_DO}: license: apache-2.0\n"
    return f"---\n{dump_yaml(values)}{missing}---\n\n"


def escaped(value):
    """A text that Markdown shows as it is, in one line, in a table or at the start of a line."""
    line = "".join(c if c.isprintable() else " " for c in str(value))
    line = LINK.sub(lambda found: f"\\{found[0]}", SPECIAL.sub(r"\\\1", line))
    line = line.replace(r"\<", "&lt;").replace(r"\>", "&gt;").replace(r"\&", "&amp;")
    return FIRST.sub(r"\1\\\2", line) if not NUMBER.match(line) else line


def fenced(value, language=""):
    """A text as a block of code, whatever backticks are in it."""
    value = "".join(c if c == "\n" or c.isprintable() else "\ufffd" for c in str(value))
    longest = max(map(len, re.findall(r"`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{value}\n{fence}"


def _family(run):
    return FAMILIES.get(run.family, FAMILIES[None])


def _picture(run, path, name, text):
    """A picture of the run, if it is there."""
    if not (run.folder / name).is_file():
        return None
    place = os.path.relpath(run.folder / name, path.parent).replace(os.sep, "/")
    return f"![{text}](<{place}>)" if re.fullmatch(r"[\w./ -]+", place) else None


def _samples(run, path):
    yield _picture(run, path, "samples.png", "Samples of the model")
    text = next((text for name, text in run.texts.items() if name.startswith("samples")), None)
    if text:
        yield fenced(text[:1000].rstrip())


def _usage(run, repository):
    """Code that loads and samples."""
    place = '"model.keras"'
    load = ""
    if repository:
        load = "from huggingface_hub import hf_hub_download\n"
        place = f'hf_hub_download("{repository}", "model.keras")'
    code = (
        f"{load}import artifex_keras as ak  # before the file is read: it knows the classes\n"
        f"import keras\n\nmodel = keras.saving.load_model({place})\n{_family(run)[1]}"
    )
    return f"{fenced('pip install artifex-keras', 'shell')}\n\n{fenced(code, 'python')}"


def _data(run):
    said = escaped(data_text(run))
    return f"{said}.\n\n{TO_DO}: where the data come from, their licence, and who is in them."


def _training(run, path):
    session = run.sessions[0] if run.sessions else {}
    facts = [
        f"{len(run.epochs)} epochs" if len(run.epochs) else None,
        f"{weights} weights" if (weights := plain_text(run.about.get("weights"))) else None,
        duration(run.seconds) if run.seconds is not None else None,
        f"on {device}" if (device := plain_text(run.about.get("device"))) else None,
        f"begun {date_text(session['began'])}" if session.get("began") else None,
    ]
    if any(facts):
        yield escaped(", ".join(filter(None, facts))) + "."
    if run.command:
        yield fenced(run.command, "shell")
    settings = {key: value for key, value in flat_settings(run).items() if key != "data.source"}
    rows = [[_code(key), _code(_name(value))] for key, value in settings.items()]
    yield _table(["setting", "value"], rows)
    yield _picture(run, path, CURVES, "Curves of training and validation")
    yield from (f"- {escaped(text)}" for text in run.missing if not text.startswith("There are no"))


def _name(value):
    """A setting as everybody may see it: of a path only the name of the file."""
    return re.sub(r"(?:~|[A-Za-z]:)?[/\\](?:[^/\\\s\",]+[/\\])+", ".../", value)


def _code(value):
    """A text of a table as code, or plain where it holds what ends code or a cell."""
    line = "".join(c if c.isprintable() else " " for c in value).strip()
    return f"`{line}`" if line and not set(line) & set("`|\\") else escaped(line)


def _results(run):
    rows = [
        [escaped(name.replace("_", " ")), shown_number(run.last(name)),
         shown_number(run.last(f"val_{name}"))]
        for name in run.metrics()
    ]  # fmt: skip
    yield _table(["metric, last epoch", "training", "validation"], rows) if rows else None
    for about, values in evaluation_rows(run):
        yield f"{escaped(about)}:"
        yield _table(["metric", "value"], [[escaped(name), escaped(v)] for name, v in values])
    if not run.evaluation:
        yield "No metrics of samples were computed (`artifex-keras evaluate RUN --metrics`)."


def _limits(run):
    return (
        f"The model has learned {escaped(run.data)} and nothing else; its samples resemble those "
        "data with their gaps and biases, and may repeat single examples.\n\n"
        f"{TO_DO}: what the model is for, and what it should not be used for."
    )


def _versions(run):
    versions = mapping(run.about.get("versions"))
    rows = [[escaped(name), escaped(plain_text(v) or "–")] for name, v in versions.items()]
    return _table(["package", "version"], rows) if rows else "They are not known."


def _table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
