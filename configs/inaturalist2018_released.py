"""iNaturalist 2018, ResNet-34 (Sec. 4.2, Table 2), the released code's values.

    blt-jax train --config=configs/inaturalist2018_released.py --workdir=runs/inaturalist2018/released

Values of the authors' released code: gamma 0.9, alpha 16, beta 0.5 (these are the
defaults), p 0.25, gradients summed over the updates, seeds drawn from the data set,
and `compat` for what has no field of its own.

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
            "compat": "released",
            "data": {
                "kind": "records",
                "root": "data/inaturalist2018",
                "num_classes": 8122,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "model": {"backbone": "resnet34"},
            "hallucination": {
                "tail_fraction": 0.25,
                "step_rule": "accumulated",
                "seed_source": "dataset",
            },
        }
    )
