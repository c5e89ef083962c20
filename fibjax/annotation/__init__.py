"""Annotated regions: where to annotate, exchange with other programs, experts."""
