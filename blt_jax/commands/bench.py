"""Time hallucination, the ascent, a step, several devices or the input."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from blt_jax.commands.arguments import config_of, data_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument(
        "kind",
        choices=("overhead", "ascent", "step", "scaling", "input"),
        help="overhead: BLT against vanilla steps; ascent: plain loop, cascade, "
        "unrolled; step: a vanilla step; scaling: 1, 2, 4, 8 devices; input: images "
        "to batches on the host",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FOLDER",
        help="model that steps begin with: as for evaluate",
    )
    data_argument(parser)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help="JSON file to write"
    )
    parser.add_argument("--rounds", type=int, help="times of each arm (10)")
    parser.add_argument(
        "--step_rules",
        nargs="+",
        metavar="RULE",
        help="overhead, ascent: gradient, accumulated, newton",
    )
    parser.add_argument(
        "--tail_fractions",
        nargs="+",
        type=float,
        metavar="P",
        help="overhead: values of p",
    )
    parser.add_argument(
        "--gammas",
        nargs="+",
        type=float,
        metavar="GAMMA",
        help="overhead: values of gamma",
    )
    parser.add_argument(
        "--max_steps",
        nargs="+",
        type=float,
        metavar="BOUND",
        help="ascent: bounds of newton's step",
    )
    parser.add_argument(
        "--seeds",
        type=Path,
        metavar="FILE",
        help="ascent: .npz with images_uint8, targets, thresholds; else drawn",
    )
    parser.add_argument("--count", type=int, help="ascent: seeds to draw (32)")
    parser.add_argument(
        "--devices", nargs="+", type=int, help="scaling: numbers of devices (1 2 4 8)"
    )
    parser.add_argument(
        "--against",
        choices=("torch", "torchvision"),
        help="step: the same network in PyTorch (torch); input: the released code's "
        "transforms in torchvision, else in Pillow and NumPy",
    )
    parser.add_argument(
        "--source", type=Path, metavar="FOLDER", help="input: photographs, at any depth"
    )
    parser.add_argument("--batch", type=int, help="input: images a batch (64)")
    parser.add_argument("--cores", type=int, help="input: bind to so many (all)")
    parser.add_argument(
        "--demand",
        action="store_true",
        help="input: also measure how many images the step of --config consumes, and "
        "make batches of its size and image size",
    )


def run(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Run the command; see its --help."""
    import jax

    from blt_jax.bench.document import document, write_document
    from blt_jax.bench.measure import Options, measure
    from blt_jax.bench.workload import Workload, load_workload
    from blt_jax.config import load_config
    from blt_jax.training.programs import keep_programs

    given = vars(arguments)
    options = Options(
        against_torch=arguments.against == "torch",
        against_torchvision=arguments.against == "torchvision",
        **{
            field.name: given[field.name]
            for field in dataclasses.fields(Options)
            if given.get(field.name) is not None
        },
    )
    cpu_devices = jax.config.values["jax_num_cpu_devices"]
    if arguments.kind == "scaling" and cpu_devices < max(options.devices):
        # Before the first use of a device; accelerators are as many as there are.
        jax.config.update("jax_num_cpu_devices", max(options.devices))
    keep_programs()
    checkpoint = arguments.checkpoint
    if arguments.kind == "input" and not options.demand:
        if unused := [x for x in (checkpoint, arguments.config, *overrides) if x]:
            raise ValueError(
                f"input: {unused[0]} is of no use without --demand, which measures the "
                "step of a configuration"
            )
        config = None  # only images are needed
    elif checkpoint is not None:
        config, _ = config_of(checkpoint, arguments.config, overrides)
    elif arguments.config is None or arguments.kind in ("overhead", "ascent"):
        raise ValueError(
            f"{arguments.kind}: give --checkpoint; when an ascent ends depends on the "
            "model. step, scaling and input --demand can do with --config alone"
        )
    else:
        config = load_config(arguments.config, overrides)

    def load(num_devices: int | None) -> Workload:
        return load_workload(config, checkpoint, num_devices=num_devices)

    rows = []
    for row in measure(arguments.kind, load, options):
        rows.append(row)
        print(json.dumps(row), flush=True)
    command = ["blt-jax", *arguments.typed]
    write_document(Path(arguments.out), document(command, rows))
    print(f"wrote {arguments.out}")
