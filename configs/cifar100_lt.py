"""BLT on CIFAR-100-LT, imbalance 100; not in the paper (method: Sec. 3, Alg. 1).

    blt-jax train --config=configs/cifar100_lt.py --workdir=runs/cifar100_lt/blt

Data, once:

    blt-jax prepare cifar100_lt --source cifar-100-binary.tar.gz --val_rule holdout --records --out data/cifar100_lt

480 to 4 training images a class: validation takes its 20 first, so that the largest class
has some too. 32 classes have 20 images or fewer.

Expected time: not measured yet.
Expected result: not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "batch_size": 128,
            "data": {
                "kind": "records",
                "root": "data/cifar100_lt",
                "num_classes": 100,
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
            "model": {"backbone": "resnet10_small"},
            "optimizer": {"weight_decay": 0.0002},
            "stage1": {"epochs": 100, "schedule": "cosine", "warmup_epochs": 5.0},
            "stage2": {"epochs": 50, "schedule": "cosine"},
        }
    )
