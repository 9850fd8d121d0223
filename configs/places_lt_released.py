"""Places-LT, ResNet-10 from scratch (Sec. 4.2, Table 2), the released code's values.

    blt-jax train --config=configs/places_lt_released.py --workdir=runs/places_lt/released

Values of the authors' released code: gamma 0.9, alpha 16, beta 0.5 (these are the
defaults), p 0.25, gradients summed over the updates, seeds drawn from the data set,
and `compat` for what has no field of its own.

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
            "compat": "released",
            "data": {
                "kind": "records",
                "root": "data/places_lt",
                "num_classes": 365,
                "image_size": 224,
                "resize": 256,
                "threads": 16,
            },
            "hallucination": {
                "tail_fraction": 0.25,
                "step_rule": "accumulated",
                "seed_source": "dataset",
            },
        }
    )
