"""The main job, its stages, and finished runs applied to other data."""
