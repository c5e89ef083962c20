"""Speed and memory figures."""
