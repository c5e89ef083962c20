"""Confusion counts, calibration and paired comparison."""
