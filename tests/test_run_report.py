"""The report: whole, readable without anything else, and not to be broken into."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import CLASSES, evaluation, events, make_run

from blt_jax import main
from blt_jax.config import config_from_dict, flatten
from blt_jax.reports.fields import ResultsError
from blt_jax.reports.run.files import read_run, read_runs
from blt_jax.reports.run.report import make_report
from blt_jax.training.examples import Example

VOID = {"meta", "img", "br"}
SECTIONS = (
    *("results", "curves", "classes", "confusion", "examples", "ascent"),
    *("calibration", "time", "config", "environment"),
)
NASTY = "<script>alert(1)</script>\"'&"
DEFAULTS = flatten(config_from_dict({}, "defaults").to_dict())


class Page(HTMLParser):
    """Reads a page, and holds that every element is closed where it must be."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def values(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.tags if name in found]


def report(*workdirs: Path, examples=None) -> tuple[str, Page]:
    runs = read_runs(workdirs)
    shown = examples or ["not asked for"] * len(runs)
    html = make_report(runs, examples=shown, defaults=DEFAULTS)
    return html, Page(html)


def example(name: str) -> Example:
    seed = np.full((4, 4, 3), 0.5)
    return Example(
        seed_image=seed,
        hallucinated_image=seed + 0.1,
        class_name=name,
        confusing_class="apron",
        score_before=0.01,
        score_after=0.19,
        score_threshold=0.17,
        iterations=4,
    )


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    first = make_run(tmp_path / "balanced", few=0.3)
    second = make_run(tmp_path / "blt", few=0.5)
    _, page = report(first, second, examples=["none", [example("newt")]])
    # 95, 75, 30 and 66.7 % by hand, then what 20 points in two of six classes come to.
    assert "balanced95.075.030.066.766.7100.0" in page.text
    assert "blt95.0+0.075.0+0.050.0+20.073.3+6.773.3+6.7100.0+0.0" in page.text
    assert "73.3 % overall (+6.7)" in page.text
    assert set(SECTIONS) <= set(page.values("id"))
    assert {link[1:] for link in page.values("href")} == set(SECTIONS)
    # Classes and pairs: of 10 images of a tail class, 5 are taken for class 0.
    assert "class 5: 5 training images, 50.0% of 10" in page.text
    assert "class 5class 05 of 1050%5 / 200" in page.text
    # Examples, ascent, calibration, time, configuration, environment.
    assert "newt towards apron" in page.text
    assert "score 0.010 → 0.190, threshold 0.170 reached, 4 updates" in page.text
    assert "1 updates: 20 images, 33.3%" in page.text
    assert "compilation6s" in page.text
    assert 'hallucination.step_rule"gradient""newton""newton"' in page.text
    assert "python3.12.1" in page.text and "2026-01-02 03:04 UTC" in page.text
    images = [found for tag, found in page.tags if tag == "img"]
    assert len(images) == 3 and all(one["alt"] for one in images)


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    html, page = report(make_run(tmp_path / "run"), examples=[[example("newt")]])
    assert all(link.startswith("#") for link in page.values("href"))
    assert all(one.startswith("data:image/png;base64,") for one in page.values("src"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    assert not re.search(r"https?:|url\(|@import", html)
    assert "default-src 'none'" in html
    assert all(
        found.get("aria-label")
        for tag, found in page.tags
        if tag == "svg" and found.get("class") == "chart"
    )


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    names = [f"{NASTY}{number}" for number in range(CLASSES)]
    run = make_run(tmp_path / "a<b>&'c", names=names)
    html, page = report(run, examples=[[example(NASTY)]])
    assert "<script" not in html and "<b>&'c" not in html
    assert NASTY in page.text and "a<b>&'c" in page.text
    assert any(names[5] in title for title in page.values("alt") + page.words)
    _, page = report(run, examples=[f"none: {NASTY}"])
    assert NASTY in page.text


def test_an_unfinished_run_tells_what_there_is(tmp_path: Path) -> None:
    half = make_run(tmp_path / "half", finished=False, log=events()[:6])
    whole = make_run(tmp_path / "whole")
    with (half / "stage2" / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "trai')  # being written just now
    _, page = report(half)
    assert "not finished: stage2, epoch 2 of 2" in page.text
    assert "43.2 % overall" in page.text and "best so far, stage2 epoch 1" in page.text
    assert page.text.count("there is no evaluation.json") == 1
    assert "blt-jax evaluate --checkpoint=" in page.text
    # What is not of the same images is not compared.
    _, page = report(whole, half)
    assert "+" not in page.text.split("Results", 2)[2].split("Curves")[0]
    assert "differences stand only where the split is the same" in page.text


def test_a_run_without_results_may_be_trained_to_the_end(tmp_path: Path) -> None:
    _, page = report(make_run(tmp_path / "run", finished=False))
    assert "trained to the end, not evaluated" in page.text
    assert "54.3 % overall" in page.text


def test_an_evaluation_made_afterwards_is_the_result(tmp_path: Path) -> None:
    # As `blt-jax evaluate --out=WORKDIR/evaluation.json` writes it.
    run = make_run(tmp_path / "run", finished=False)
    names = [f"class {c}" for c in range(CLASSES)]
    (run / "evaluation.json").write_text(json.dumps(evaluation(names)))
    _, page = report(run)
    assert "finished" in page.text and "not evaluated" not in page.text
    assert "Accuracy on the test split: 73.3 % overall" in page.text
    assert "best, step 40" in page.text
    # One made half-way is a result too, but the run is not finished.
    half = make_run(tmp_path / "half", finished=False, log=events()[:6])
    (half / "evaluation.json").write_text(json.dumps(evaluation(names)))
    _, page = report(half)
    assert "not finished: stage2, epoch 2 of 2" in page.text
    assert "Accuracy on the test split: 73.3 % overall" in page.text
    # Of the training split nothing is said among the results.
    told = evaluation(names) | {"split": "train"}
    (run / "evaluation.json").write_text(json.dumps(told))
    assert "Accuracy in validation: 54.3 % overall" in report(run)[1].text


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False, log=events()[:1])
    _, page = report(run)
    for told in (
        *("No accuracy yet", "No epoch has been validated", "No training loss"),
        *("No image has been moved", "no environment.json", "no step is logged"),
    ):
        assert told in page.text


def test_what_an_earlier_version_did_not_keep(tmp_path: Path) -> None:
    log = events()
    for event in log:
        event.pop("iterations_histogram", None)
    run = make_run(tmp_path / "old", log=log)
    path = run / "evaluation.json"
    path.write_text(path.read_text().replace('"calibration"', '"other"'))
    _, page = report(run)
    assert "has no histogram of updates" in page.text
    assert "did not keep confidences" in page.text
    assert "Thresholds reached" in page.text


def test_a_thousand_classes_stay_small(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rng = np.random.default_rng(0)
    found = json.loads((run / "evaluation.json").read_text())
    counts = np.geomspace(1000, 5, 1000).astype(int)
    found["classes"] = [
        {
            "name": f"a class of some name {c}",
            "training_images": int(n),
            "accuracy": 0.5,
        }
        for c, n in enumerate(counts)
    ]
    wrong = rng.integers(0, 1000, (1000, 20))
    found["confusion"] = [[c, c, 25] for c in range(1000)]
    found["confusion"] += [[c, int(o), 1] for c in range(1000) for o in set(wrong[c])]
    (run / "evaluation.json").write_text(json.dumps(found))
    html, page = report(run)
    assert len(html.encode()) < 1e6
    assert "1000 classes in 20 groups by training images" in page.text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    out = tmp_path / "new" / "report.html"
    command = ["report", f"--workdir={first}", str(second), f"--out={out}"]
    assert main.run([*command, "--examples=0"]) == 0
    text = Page(out.read_text()).text
    assert "b/run against a/run" in text and "None was asked for" in text
    assert main.run([*command, "--examples=0", f"--baseline={second}"]) == 0
    assert "a/run against b/run" in Page(out.read_text()).text
    # There is no checkpoint: the section says so, the rest stands.
    assert main.run(command) == 0
    assert "None could be made: " in Page(out.read_text()).text
    capsys.readouterr()
    for arguments, told in (
        ([], "no run: give --workdir"),
        ([str(tmp_path)], "not a working directory of a run"),
        ([str(first), str(first)], "is given twice"),
    ):
        assert main.run(["report", *arguments, f"--out={out}"]) != 0
        assert told in capsys.readouterr().err
    assert main.run(["report", str(first), "--out=report.pdf"]) != 0
    assert "use a name in .html" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    places = ("A/runs/blt/seed0", "B/runs/blt/seed0", "B/runs/plain/seed0", "other")
    runs = read_runs([make_run(tmp_path / place) for place in places])
    names = ["A/runs/blt/seed0", "B/runs/blt/seed0", "plain/seed0", "other"]
    assert [run.name for run in runs] == names


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "results.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(ResultsError, match=name):
        read_run(run)


def test_an_evaluation_without_classes_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "evaluation.json").write_text('{"split": "test"}')
    with pytest.raises(ResultsError, match=r"evaluation.json: not an evaluation"):
        read_run(run)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    log = run / "stage2" / "metrics.jsonl"
    log.write_text("nonsense\n" + log.read_text())
    with pytest.raises(ResultsError, match=r"metrics.jsonl:1: not an event"):
        read_run(run)
