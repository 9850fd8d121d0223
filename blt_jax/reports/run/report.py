"""The report on one or several runs: a single HTML page that loads nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from blt_jax.reports.run.calibration import calibration_section
from blt_jax.reports.run.classes import classes_section, confusion_section
from blt_jax.reports.run.examples import Examples, examples_section
from blt_jax.reports.run.files import Run
from blt_jax.reports.run.page import page, paragraph
from blt_jax.reports.run.results import heading, results_section
from blt_jax.reports.run.settings import config_section, environment_section
from blt_jax.reports.run.time import time_section
from blt_jax.reports.run.training import ascent_section, curves_section


def make_report(
    runs: Sequence[Run],
    *,
    examples: Sequence[Examples],
    defaults: Mapping[str, Any],
) -> str:
    """The page as HTML.

    runs: the first is the baseline of the differences, the last the one the page is
    about. examples: for each run hallucinated images, or why there are none. defaults:
    every field of a configuration by dotted name.
    """
    title = " and ".join(run.name for run in runs)
    sections = [
        results_section(runs),
        curves_section(runs),
        classes_section(runs),
        confusion_section(runs),
        examples_section(runs, examples),
        ascent_section(runs),
        calibration_section(runs),
        time_section(runs),
        config_section(runs, defaults),
        environment_section(runs),
    ]
    return page(
        f"Report: {title}",
        top=heading(runs),
        sections=sections,
        foot=paragraph("Made by blt-jax report. This file holds everything it shows."),
    )
