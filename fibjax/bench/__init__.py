"""Speed and memory figures of fibjax on this machine (`fibjax bench`)."""
