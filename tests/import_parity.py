"""Table of imported networks: logits of torchvision and timm beside ours.

    python tests/import_parity.py [BACKBONE ...]

Random weights; nothing is downloaded. Needs the extras `torch` and `safetensors`,
torchvision and timm.
"""

import sys
import tempfile
from pathlib import Path

import pytest
from foreign_models import parity

from blt_jax.models.foreign.names import FOREIGN_NAMES


def main(backbones: list[str]) -> None:
    """Print one row a network, as each is done."""
    print("| backbone | weights of | arrays | px | largest logit | max difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for backbone in backbones or FOREIGN_NAMES:
        for program, names in FOREIGN_NAMES[backbone].items():
            if program == "released":
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = parity(backbone, program, Path(folder))
                except pytest.skip.Exception as reason:
                    sys.exit(str(reason))
            print(
                f"| {backbone} | {program} `{names.model}` | {found.matched} "
                f"| {found.size} | {found.logit:.2f} | {found.difference:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
