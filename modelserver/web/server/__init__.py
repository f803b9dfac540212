"""gunicorn, set up and extended for uploads from slow and hostile clients."""
