"""The commands of `blt-jax`: one file each, with `add_arguments` and `run`."""
