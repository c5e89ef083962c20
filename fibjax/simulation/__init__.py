"""Simulated FIB-SEM films with exact ground truth."""
