"""Reports of runs: what they show, what they say is missing, and that nothing in them acts."""

import base64
import html.parser
import json
import re

import numpy as np
import pytest
from command import shell
from sharing.runs import ABOUT, EVALUATION, write_run

from artifex_keras.sharing import read_run, write_report
from artifex_keras.sharing.charts import Curve, chart, shown_number
from artifex_keras.sharing.facts import duration
from artifex_keras.trust import FileError

EVIL = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Tags(html.parser.HTMLParser):
    """The elements of a page, and its texts by element."""

    def __init__(self, text):
        super().__init__()
        self.found, self.attributes, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def report(*runs):
    return write_report([*map(str, runs)], "report.html").read_text()


def test_a_report_shows_what_the_run_has(folder):
    run = write_run(folder / "vae-1", config="model: {beta: 4.0}\n")
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    (run / "samples.txt").write_text("To be, or not")
    page = Tags(report(run))
    said = " ".join(" ".join(page.texts).split())
    for text in ("vae trained on digits", "artifex-keras train vae --data digits", "2 min 5 s",
                 "1,234", "model.beta 4.0", "samples.png", "To be, or not", "2026-01-02 03:04 UTC",
                 "2.5 ± 0.25 (0.12 for equal distributions)", "keras 3.15.1, jax 0.10.2",
                 "4.5 epoch 2", "training: 3.25 in epoch 2"):  # fmt: skip
        assert text in said, text
    (address,) = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == (run / "samples.png").read_bytes()
    assert "notes" not in [value for _, name, value in page.attributes if name == "class"]


def test_a_report_makes_no_requests_and_has_no_scripts(folder):
    page = Tags(text := report(write_run(folder / "run")))
    assert not {"script", "link", "iframe", "a", "object", "base"} & set(page.found)
    assert not [row for row in page.attributes if row[1].startswith("on")]
    assert re.findall(r"https?://|url\(|@import", text) == []
    (policy,) = [v for _, name, v in page.attributes if name == "content" and "default" in v]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_several_runs_are_compared(folder):
    first = write_run(folder / "a", config="model: {beta: 1.0}\n")
    second = write_run(folder / "b", config="model: {beta: 4.0}\ntraining: {seed: 3}\n")
    page = Tags(report(first, second))
    said = " ".join(" ".join(page.texts).split())
    assert "2 runs: vae on digits" in said
    assert "setting a b model.beta 1.0 4.0 training.seed default 3" in said
    colours = {value for tag, _, value in page.attributes if tag == "path" and "--c:" in value}
    assert colours == {"--c:var(--c0)", "--c:var(--c1)"}
    drawn = [value for tag, _, value in page.attributes if tag == "path" and "curve" in value]
    assert drawn.count("curve") == 2 and drawn.count("curve dashed") == 2  # elbo is quiet


def test_equal_settings_are_said(folder):
    assert "all settings are equal" in report(write_run(folder / "a"), write_run(folder / "b"))


def test_runs_of_the_same_name_are_named_by_their_places(folder):
    said = report(write_run(folder / "x" / "vae-1"), write_run(folder / "y" / "vae-1"))
    assert "x/vae-1" in said and "y/vae-1" in said


