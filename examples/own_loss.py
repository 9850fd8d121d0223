"""A loss of one's own with the trainer: one function, one line, one name.

This is a configuration file as well as a script. Its line in `LOSSES` makes the name
known to the trainer, to `check` and to `--config.loss.name`; hallucinated images go
through the same loss. A loss takes the output of a head (logits [n, C], also cosine,
scale and features) and labels [n], and gives [n]. The one here is Poly-1 of Leng et al.
(2022, arXiv:2204.12511): cross-entropy + epsilon (1 - p of the label).

    blt-jax train --config=examples/own_loss.py --workdir=runs/own_loss

As a script its last line is: accuracy 0.435, few-shot 0.510
"""

import tempfile
from pathlib import Path

import jax.numpy as jnp
from ml_collections import ConfigDict

from blt_jax.config import load_config
from blt_jax.losses import LOSSES, cross_entropy
from blt_jax.training.assess import assess
from blt_jax.training.run import train

EPSILON = 1.0


def poly1(output, labels):
    entropy = cross_entropy(output, labels)
    return entropy + EPSILON * (1 - jnp.exp(-entropy))


LOSSES["poly1"] = poly1


def get_config():
    return ConfigDict(
        {
            "data": {"kind": "synthetic", "image_size": 8, "resize": 8, "crop": "pad"},
            "model": {"backbone": "resnet10_small"},
            "loss": {"name": "poly1"},
            "hallucination": {"enabled": False},  # compiles in seconds, not minutes
            "stage1": {"epochs": 0},
            "stage2": {"epochs": 6, "backbone_lr": 0.05, "head_lr": 0.05},
            "evaluation": {"batch_size": 32},
            "batch_size": 32,
        }
    )


def main():
    with tempfile.TemporaryDirectory() as folder:
        setup = train(load_config(__file__), Path(folder))
        result = assess(setup, folder, "test")
    print(f"accuracy {result['overall']:.3f}, few-shot {result['few']:.3f}")


if __name__ == "__main__":
    main()
