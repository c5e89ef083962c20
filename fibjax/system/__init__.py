"""Files, devices, clusters, progress and signals."""
