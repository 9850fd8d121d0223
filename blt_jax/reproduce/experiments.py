"""The paper's tables and figures, and one of ours: which arms, and how they are drawn.

Where the paper gives the values of a sweep only as points in a picture, those here are
ours, within the range that its text names.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from blt_jax.choices import choose
from blt_jax.config import flatten
from blt_jax.reports.figures import (
    Drawing,
    draw_accuracy_against_flops,
    draw_arms,
    draw_batch_sizes,
    draw_dynamic_against_static,
    draw_error_against_rank,
    draw_gains,
    draw_pareto,
    draw_sweep,
    save_drawing,
)
from blt_jax.reports.records import Record, by_arm
from blt_jax.reports.summary import summarise
from blt_jax.reports.summary_files import write_summary
from blt_jax.reproduce.arms import Arm
from blt_jax.reproduce.timing import write_timing
from blt_jax.systems import SYSTEMS


class Output(NamedTuple):
    """Where a table or figure goes, what its files are called, and what makes it."""

    folder: Path
    name: str
    command: str


# (records, the configuration they share, output) -> the files written
Draw = Callable[[Sequence[Record], ConfigDict, Output], list[Path]]


class Experiment(NamedTuple):
    """A table or figure: its arms under a configuration, and how it is drawn."""

    title: str
    arms: Callable[[ConfigDict], list[Arm]]
    draw: Draw


# System -> row of the paper's table. CB rows: see `blt_jax.systems`.
TABLE1 = {
    "plain": "plain",
    "sampling": "sampling",
    "class_aware": "",
    "lifted_structure": "lifted_structure",
    "range": "range",
    "fslwf": "fslwf",
    "oltr": "oltr",
    "focal": "focal",
    "class_balanced": "",
    "class_balanced_focal": "",
    "class_balanced_sampling": "class_balanced",
    "class_balanced_focal_sampling": "class_balanced_focal",
    "sigmoid": "",
    "large_margin": "",
    "additive_margin": "",
    "neither": "",
    "augmentations": "",
    "blt": "blt",
    "blt_accumulated": "",
    "blt_newton": "",
}
TABLE2 = {
    "plain": "plain",
    "sampling": "sampling",
    "oltr": "oltr_reproduced",
    "focal": "focal",
    "class_balanced_sampling": "class_balanced",
    "class_balanced_focal_sampling": "class_balanced_focal",
    "blt": "blt",
}
ALPHAS = (4.0, 8.0, 16.0, 20.0, 32.0)
BETAS = (0.1, 0.5, 1.0, 2.0)
GAMMAS = (0.5, 0.75, 0.9, 1.0, 1.1)
FRACTIONS = (0.0, 0.125, 0.25, 0.5)  # "between 0 and 0.5" (Sec. 4.1)
BATCH_SIZES = (16, 32, 64, 128, 256)
FIG4_BASELINES = ("plain", "oltr")
# Fig. 3f and 5a-b compare BLT with the balanced plain model, as their captions say.
BALANCED_AND_BLT = ("sampling", "blt")
# ResNet-10 of the tables, and those that Sec. 4.2 names.
BACKBONES = ("resnet10", "resnet28", "resnet152", "efficientnet_b0")
# In their place for images of up to SMALL px: a deep, a mobile and a wide network, of
# which an arm, its stage 1 included, takes one core 15 to 42 minutes.
SMALL_BACKBONES = ("resnet28_narrow", "shufflenet_v2", "resnet10")
SMALL = 32
# Arm of the Pareto picture: what it is called there, and its change of `blt_newton`.
NEWTON_ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "blt_newton_p0.25": ("Newton, p = 0.25", {"hallucination.tail_fraction": 0.25}),
    "blt_newton_p1": ("Newton, p = 1", {"hallucination.tail_fraction": 1.0}),
    "blt_newton_s0.05-0.15": (
        "Newton, thresholds 0.05-0.15",
        {"hallucination.threshold": (0.05, 0.15)},
    ),
    "blt_newton_s0.25-0.35": (
        "Newton, thresholds 0.25-0.35",
        {"hallucination.threshold": (0.25, 0.35)},
    ),
    "blt_newton_bound0.03": ("Newton, step ≤ 0.03", {"hallucination.max_step": 0.03}),
    "blt_newton_updates5": ("Newton, 5 updates", {"hallucination.max_iterations": 5}),
}


def experiment(name: str) -> Experiment:
    """The table or figure of that name; raises ValueError listing the names."""
    return choose("reproduce", name, EXPERIMENTS)


def _systems(*names: str) -> Callable[[ConfigDict], list[Arm]]:
    return lambda config: [Arm(name, name) for name in names]


def _sweep(field: str, values: Sequence[float]) -> Callable[[ConfigDict], list[Arm]]:
    """BLT with each value of a field; where it is the configuration's, plain "blt"."""
    return lambda config: [_with_value(config, field, value) for value in values]


