"""HTTP: the only part of the package that knows Flask and gunicorn."""
