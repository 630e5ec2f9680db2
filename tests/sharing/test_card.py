"""Model cards: the front matter, what they say, and that nothing in a run becomes markup."""

import re

import pytest
from command import shell
from sharing.runs import ABOUT, write_run

from artifex_keras.sharing import write_card
from artifex_keras.sharing.card import escaped, fenced
from artifex_keras.trust import parse_yaml

CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def front_matter(text):
    assert text.startswith("---\n")
    return parse_yaml(text.split("---\n")[1])


def test_a_card_says_what_the_run_knows(folder):
    run = write_run(
        folder / "vae-1", config="model: {beta: 4.0}\n", pictures=("samples.png", "loss.png")
    )
    text = write_card(run, license="Apache-2.0", repository="ada/digits").read_text()
    assert front_matter(text) == {
        "library_name": "keras",
        "license": "apache-2.0",
        "tags": ["keras", "artifex-keras", "vae", "generative"],
    }
    for part in ("# digits\n", "a variational autoencoder that was trained on digits",
                 'hf_hub_download("ada/digits", "model.keras")', "| `model.beta` | `4.0` |",
                 "![Curves of training and validation](<loss.png>)", "| loss | 2.125 | 5 |",
                 "![Samples of the model](<samples.png>)", "2 min 5 s", "| jax | 0.10.2 |",
                 "```shell\nartifex-keras train vae --data digits\n```", 
                 "1,234 weights"):  # fmt: skip
        assert part in text, part


def test_what_only_a_person_knows_is_marked(folder):
    text = write_card(write_run(folder / "run")).read_text()
    assert (
        "license" not in front_matter(text) and "# To be filled in: license: apache-2.0\n" in text
    )
    assert text.count("To be filled in") == 3


def test_a_card_is_never_written_over(folder, capsys):
    run = write_run(folder / "run")
    assert shell("card", run, "--license", "mit") == 0
    assert capsys.readouterr().out.strip() == str(run / "README.md")
    assert shell("card", run) == 2
    assert "There is a file" in capsys.readouterr().err
    assert shell("card", run, "--output", folder / "other.md") == 0
    assert "(<run/samples.png>)" in (folder / "other.md").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"license": "my own: [x]"}, "short name of a licence"), ({"repository": "ada"}, "USER/NAME"),
     ({"repository": 'a/b")'}, "USER/NAME")],
)  # fmt: skip
def test_wrong_options_are_refused(folder, options, said):
    with pytest.raises(ValueError, match=said):
        write_card(write_run(folder / "run"), **options)


def test_text_of_a_stranger_becomes_no_markup(folder):
    evil = "</td>`|<script>[x](javascript:y) ![z](http://h/i.png)\n# head\n---"
    about = {**ABOUT, "data": evil, "device": evil, "versions": {evil: evil},
             "sessions": [{"command": f"```\n{evil}", "began": evil}]}  # fmt: skip
    quoted = evil.replace("\n", "\\n")
    run = write_run(folder / "run", about=about, config=f'model: {{"{quoted}": "{quoted}"}}\n')
    text = write_card(run).read_text()
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"\\.", "", outside))  # neither escapes nor code
    assert "<script" not in outside and "](" not in outside.replace("](<samples.png>)", "")
    assert (
        "http://" not in outside
        and "\n# head" not in outside
        and "<" not in outside.replace("(<samples.png>)", "")
    )
    assert front_matter(text)["library_name"] == "keras"


def test_the_paths_of_a_machine_stay_on_it(folder):
    config = "network: {from: /home/ada/secret/model.keras}\nmodel: {reward: '~/a/b/reward.py:f'}\n"
    text = write_card(write_run(folder / "run", config=config)).read_text()
    assert "ada" not in text and ".../model.keras" in text and ".../reward.py:f" in text


@pytest.mark.parametrize(
    ("text", "markdown"),
    [("1. a", r"1\. a"), ("- b", r"\- b"), ("-30.4", "-30.4"), ("<b>", "&lt;b&gt;"),
     ("a|b", r"a\|b"), ("a\n# b", r"a \# b"), ("http://x", r"http:\//x"), ("a_b*c", r"a\_b\*c"),
     ("&lt;", "&amp;lt;")],
)  # fmt: skip
def test_markdown_shows_a_text_as_it_is(text, markdown):
    assert escaped(text) == markdown


def test_a_fence_is_longer_than_what_is_in_it():
    assert fenced("a\n```\nb", "python") == "````python\na\n```\nb\n````"
