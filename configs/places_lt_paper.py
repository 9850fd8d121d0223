"""Places-LT, ResNet-10 from scratch (Sec. 4.2, Table 2), the paper's values.

    blt-jax train --config=configs/places_lt_paper.py --workdir=runs/places_lt/paper

Values of the paper's ablations (Sec. 4.1): gamma 1.0, alpha 20, and beta 0.5 and
p 0.5, which are the defaults. The schedule is the released code's.

Data, once:

    blt-jax prepare places_lt --source PLACES365 --lists LISTS --records --shorter_side 256 --out data/places_lt

where PLACES365 is the standard data set and LISTS holds the field's list files.

Expected time: not measured yet.
Expected result: not measured yet; the paper's Table 2 has many 31.0,
medium 27.4, few 14.1, overall 25.9.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "data": {
                "kind": "records",
                "root": "data/places_lt",
                "num_classes": 365,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "sampler": {"gamma": 1.0},
            "model": {"alpha": 20.0},
        }
    )
