"""Member-parallel training: step, loop, losses, optimisers, checkpoints."""
