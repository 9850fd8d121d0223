"""Tiny ImageNet made long-tailed, 64 px (Sec. 3, Alg. 1), the released code's values.

    blt-jax train --config=configs/tiny_imagenet_lt_released.py --workdir=runs/tiny_imagenet_lt/released

Values of the authors' released code: gamma 0.9, alpha 16, beta 0.5 (these are the
defaults), p 0.25, gradients summed over the updates, seeds drawn from the data set,
and `compat` for what has no field of its own.

Data, once:

    blt-jax prepare tiny_imagenet_lt --source tiny-imagenet-200.zip --records --out data/tiny_imagenet_lt

For an accelerator; on CPU use tiny_imagenet_lt_small. The data set is not in the paper.

Expected time: not measured yet.
Expected result: not measured yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "compat": "released",
            "data": {
                "kind": "records",
                "root": "data/tiny_imagenet_lt",
                "num_classes": 200,
                "threads": 8,
            },
            "hallucination": {
                "tail_fraction": 0.25,
                "step_rule": "accumulated",
                "seed_source": "dataset",
            },
        }
    )
