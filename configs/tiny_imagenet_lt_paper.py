"""Tiny ImageNet made long-tailed, 64 px (Sec. 3, Alg. 1), the paper's values.

    blt-jax train --config=configs/tiny_imagenet_lt_paper.py --workdir=runs/tiny_imagenet_lt/paper

Values of the paper's ablations (Sec. 4.1): gamma 1.0, alpha 20, and beta 0.5 and
p 0.5, which are the defaults. The schedule is the released code's.

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
            "data": {
                "kind": "records",
                "root": "data/tiny_imagenet_lt",
                "num_classes": 200,
                "threads": 8,
            },
            "sampler": {"gamma": 1.0},
            "model": {"alpha": 20.0},
        }
    )
