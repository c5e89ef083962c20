"""Correction of raw stacks (recorded and replayable) and scaling of grey values."""
