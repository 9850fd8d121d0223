"""Means, deviations and paired differences by hand; the files word for word."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import recipe, record

from blt_jax.reports.fields import ResultsError
from blt_jax.reports.published import PUBLISHED, published
from blt_jax.reports.records import Ascent, Record, read_record, write_record
from blt_jax.reports.seeds import over_seeds, paired_difference
from blt_jax.reports.summary import summarise
from blt_jax.reports.summary_files import format_csv, format_markdown, write_summary


def made(
    arm: str,
    seed: int,
    best: tuple[float | None, ...],
    last: tuple[float | None, ...] | None = None,
    **changes: object,
) -> Record:
    """A record with these accuracies of many, medium, few and all classes."""
    known = record(arm, seed, classes=3)
    results = {}
    for name, values in [("best", best), ("last", last or best)]:
        accuracies = dict(
            zip(("many", "medium", "few", "overall"), values, strict=True)
        )
        results[name] = {"test": replace(known.find(name, "test"), **accuracies)}
    return replace(known, results=results, **changes)


BLT = Ascent(hallucinated=200, iterations=2400, reached=60, evaluations=2600, trained=9)
SMALL = [
    made("sampling", 0, (0.40, 0.30, 0.10, 0.30)),
    made("sampling", 1, (0.42, 0.30, 0.12, 0.31)),
    made("blt", 1, (0.43, 0.29, 0.24, 0.33), (0.42, 0.29, 0.22, 0.32), ascent=BLT),
    made("blt", 0, (0.39, 0.31, 0.18, 0.31), (0.40, 0.31, 0.20, 0.30), ascent=BLT),
]


def test_mean_deviation_and_paired_difference_by_hand() -> None:
    first = over_seeds({0: 0.5, 1: 0.7, 2: None, 3: math.nan})
    assert (first.mean, first.n) == (pytest.approx(0.6), 2)
    # Of the sample: sqrt((0.1^2 + 0.1^2) / (2 - 1)), where n would give 0.1.
    assert first.std == pytest.approx(math.sqrt(0.02))
    baseline = over_seeds({1: 0.4, 0: 0.45, 7: 0.9})
    difference = paired_difference(first, baseline)
    assert difference.values == {0: pytest.approx(0.05), 1: pytest.approx(0.3)}
    assert difference.mean == pytest.approx(0.175)
    assert difference.std == pytest.approx(0.25 / math.sqrt(2))
    assert over_seeds({}).mean is None
    assert (over_seeds({5: 0.25}).mean, over_seeds({5: 0.25}).std) == (0.25, None)
    assert paired_difference(first, over_seeds({9: 0.1})).n == 0


def test_two_records_of_one_seed_are_refused() -> None:
    with pytest.raises(ResultsError, match=r"arm 'blt', seed 1: stands for the same"):
        summarise([*SMALL, SMALL[2]])


def test_markdown_word_for_word() -> None:
    text = format_markdown(summarise(SMALL, baseline="sampling"), title="Table 1")
    assert text.splitlines() == [
        "**Table 1.** tiny_imagenet_lt, test split; configuration "
        "tiny_imagenet_lt_small: resnet10_narrow, 32 px, batches of 128, 20 + 10 "
        "epochs; seeds 0, 1. Means of per-class accuracies; many: more than 100 "
        "training images, few: at most 20. ± is the sample standard deviation over "
        "seeds. Differences (Δ) are to sampling, in percentage points, taken seed by "
        "seed. The arms of each seed go on from one stage 1.",
        "",
        "Best by validation, accuracy in %:",
        "",
        "| Arm | Seeds | Many | Medium | Few | Overall | Δ many | Δ medium | Δ few "
        "| Δ overall |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| sampling | 2 | 41.0 ± 1.4 | 30.0 ± 0.0 | 11.0 ± 1.4 | 30.5 ± 0.7 "
        "| - | - | - | - |",
        # Few: 8 and 12 points more. Many: 1 less and 1 more.
        "| blt | 2 | 41.0 ± 2.8 | 30.0 ± 1.4 | 21.0 ± 4.2 | 32.0 ± 1.4 "
        "| +0.0 ± 1.4 | +0.0 ± 1.4 | +10.0 ± 2.8 | +1.5 ± 0.7 |",
        "",
        "Last epoch, accuracy in %:",
        "",
        "| Arm | Seeds | Many | Medium | Few | Overall | Δ many | Δ medium | Δ few "
        "| Δ overall |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| sampling | 2 | 41.0 ± 1.4 | 30.0 ± 0.0 | 11.0 ± 1.4 | 30.5 ± 0.7 "
        "| - | - | - | - |",
        "| blt | 2 | 41.0 ± 1.4 | 30.0 ± 1.4 | 21.0 ± 1.4 | 31.0 ± 1.4 "
        "| +0.0 ± 0.0 | +0.0 ± 1.4 | +10.0 ± 0.0 | +0.5 ± 0.7 |",
        "",
        "Budget, means over seeds:",
        "",
        "| Arm | Seeds | Appended images | Image gradients / appended "
        "| Threshold met (%) | Stage 1 (min) | Stage 2 (min) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| sampling | 0, 1 | 0 | - | - | 3.0 | 4.0 |",
        "| blt | 0, 1 | 200 | 13.0 | 30 | 3.0 | 4.0 |",
    ]


def test_csv_word_for_word() -> None:
    text = format_csv(summarise(SMALL, baseline="sampling", checkpoints=("best",)))
    assert text.splitlines() == [
        "arm,checkpoint,split,n,many_mean,many_std,medium_mean,medium_std,few_mean,"
        "few_std,overall_mean,overall_std,baseline,difference_n,many_difference_mean,"
        "many_difference_std,medium_difference_mean,medium_difference_std,"
        "few_difference_mean,few_difference_std,overall_difference_mean,"
        "overall_difference_std,many_paper,medium_paper,few_paper,overall_paper",
        "sampling,best,test,2,0.410000,0.014142,0.300000,0.000000,0.110000,0.014142,"
        "0.305000,0.007071,,,,,,,,,,,,,,",
        "blt,best,test,2,0.410000,0.028284,0.300000,0.014142,0.210000,0.042426,"
        "0.320000,0.014142,sampling,2,0.000000,0.014142,0.000000,0.014142,0.100000,"
        "0.028284,0.015000,0.007071,,,,",
    ]


def test_the_papers_figures_stand_beside_its_own_data_set_only() -> None:
    rows = {"blt": "blt"}
    of_paper = [replace(r, recipe=recipe(dataset="imagenet_lt")) for r in SMALL]
    text = format_markdown(summarise(of_paper, published_rows=rows), title="Table 1")
    assert "Paper: its Table 1." in text
    assert "| 32.0 ± 1.4 | 44.4 / 33.5 / 25.5 / 36.6 |" in text
    assert "| 30.5 ± 0.7 | - |" in text
    csv = format_csv(summarise(of_paper, published_rows=rows))
    assert csv.splitlines()[2].endswith(",0.444000,0.335000,0.255000,0.366000")
    other = format_markdown(summarise(SMALL, published_rows=rows), title="Table 1")
    assert "Paper" not in other


def test_published_figures_are_those_of_the_text(shared: Path) -> None:
    text = (shared / "paper" / "blt_accv2020.txt").read_text()
    lines = [line.split("\t") for line in text.splitlines()]
    values = {tuple(map(float, c[1:])) for c in lines if len(c) in (5, 9) and _is(c[1])}
    printed = PUBLISHED["imagenet_lt"].values()
    assert len(printed) == 11
    assert set(map(tuple, printed)) == {v for v in values if len(v) == 4}
    wide = [
        (*PUBLISHED["places_lt"][row], *PUBLISHED["inaturalist2018"][row])
        for row in PUBLISHED["places_lt"]
    ]
    assert len(wide) == 7
    assert set(wide) == {v for v in values if len(v) == 8}
    assert published("imagenet_lt", "unheard of") is published("digits", "blt") is None


def _is(text: str) -> bool:
    return text.replace(".", "").isdigit()


def test_one_seed_and_missing_groups_are_told_as_such() -> None:
    one = [
        made("a", 4, (0.4, 0.3, None, 0.3), environment=record().environment),
        made("b", 4, (0.5, 0.3, None, 0.3), recipe=recipe(batch_size=64, stage1="d2")),
    ]
    text = format_markdown(summarise(one, baseline="a"), title="T")
    assert "seed 4." in text
    assert "±" not in text
    assert "batches of 128 or 64," in text
    assert "Not all arms of a seed go on from one stage 1." in text
    assert "| b | 1 | 50.0 | 30.0 | - | 30.0 | +10.0 | +0.0 | - | +0.0 |" in text


def test_json_holds_what_it_was_made_from(tmp_path: Path) -> None:
    found = []
    for r in SMALL:
        write_record(tmp_path / "records" / f"{r.arm}{r.seed}.json", r)
        found.append(read_record(tmp_path / "records" / f"{r.arm}{r.seed}.json"))
    summary = summarise(found, baseline="sampling")
    command = "blt-jax reproduce table1"
    for _ in range(2):
        files = write_summary(
            tmp_path / "out", "table1", summary, title="T", command=command
        )
        bytes_now = [file.read_bytes() for file in files]
    assert [file.name for file in files] == ["table1.md", "table1.csv", "table1.json"]
    assert bytes_now == [file.read_bytes() for file in files]
    content = json.loads(files[2].read_text())
    assert content["command"] == command
    assert content["devices"] == ["cpu"]
    assert content["versions"] == {"jax": ["0.10.2"]}
    assert content["recipe"]["epochs"] == [[20, 10]]
    assert content["records"] == [
        f"../records/{name}.json" for name in ("blt0", "blt1", "sampling0", "sampling1")
    ]
    blt = content["rows"][1]
    assert (blt["arm"], blt["checkpoint"]) == ("blt", "best")
    assert blt["few"]["by_seed"] == {"0": 0.18, "1": 0.24}
    assert blt["difference"]["few"]["n"] == 2
    assert content["budgets"][1]["appended"] == 200


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ResultsError, match=r"baseline 'plain' is not among .*sampling"):
        summarise(SMALL, baseline="plain")
    other = made("c", 0, (0.1, 0.1, 0.1, 0.1), recipe=recipe(dataset="digits_lt"))
    with pytest.raises(ResultsError, match=r"seed 0 is of digits_lt, .* one data set"):
        summarise([*SMALL, other])
    counts = replace(SMALL[0], arm="c", class_counts=(9, 9, 9))
    with pytest.raises(ResultsError, match="class_counts are not those of arm 'sampl"):
        summarise([*SMALL, counts])
    with pytest.raises(ResultsError, match="no results of best on val"):
        summarise(SMALL, split="val")
