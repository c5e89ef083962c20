"""Alignment and cleaning of raw stacks; recorded and replayable."""
