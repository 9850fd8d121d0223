"""The gamma-balanced sampler alone, in a grain pipeline of one's own.

A sampler is a source of record numbers: item i is a pure function of (seed, i), so
grain may shard it, read it in any number of processes and go on from any position, and
the records are the same. A class with n images is drawn in proportion to n^(1 - gamma):
0 is the data set as it is, 1 makes all classes equal.

    class  images  expected  drawn
        0     500     0.312  0.306
        1     100     0.265  0.280
        2      20     0.226  0.219
        3       5     0.197  0.195
"""

import grain
import numpy as np
from absl import app

from blt_jax import GammaBalancedSampler

COUNTS = np.array([500, 100, 20, 5])
GAMMA = 0.9


class Flowers:
    """Your own source: a record, and its label, by number."""

    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, record):
        image = np.full((8, 8, 3), record % 256, np.uint8)
        return {"image": image, "label": self.labels[record]}


def main(_):
    flowers = Flowers()
    sampler = GammaBalancedSampler(flowers.labels, gamma=GAMMA, seed=0, length=8192)
    batches = (
        grain.MapDataset.source(sampler)
        .map(flowers.__getitem__)
        .batch(64)
        .to_iter_dataset()
        .mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    )
    drawn = sum(np.bincount(batch["label"], minlength=len(COUNTS)) for batch in batches)
    expected = COUNTS ** (1 - GAMMA) / (COUNTS ** (1 - GAMMA)).sum()
    print("class  images  expected  drawn")
    for label, count in enumerate(COUNTS):
        share = drawn[label] / drawn.sum()
        print(f"{label:5}  {count:6}  {expected[label]:8.3f}  {share:5.3f}")


if __name__ == "__main__":
    app.run(main)  # grain's processes need absl's flags to be parsed
