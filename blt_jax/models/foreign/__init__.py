"""Weights that other programs trained, read safely and renamed."""
