"""The command line: one small function a command.

Heavy modules are imported inside the functions, so that `--help` answers at once.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blt_jax import __version__


def train(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train all stages of one arm; the same command resumes an interrupted run."""
    import jax

    from blt_jax.config import load_config
    from blt_jax.reports.table import write_results
    from blt_jax.training import run
    from blt_jax.training.assess import assess
    from blt_jax.training.interruption import InterruptionError

    config = load_config(arguments.config, overrides)
    if arguments.distributed:
        _join_processes()
    _use_compilation_cache()
    if arguments.smoke:
        run.smoke(config)
        print("smoke run passed: steps, validation, saving and loading work")
        return
    workdir = Path(arguments.workdir)
    try:
        setup = run.train(config, workdir)
    except InterruptionError as interrupted:
        print(interrupted, file=sys.stderr)
        if arguments.distributed:
            # Together, or one that leaves early would take the others down.
            jax.distributed.shutdown()
        raise SystemExit(os.EX_TEMPFAIL) from None
    split = "test" if len(setup.dataset.test) else "val"
    results = {
        which: assess(setup, workdir, split, which=which) for which in ("best", "last")
    }
    if jax.process_index() == 0:
        write_results(workdir / "results.json", arm=workdir.name, results=results)
        _print_table(workdir.name, split, results["best"])


def evaluate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Accuracy of a checkpoint on a split: by shot, by class, and its confusion."""
    from blt_jax.training.assess import assess
    from blt_jax.training.setup import prepare

    _use_compilation_cache()
    config, class_map = _config_of(arguments.checkpoint, arguments.config, overrides)
    setup = prepare(config, Path(), class_map=class_map)
    result = assess(setup, arguments.checkpoint, arguments.split, which=arguments.which)
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result) + "\n")
    _print_table(Path(arguments.checkpoint).name, arguments.split, result)


def check(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Look a configuration over: data, shapes, cost; trains nothing."""
    from blt_jax.config import load_config
    from blt_jax.data.bad_files import write_bad_files
    from blt_jax.data.progress import Progress
    from blt_jax.data.verify import summary, verify_images
    from blt_jax.training.check import check
    from blt_jax.training.setup import prepare

    if arguments.bad_files and not arguments.verify_images:
        raise ValueError("--bad_files FILE needs --verify_images, which finds them")
    config = load_config(arguments.config, overrides)
    setup = prepare(config, Path())
    for name, value in check(setup).items():
        shown = f"{value:.3g}" if isinstance(value, float) else value
        print(f"{name.replace('_', ' ')}: {shown}")
    if arguments.verify_images:
        splits = (setup.dataset.train, setup.dataset.val, setup.dataset.test)
        bad = verify_images(
            splits, threads=config.data.threads, report=Progress("verified")
        )
        print("\n".join(summary(bad, total=sum(len(split) for split in splits))))
        if arguments.bad_files:
            write_bad_files(arguments.bad_files, bad)
            print(f"wrote {arguments.bad_files}")
        if bad:
            raise ValueError(
                f"{len(bad)} images are bad; mend them or take them out of the lists, "
                "or, for training images only, set data.bad_files to 'skip'"
            )


