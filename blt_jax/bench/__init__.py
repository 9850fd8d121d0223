"""Measurements: what hallucination costs, and where the time goes."""