# What is missing


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"history": None}, "There is no history.csv"),
        ({"pictures": ()}, "The run wrote no pictures"),
        ({"history": "epoch,loss\n0,1.5\n"}, "no curves of validation"),
        ({"about": None}, "no run.json"),
        ({"history": "epoch,loss\n0\n1,2,3,4\n"}, "history.csv was left out"),
        ({"about": [1]}, "no run.json"),
        ({"about": {**ABOUT, "sessions": [{"ended": None}]}}, "still training, or was killed"),
        ({"about": {**ABOUT, "sessions": [{"ended": "SIGINT"}]}}, "ended early, by SIGINT"),
        ({"about": None, "config": "training: {num_epochs: 9}\n"}, "has 3 of 9 epochs"),
        ({"history": "epoch,loss\n"}, "vae trained on"),
        ({"history": "epoch,loss,val_loss\n0,nan,\n"}, "vae trained on"),
        ({"about": {"sessions": 3, "modes": "x", "units": [1], "quiet": 5, "versions": "v",
                    "weights": {}, "watched": ["x"]}}, "vae trained on"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(folder, parts, said):
    assert said in html.unescape(report(write_run(folder / "run", **parts)))


def test_a_damaged_picture_and_a_missing_model_are_said(folder):
    run = write_run(folder / "run")
    (run / "other.png").write_bytes(b"no picture")
    (run / "model.keras").unlink()
    said = html.unescape(report(run))
    assert "other.png was left out" in said and "There is no model.keras" in said


def test_the_last_texts_of_a_tracker_are_shown(folder):
    run = write_run(folder / "run")
    rows = [
        {"step": 1, "text": "answers", "rows": [{"text": "early"}]},
        {"step": 2, "text": "answers", "rows": [{"prompt": "1+1", "answer": EVIL}]},
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + '{"st')
    said = report(run)
    assert "answers, step 2" in said and "early" not in said
    assert "answer: &lt;script&gt;" in said and EVIL not in said


@pytest.mark.parametrize(("command", "name"), [("report", "report.html"), ("card", "README.md")])
def test_a_folder_is_no_file_to_write(folder, capsys, command, name):
    run = write_run(folder / "run")
    (folder / "there").mkdir()
    assert shell(command, run, "--output", folder / "there") == 2
    assert f"such as {str(folder / 'there' / name)!r}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "card"])
@pytest.mark.parametrize("name", ["empty", "odd ü <mark>&'[x](y) $HOME", "two\nlines"])
def test_a_run_that_was_hardly_begun_has_a_page(folder, capsys, command, name):
    run = folder / name
    run.mkdir()
    (run / "config.yaml").write_text("family: vae\n", encoding="utf-8")
    (run / "history.csv").write_text("epoch,loss,val_loss\n0,1.0,2.0\n1,", encoding="utf-8")
    (run / "samples.png").write_bytes(b"\x89PNG\r\n")
    assert shell(command, run, "--output", folder / "page") == 0
    page = (folder / "page").read_text(encoding="utf-8")
    assert "<mark>" not in page


def test_a_wrong_name_is_answered_with_the_nearest(folder, capsys):
    write_run(folder / "runs" / "vae-1")
    assert shell("report", "runs/vea-1") == 2
    assert "Did you mean 'runs/vae-1'?" in capsys.readouterr().err
    assert shell("report", "vae-1") == 2
    assert "Did you mean 'runs/vae-1'?" in capsys.readouterr().err
    assert shell("sample", "runs") == 2
    assert "The runs in it: runs/vae-1." in capsys.readouterr().err


# Strangers


@pytest.mark.parametrize("place", ["name", "setting", "key", "source", "metric", "text", "about"])
def test_text_of_a_stranger_stays_text(folder, place):
    about, history, config, name = ABOUT, "epoch,loss\n0,1\n1,2\n", "", "run"
    if place == "name":
        name = "<img src=x onerror=alert(1)>"
    elif place == "setting":
        config = f'model: {{beta: "{EVIL}"}}\n'
    elif place == "key":
        config = f'model: {{"{EVIL}": 1}}\n'
    elif place == "metric":
        history = f'epoch,"{EVIL}"\n0,1\n1,2\n'
    elif place == "about":
        session = {key: EVIL for key in ("command", "began", "ended", "seconds")}
        about = {**dict.fromkeys(ABOUT, EVIL), "sessions": [session], "units": {"loss": EVIL},
                 "versions": {EVIL: EVIL}}  # fmt: skip
    run = write_run(folder / name, config=config, about=about, history=history)
    if place == "text":
        (run / f"{EVIL.replace('/', '')}.txt").write_text(EVIL + "\u202e\x1b[31m")
    if place == "source":
        path = run / "config.yaml"
        path.write_text(path.read_text().replace("source: digits", f'source: "{EVIL}"'))
    text = report(run, write_run(folder / "other"))
    page = Tags(text)
    assert "script" not in page.found and EVIL not in text and "\u202e" not in text
    assert not [row for row in page.attributes if row[1] == "onerror"]


@pytest.mark.parametrize("inside", ["samples.txt", "run.json", "pictures"])
def test_a_link_out_of_the_folder_is_refused(folder, inside):
    run = write_run(folder / "run", about=None)
    (folder / "secret").mkdir()
    (folder / "secret" / "key.txt").write_text("secret")
    target = folder / "secret" if inside == "pictures" else folder / "secret" / "key.txt"
    (run / inside).symlink_to(target)
    with pytest.raises(FileError, match="is a link to .*outside"):
        write_report(run)


def test_a_file_inside_of_a_linked_folder_is_refused(folder):
    run = write_run(folder / "run")
    (run / "pictures").mkdir()
    (folder / "key.txt").write_text("secret")
    (run / "pictures" / "a.txt").symlink_to(folder / "key.txt")
    with pytest.raises(FileError, match="is a link to"):
        read_run(run)


# Charts and numbers


def test_a_chart_goes_through_its_points():
    curve = Curve("loss", 0, np.array([1, 2, 3]), np.array([1.0, np.nan, 3.0]))
    svg = chart([curve], "loss")
    places = re.search(r'd="([^"]*)"', svg)[1]
    # By hand: 52 to 350 across, 184 to 8 up with 6 % of room on both sides of 1 to 3.
    assert places == "M52.0 174.6M350.0 17.4"
    assert svg.count("<title>") == 2 and svg.count('class="grid"') >= 3


def test_a_chart_of_one_point_and_of_none():
    one = Curve("loss", 0, np.array([1]), np.array([2.5]))
    assert "2.5" in chart([one], "loss")
    assert chart([Curve("loss", 0, np.array([1]), np.array([np.nan]))], "loss") is None


def test_a_fall_by_decades_is_logarithmic():
    values = np.array([1000.0, 10.0, 1.0, 0.01])
    ticks = re.findall(
        r'text-anchor="end">([^<]*)<', chart([Curve("l", 0, np.arange(4), values)], "l")
    )
    assert {"0.01", "1", "100"} <= set(ticks)


def test_a_long_curve_keeps_its_extremes():
    values = np.zeros(100_000)
    values[77_777] = 5
    svg = chart([Curve("loss", 0, np.arange(100_000), values)], "loss")
    assert len(svg) < 20_000 and " 17.4" in re.search(r'd="([^"]*)"', svg)[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (1.23456, "1.235"), (-1234.5678, "-1,235"), (123456.7, "1.23e+05"),
     (0.00001234, "1.23e-05"), (45678.9, "45,679")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert shown_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (125, "2 min 5 s"), (7800, "2 h 10 min"), (None, "–"), ("x", "–"), (-3, "–")],
)
def test_times_are_read_at_a_glance(seconds, text):
    assert duration(seconds) == text