def _with_value(config: ConfigDict, field: str, value: float) -> Arm:
    if field == "hallucination.tail_fraction" and not value:
        return Arm("neither", "neither")
    if flatten(config.to_dict())[field] == value:
        return Arm("blt", "blt")
    return Arm(f"blt_{field.split('.')[-1]}{value:g}", "blt", {field: value})


def _each(
    systems: Sequence[str], field: str, values: Sequence[Any]
) -> Callable[[ConfigDict], list[Arm]]:
    """Several systems with each value of a field."""

    def arms(config: ConfigDict) -> list[Arm]:
        own = flatten(config.to_dict())[field]
        return [
            Arm(name, name)
            if value == own
            else Arm(f"{name}_{field.split('.')[-1]}{value}", name, {field: value})
            for value in values
            for name in systems
        ]

    return arms


def _backbone_arms(config: ConfigDict) -> list[Arm]:
    """The paper's backbones; of small images the configuration's own and small ones."""
    backbones: Sequence[str] = BACKBONES
    if config.data.image_size <= SMALL:
        own = config.model.backbone
        backbones = tuple(dict.fromkeys((own, *SMALL_BACKBONES)))
    return _each(BALANCED_AND_BLT, "model.backbone", backbones)(config)


def _pareto_arms(config: ConfigDict) -> list[Arm]:
    """Step rules, p, thresholds and step bounds, and the baselines as points."""
    arms = _systems(
        "plain",
        "sampling",
        "neither",
        "augmentations",
        "blt",
        "blt_accumulated",
        "blt_newton",
    )(config)
    return arms + [
        Arm(name, "blt_newton", change) for name, (_, change) in NEWTON_ARMS.items()
    ]


