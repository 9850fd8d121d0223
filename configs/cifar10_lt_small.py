"""BLT on CIFAR-10-LT, imbalance 100, for 2 CPU cores; not in the paper (Sec. 3, Alg. 1).

    blt-jax train --config=configs/cifar10_lt_small.py --workdir=runs/cifar10_lt/small

Data, once:

    blt-jax prepare cifar10_lt --source cifar-10-binary.tar.gz --val_rule holdout --records --out data/cifar10_lt

and then, behind the command above (the list files named below are another choice of as
many images):

    --config.data.kind=records --config.data.train=train.txt --config.data.val=val.txt --config.data.test=test.txt

Data and tail classes are those of `cifar10_lt.py`. The narrow network with a stem that
shrinks images by four, and few epochs: it compares systems, not what they can reach.

Expected time: stage 1 two minutes, stage 2 one, BLT two (2 CPU cores).
Expected result: see `docs/results.md`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "batch_size": 128,
            "data": {
                "root": "data/cifar10_lt",
                "train": "cifar10_lt_train.txt",
                "val": "cifar10_lt_val.txt",
                "test": "cifar10_lt_test.txt",
                "class_names": "classes.txt",
                "num_classes": 10,
                "image_size": 32,
                "resize": 32,
                "crop": "pad",
                "mean": (0.4914, 0.4822, 0.4465),
                "std": (0.2023, 0.1994, 0.201),
            },
            "augment": {
                "rotation": 0.0,
                "brightness": 0.0,
                "contrast": 0.0,
                "saturation": 0.0,
            },
            "tail": {"rule": "fraction", "value": 0.1},
            "model": {"backbone": "resnet10_narrow"},
            "stage1": {"epochs": 30, "milestones": (21, 27)},
            "stage2": {"epochs": 15, "milestones": (9, 13)},
        }
    )
