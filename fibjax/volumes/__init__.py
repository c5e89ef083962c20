"""Volumes on disk and their block-wise processing."""
