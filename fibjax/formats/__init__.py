"""Readers and writers of foreign file formats."""
