"""The process of one model: reads its graph, rewrites it and runs it."""
