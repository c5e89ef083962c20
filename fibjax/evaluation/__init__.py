"""Metrics of runs on annotated regions."""