def import_(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Turn a checkpoint of the paper's released code into one of ours."""
    from blt_jax.training.imports import import_original

    folder = import_original(
        Path(arguments.file),
        Path(arguments.out),
        config_file=arguments.config,
        overrides=overrides,
    )
    print(f"wrote {folder}")


def hallucinate(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Draw seeds, what the ascent adds to them, and the hard examples it makes."""
    from blt_jax.reports.picture import draw_hallucinations, save_picture
    from blt_jax.training.examples import example_hallucinations

    _use_compilation_cache()
    config, _ = _config_of(arguments.checkpoint, arguments.config, overrides)
    examples = example_hallucinations(
        arguments.checkpoint,
        config,
        images=arguments.images,
        target=arguments.target,
        count=arguments.count,
    )
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_picture(draw_hallucinations(examples), out)
    print(f"wrote {out}")


def bench(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Time hallucination, the ascent, a step, several devices, the input; JSON."""
    import jax

    from blt_jax.bench.document import document, write_document
    from blt_jax.bench.measure import Options, measure
    from blt_jax.bench.workload import Workload, load_workload
    from blt_jax.config import load_config

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
    _use_compilation_cache()
    checkpoint = arguments.checkpoint
    if checkpoint is not None:
        config, _ = _config_of(checkpoint, arguments.config, overrides)
    elif arguments.kind == "input" and not options.demand:
        config = None  # only images are needed
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
    command = ["blt-jax", *sys.argv[1:]]
    write_document(Path(arguments.out), document(command, rows))
    print(f"wrote {arguments.out}")


def prepare(arguments: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Turn a data set as its site ships it into list files, and records if wanted."""
    from blt_jax.data.prepare.run import prepare as run_preparation

    if overrides:
        raise ValueError(f"{overrides[0]}: not an option; see blt-jax prepare --help")
    given = vars(arguments)
    print(
        run_preparation(
            arguments.name,
            arguments.source,
            out=arguments.out,
            lists=arguments.lists,
            records=arguments.records,
            shorter_side=arguments.shorter_side,
            options={
                option: given[option]
                for option in _PREPARE_OPTIONS
                if given[option] is not None
            },
        )
    )


class _Command(NamedTuple):
    run: Callable[[argparse.Namespace, Sequence[str]], None]
    add_arguments: Callable[[argparse.ArgumentParser], None]


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="what to train")
    parser.add_argument(
        "--workdir",
        metavar="FOLDER",
        help="where checkpoints, logs and results go; the same folder resumes",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="two steps, two validations and a save of each stage, then stop",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="join the run's other processes: SLURM, Open MPI and TPU pods are "
        "recognised, else JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and "
        "JAX_PROCESS_ID tell",
    )


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    _checkpoint_argument(parser)
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--which",
        default="best",
        choices=("best", "last"),
        help="checkpoint of a working directory: best by validation, or the last",
    )
    _data_argument(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write accuracies, classes, confusion as JSON"
    )


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE")
    parser.add_argument(
        "--verify_images", action="store_true", help="decode every image of all splits"
    )
    parser.add_argument(
        "--bad_files",
        metavar="FILE",
        help="with --verify_images: write the bad files to FILE as CSV",
    )


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="CHECKPOINT", help="a .pth file")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="gives what the file lacks: alpha, beta, data set and class names",
    )


def _hallucinate_arguments(parser: argparse.ArgumentParser) -> None:
    _checkpoint_argument(parser)
    parser.add_argument("--out", required=True, metavar="PICTURE")
    _data_argument(parser)
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="perturb these images; else tail images of the training split",
    )
    parser.add_argument(
        "--target", help="class to confuse with: its name or number; else drawn"
    )
    parser.add_argument("--count", type=int, default=6, help="images at most")


def _bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind",
        choices=("overhead", "ascent", "step", "scaling", "input"),
        help="overhead: BLT against vanilla steps; ascent: plain loop, cascade, "
        "unrolled; step: a vanilla step; scaling: 1, 2, 4, 8 devices; input: images "
        "to batches on the host",
    )
    parser.add_argument(
        "--checkpoint", metavar="FOLDER", help="the model that steps begin with"
    )
    _data_argument(parser)
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON")
    parser.add_argument("--rounds", type=int, help="times of each arm (10)")
    parser.add_argument("--step_rules", nargs="+", metavar="RULE")
    parser.add_argument(
        "--tail_fractions", nargs="+", type=float, metavar="P", help="overhead"
    )
    parser.add_argument(
        "--gammas", nargs="+", type=float, metavar="GAMMA", help="overhead"
    )
    parser.add_argument(
        "--max_steps", nargs="+", type=float, metavar="BOUND", help="ascent, newton"
    )
    parser.add_argument(
        "--seeds",
        type=Path,
        metavar="FILE",
        help="ascent: .npz with images_uint8, targets, thresholds; else drawn",
    )
    parser.add_argument("--count", type=int, help="ascent: seeds to draw (32)")
    parser.add_argument("--devices", nargs="+", type=int, help="scaling (1 2 4 8)")
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
        help="input: also measure how many images the step of --config consumes",
    )


# Options of some of the data sets; what is not given has the data set's own default.
_PREPARE_OPTIONS: dict[str, dict[str, Any]] = {
    "profile": {
        "choices": ("exponential", "step", "none"),
        "help": "how training images are thinned out (CIFAR, Tiny ImageNet, folder)",
    },
    "imbalance": {
        "type": float,
        "help": "images of the largest class / of the smallest (100)",
    },
    "val_per_class": {
        "type": int,
        "help": "validation images of each class, out of the training images",
    },
    "test_per_class": {"type": int, "help": "folder: test images of each class"},
    "val_rule": {
        "choices": ("unused", "holdout"),
        "help": "unused: training images are the published ones, validation takes "
        "what they leave; holdout: validation takes its images first",
    },
    "rule": {
        "choices": ("two_left", "one_left", "all"),
        "help": "inaturalist2018: classes kept, by the training images that they have "
        "besides the 5 of validation; two_left, as in the paper, is the default",
    },
    "seed": {"type": int, "help": "which images are chosen (0: as published)"},
    "legacy_best_on_test": {
        "action": "store_true",
        "default": None,
        "help": "val.txt equals test.txt, as many papers have it: results too high",
    },
}


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Sources:\n"
        "  imagenet_lt      ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar, or a\n"
        "                   folder with train/ and val/; needs --lists\n"
        "  places_lt        Places365-Standard, archives or folder; needs --lists\n"
        "  inaturalist2018  train_val2018.tar.gz or its folder, with the JSON files\n"
        "  cifar10_lt, cifar100_lt   binary or Python version, archive or folder\n"
        "  tiny_imagenet_lt tiny-imagenet-200.zip or its folder\n"
        "  folder           class folders, or train/, val/, test/ of them\n\n"
        "  blt-jax prepare folder --source photos --out data/x --val_per_class 10\n"
        "  blt-jax prepare cifar10_lt --source cifar-10-binary.tar.gz --out data/y\n\n"
        "Nothing is copied from a folder. The same command resumes."
    )
    parser.add_argument(
        "name",
        metavar="NAME",
        help="imagenet_lt, places_lt, inaturalist2018, cifar10_lt, cifar100_lt, "
        "tiny_imagenet_lt, folder",
    )
    parser.add_argument(
        "--source",
        required=True,
        nargs="+",
        type=Path,
        metavar="PATH",
        help="what the site ships: archives, or the folder that they make",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FOLDER",
        help="for lists, class names, prepared.json, and images out of archives",
    )
    parser.add_argument(
        "--lists",
        type=Path,
        metavar="FOLDER",
        help="the field's list files (ImageNet_LT_train.txt, ...; also .gz), or the "
        "JSON files of iNaturalist",
    )
    for name, settings in _PREPARE_OPTIONS.items():
        parser.add_argument(f"--{name}", **settings)
    parser.add_argument(
        "--records",
        action="store_true",
        help="also write the images as ArrayRecord files, which read fast",
    )
    parser.add_argument(
        "--shorter_side",
        type=int,
        metavar="PIXELS",
        help="shrink images in the records to this (256 for 224-pixel crops)",
    )


def _checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="FOLDER",
        help="a working directory, one of its stages, or one checkpoint folder",
    )


def _data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="data to use; else the data that the checkpoint was trained on",
    )


COMMANDS = {
    "train": _Command(train, _train_arguments),
    "evaluate": _Command(evaluate, _evaluate_arguments),
    "check": _Command(check, _check_arguments),
    "import": _Command(import_, _import_arguments),
    "hallucinate": _Command(hallucinate, _hallucinate_arguments),
    "bench": _Command(bench, _bench_arguments),
    "prepare": _Command(prepare, _prepare_arguments),
}
_OVERRIDES = (
    "Any field of the configuration can be changed on the command line: "
    "--config.batch_size=64 --config.hallucination.enabled=False"
)


def run(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code.

    0: finished. 2: wrong use, told in one line (`--traceback` shows where). 75: stopped
    by SIGTERM with everything saved; the same command goes on.
    """
    parser = argparse.ArgumentParser(
        prog="blt-jax",
        description="Train classifiers on long-tailed images with BLT: hard examples "
        "for the tail classes, made by gradient ascent.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        summary = (command.run.__doc__ or "").splitlines()[0]
        subparser = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=_OVERRIDES,
            allow_abbrev=False,
        )
        command.add_arguments(subparser)
        subparser.add_argument(
            "--traceback", action="store_true", help="show where an error was raised"
        )
    arguments, overrides = parser.parse_known_args(argv)
    if arguments.command == "train" and not (arguments.workdir or arguments.smoke):
        parser.error("train: give --workdir FOLDER (or --smoke)")
    try:
        COMMANDS[arguments.command].run(arguments, overrides)
    except (ValueError, OSError) as error:
        if arguments.traceback:
            raise
        print(f"blt-jax {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _config_of(
    checkpoint: str, config_file: str | None, overrides: Sequence[str]
) -> tuple[Any, list[str] | None]:
    """Configuration and class map for the data to use a checkpoint on.

    Without a file both are the checkpoint's own; with one, its classes need only be
    as many as the checkpoint's.
    """
    from blt_jax.config import config_from_dict, load_config, override
    from blt_jax.training.checkpoint import find_checkpoint, load_meta

    folder = find_checkpoint(checkpoint)
    saved = load_meta(folder)
    trained = config_from_dict(saved["config"], str(folder))
    if config_file is None:
        return override(trained, overrides), saved["class_names"]
    config = load_config(config_file, overrides)
    # The network is the checkpoint's, whatever the file says.
    config.model = trained.model
    return config, None


def _join_processes() -> None:
    import jax

    def number(name: str) -> int | None:
        text = os.environ.get(name)
        if text is not None and not text.isdigit():
            raise ValueError(f"{name}={text!r} is not a number")
        return None if text is None else int(text)

    # Told by the environment, JAX need not look which cluster this is.
    told = "JAX_COORDINATOR_ADDRESS" in os.environ
    try:
        jax.distributed.initialize(
            num_processes=number("JAX_NUM_PROCESSES"),
            process_id=number("JAX_PROCESS_ID"),
            cluster_detection_method="deactivate" if told else None,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: no other processes are known of ({error}). Outside "
            "SLURM, Open MPI and TPU pods set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process"
        ) from error


def _print_table(name: str, split: str, result: dict[str, Any]) -> None:
    columns = ("many", "medium", "few", "overall", "micro", "top5")
    shown = [
        "-" if result[column] is None else f"{100 * result[column]:.1f}"
        for column in columns
    ]
    print(f"\n{name} on {split} ({result['images']} images), accuracy in %:")
    print("  ".join(f"{column:>8}" for column in columns))
    print("  ".join(f"{value:>8}" for value in shown))


def _use_compilation_cache() -> None:
    """Keep compiled programs between runs, unless the user has chosen a place."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(cache) / "blt_jax"))


if __name__ == "__main__":
    sys.exit(run())
