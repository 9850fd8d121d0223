"""BLT on CIFAR-10-LT, imbalance 100; not in the paper (method: Sec. 3, Alg. 1).

    blt-jax train --config=configs/cifar10_lt.py --workdir=runs/cifar10_lt/blt

Data, once:

    blt-jax prepare cifar10_lt --source cifar-10-binary.tar.gz --val_rule holdout --records --out data/cifar10_lt

4,900 to 49 training images a class: validation takes its 100 first, so that the largest
class has some too. No class has 20 images or fewer, so a tail class is one with at most
a tenth of the largest class's images; the table keeps the field's groups, and its
few-shot column is empty.

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
                "root": "data/cifar10_lt",
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
            "model": {"backbone": "resnet10_small"},
            "optimizer": {"weight_decay": 0.0002},
            "stage1": {"epochs": 100, "schedule": "cosine", "warmup_epochs": 5.0},
            "stage2": {"epochs": 50, "schedule": "cosine"},
        }
    )
