"""Rows and figures of the paper, from runs that are trained where missing."""
