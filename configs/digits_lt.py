"""Two-stage training with BLT (Sec. 3, Alg. 1) on real handwritten digits.

    blt-jax train --config=configs/digits_lt.py --workdir=runs/digits_lt/blt

The data come with scikit-learn (extra `demo`): 110 ... 5 training images a class. The
groups are scaled down with it: more than 50 images is many-shot, at most 15 few-shot
and tail. `launch/local.sh` runs this and the same without hallucination.

Expected time: about a minute and a half, compilation included (2 CPU cores); the
balanced arm about 20 seconds more.
Expected result: test accuracy in %, many / medium / few / overall, one seed: balanced
97.8 / 96.3 / 83.9 / 91.8, BLT 97.8 / 95.6 / 88.3 / 93.3.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "batch_size": 32,
            "data": {"kind": "digits", "image_size": 16, "resize": 16, "crop": "none"},
            "augment": {
                "flip": False,
                "brightness": 0.2,
                "contrast": 0.2,
                "saturation": 0.0,
            },
            "tail": {"value": 15.0},
            "model": {"backbone": "resnet10_small"},
            "stage1": {"epochs": 20, "milestones": (14, 18)},
            "stage2": {"epochs": 15, "milestones": (9, 13)},
            "evaluation": {"batch_size": 150, "many": 50, "few": 15},
        }
    )