def _titled(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by what a figure calls their arm."""
    titles = {name: one.title for name, one in SYSTEMS.items()}
    titles |= {name: title for name, (title, _) in NEWTON_ARMS.items()}
    return {titles[arm]: found for arm, found in by_arm(records).items()}


def _table(title: str, published_rows: Mapping[str, str]) -> Draw:
    def draw(
        records: Sequence[Record], config: ConfigDict, output: Output
    ) -> list[Path]:
        arms = by_arm(records)
        summary = summarise(
            records,
            baseline="sampling" if "sampling" in arms else None,
            published_rows=published_rows,
        )
        return write_summary(
            output.folder, output.name, summary, title=title, command=output.command
        )

    return draw


def _systems_table(title: str, rows: Mapping[str, str]) -> Experiment:
    published_rows = {name: row for name, row in rows.items() if row}
    return Experiment(title, _systems(*rows), _table(title, published_rows))


def _figure(draw: Callable[[Sequence[Record]], Drawing]) -> Draw:
    return lambda records, config, output: save_drawing(
        output.folder, output.name, draw(records)
    )


def _value_figure(field: str, label: str) -> Draw:
    def draw(
        records: Sequence[Record], config: ConfigDict, output: Output
    ) -> list[Path]:
        known = [_with_fraction(record) for record in records]
        default = flatten(config.to_dict())[field]
        drawing = draw_sweep(known, field, label=label, default=default)
        return save_drawing(output.folder, output.name, drawing)

    return draw


def _with_fraction(record: Record) -> Record:
    """An arm that appends nothing stands for p = 0."""
    if record.system != "neither":
        return record
    overrides = {**record.overrides, "hallucination.tail_fraction": 0.0}
    return dataclasses.replace(record, overrides=overrides)


def _gains(records: Sequence[Record], config: ConfigDict, output: Output) -> list[Path]:
    """Fig. 4: BLT over each of the other arms."""
    arms = by_arm(records)
    paths: list[Path] = []
    for baseline, letter in zip(FIG4_BASELINES, "ab", strict=True):
        if baseline in arms and "blt" in arms:
            names = (SYSTEMS["blt"].title, SYSTEMS[baseline].title)
            drawing = draw_gains(arms["blt"], arms[baseline], names=names)
            paths += save_drawing(output.folder, f"{output.name}{letter}", drawing)
    return paths


def _against_flops(
    records: Sequence[Record], config: ConfigDict, output: Output
) -> list[Path]:
    """Fig. 5a over all classes, Fig. 5b over few-shot ones."""
    stem = output.name.removesuffix("ab")
    paths: list[Path] = []
    for letter, group in (("a", "overall"), ("b", "few")):
        drawing = draw_accuracy_against_flops(_by_system(records), group=group)
        paths += save_drawing(output.folder, f"{stem}{letter}", drawing)
    return paths


def _trade_offs(
    records: Sequence[Record], config: ConfigDict, output: Output
) -> list[Path]:
    arms, (folder, name, _) = _titled(records), output
    paths = save_drawing(folder, name, draw_pareto(arms))
    return paths + save_drawing(folder, f"{name}_cost", draw_pareto(arms, cost=True))


def _by_system(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of a system together, whatever else its arms differ in."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(SYSTEMS[record.system].title, []).append(record)
    return found


EXPERIMENTS: dict[str, Experiment] = {
    "table1": _systems_table("Systems (Table 1)", TABLE1),
    "table2": _systems_table("Systems (Table 2)", TABLE2),
    "fig3a": Experiment(
        "Scale of the squashing cosine",
        _sweep("model.alpha", ALPHAS),
        _value_figure("model.alpha", "α"),
    ),
    "fig3b": Experiment(
        "Squashing factor",
        _sweep("model.beta", BETAS),
        _value_figure("model.beta", "β"),
    ),
    "fig3c": Experiment(
        "Strength of the balancer",
        _sweep("sampler.gamma", GAMMAS),
        _value_figure("sampler.gamma", "γ"),
    ),
    "fig3d": Experiment(
        "Share of the tail images that are perturbed",
        _sweep("hallucination.tail_fraction", FRACTIONS),
        _value_figure("hallucination.tail_fraction", "p"),
    ),
    "fig3e": Experiment(
        "Hallucinations or augmentations",
        _systems("blt", "augmentations", "sampling", "neither"),
        _figure(lambda records: draw_arms(_titled(records))),
    ),
    "fig3f": Experiment(
        "Batch size",
        _each(BALANCED_AND_BLT, "batch_size", BATCH_SIZES),
        _figure(lambda records: draw_batch_sizes(_by_system(records))),
    ),
    "fig4": Experiment("Gains of each class", _systems("blt", *FIG4_BASELINES), _gains),
    "fig5ab": Experiment(
        "Backbones",
        _backbone_arms,
        _against_flops,
    ),
    "fig5c": Experiment(
        "Dynamic and static hallucination",
        _systems("neither", "blt", "static_targeted", "static_random"),
        _figure(lambda records: draw_dynamic_against_static(_titled(records))),
    ),
    "fig5d": Experiment(
        "Errors of tail classes by rank of the mistaken class",
        _systems("plain", "neither", "augmentations", "oltr", "blt"),
        _figure(lambda records: draw_error_against_rank(_titled(records))),
    ),
    "timing": Experiment(
        "What hallucination costs",
        _systems("blt"),
        lambda records, config, output: write_timing(
            records, config, output.folder, output.name
        ),
    ),
    "pareto": Experiment("Few-shot for many-shot", _pareto_arms, _trade_offs),
}
