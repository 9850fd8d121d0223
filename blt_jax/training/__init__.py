"""Joins data, model and method: the step, evaluation, checkpoints, the loop."""
