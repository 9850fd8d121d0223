"""BLT (Sec. 3, Alg. 1) on Tiny ImageNet made long-tailed, 32 px, for 2 CPU cores.

    blt-jax train --config=configs/tiny_imagenet_lt_small.py --workdir=runs/tiny_imagenet_lt/small

Data, once:

    blt-jax prepare tiny_imagenet_lt --source tiny-imagenet-200.zip --records --out data/tiny_imagenet_lt

and then, behind the command above (the list files named below are another choice of as
many images):

    --config.data.kind=records --config.data.train=train.txt --config.data.val=val.txt --config.data.test=test.txt

A narrow network and few epochs: it shows the whole path on real images, not what the
method can reach.

Expected time: stage 1 three minutes, BLT five, the balanced arm two (2 CPU cores).
Expected result: test accuracy in %, many / medium / few / overall, best by validation,
one seed: balanced 14.5 / 6.8 / 4.8 / 8.8, BLT 11.7 / 5.9 / 8.1 / 8.6.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "batch_size": 128,
            "data": {
                "root": "data/tiny_imagenet_lt",
                "train": "tiny_imagenet_lt_train.txt",
                "val": "tiny_imagenet_lt_val.txt",
                "test": "tiny_imagenet_lt_test.txt",
                "class_names": "classes.txt",
                "num_classes": 200,
                "image_size": 32,
                "resize": 32,
                "crop_scale": (0.3, 1.0),
            },
            "model": {"backbone": "resnet10_narrow"},
            "stage1": {"epochs": 20, "milestones": (14, 18)},
            "stage2": {"epochs": 10, "milestones": (6, 9)},
        }
    )
