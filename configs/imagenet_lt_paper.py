"""ImageNet-LT, ResNet-10 (Sec. 4.2, Table 1), the paper's values.

    blt-jax train --config=configs/imagenet_lt_paper.py --workdir=runs/imagenet_lt/paper

Values of the paper's ablations (Sec. 4.1): gamma 1.0, alpha 20, and beta 0.5 and
p 0.5, which are the defaults. The schedule is the released code's.

Data, once:

    blt-jax prepare imagenet_lt --source ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar --lists LISTS --records --shorter_side 256 --out data/imagenet_lt

where LISTS holds the field's list files.

Expected time: not measured yet.
Expected result: not measured yet; the paper's Table 1 has many 44.4,
medium 33.5, few 25.5, overall 36.6.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "records",
                "root": "data/imagenet_lt",
                "num_classes": 1000,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "sampler": {"gamma": 1.0},
            "model": {"alpha": 20.0},
        }
    )
