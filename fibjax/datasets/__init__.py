"""Where the volumes and regions of a run come from."""
