"""Scoring, segmentation and post-processing of volumes of any size."""
