"""Run one model in a process of its own: read its graph, rewrite it and run it."""
