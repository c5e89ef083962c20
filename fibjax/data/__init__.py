"""Volumes, regions and label files: what comes in from outside and goes back."""
