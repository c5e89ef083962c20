"""Physical quantities of a segmentation, and their uncertainty."""
