"""What the server can do with a photo: detect objects, or classify it."""
