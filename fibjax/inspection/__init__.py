"""Inspection of a raw stack: detects problems before any computing."""
