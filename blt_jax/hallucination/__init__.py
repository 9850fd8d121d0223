"""Perturb images towards a confusing class by gradient ascent (Sec. 3.1)."""
