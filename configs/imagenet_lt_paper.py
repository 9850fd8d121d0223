"""ImageNet-LT, ResNet-10 (Sec. 4.2, Table 1), the paper's values.

    blt-jax train --config=configs/imagenet_lt_paper.py --workdir=runs/imagenet_lt/paper

Values of the paper's ablations (Sec. 4.1): gamma 1.0, alpha 20, and beta 0.5 and
p 0.5, which are the defaults. The schedule is the released code's.

Data: the field's list files and ImageNet's train/ and val/ below data/imagenet_lt.

Expected time: not measured yet.
Expected result: not measured yet; the paper's Table 1 has many 44.4,
medium 33.5, few 25.5, overall 36.6.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "root": "data/imagenet_lt",
                "train": "ImageNet_LT_train.txt",
                "val": "ImageNet_LT_val.txt",
                "test": "ImageNet_LT_test.txt",
                "num_classes": 1000,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "sampler": {"gamma": 1.0},
            "model": {"alpha": 20.0},
        }
    )
