"""Runs an exported model without blt_jax, as a process of its own.

`export.py` starts it by its path: `python -P export_process.py MODEL REFERENCE.npz`. It
imports JAX and NumPy alone, as the users of the model will, and prints the largest
difference between its probabilities and those of the reference.
"""

import sys

import jax
import jax.export
import numpy as np


def main(model: str, reference: str) -> None:
    """Compare a model's probabilities, for each of some batch sizes, with others.

    reference: .npz of `images` [n, S, S, 3] uint8, `probabilities` [n, C] and
    `batch_sizes`, n at most.
    """
    with open(model, "rb") as file:
        exported = jax.export.deserialize(bytearray(file.read()))
    arrays = np.load(reference)
    call = jax.jit(exported.call)
    differences = [
        np.abs(np.asarray(call(arrays["images"][:n])) - arrays["probabilities"][:n])
        for n in arrays["batch_sizes"].tolist()
    ]
    # NumPy's maximum, unlike Python's, is NaN where there is one.
    print(float(np.max([difference.max() for difference in differences])))


if __name__ == "__main__":
    main(*sys.argv[1:])
