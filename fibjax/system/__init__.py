"""Files, run folders, devices, memory, clusters, progress, signals, and boxes."""
