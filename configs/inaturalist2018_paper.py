"""iNaturalist 2018, ResNet-34 (Sec. 4.2, Table 2), the paper's values.

    blt-jax train --config=configs/inaturalist2018_paper.py --workdir=runs/inaturalist2018/paper

Values of the paper's ablations (Sec. 4.1): gamma 1.0, alpha 20, and beta 0.5 and
p 0.5, which are the defaults. The schedule is the released code's.

Data, once:

    blt-jax prepare inaturalist2018 --source INATURALIST2018 --records --shorter_side 256 --out data/inaturalist2018

As in the paper, 5 training images a class make the validation split and the official
validation images of the remaining classes the test split, which leaves 8122 of 8142
classes with 2 to 995 training images.

Expected time: not measured yet.
Expected result: not measured yet; the paper's Table 2 has many 53.7,
medium 52.5, few 49.9, overall 51.0.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "records",
                "root": "data/inaturalist2018",
                "num_classes": 8122,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "sampler": {"gamma": 1.0},
            "model": {"backbone": "resnet34", "alpha": 20.0},
        }
    )
