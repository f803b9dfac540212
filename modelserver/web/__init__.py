"""HTTP: the only part of the package that knows Flask and gunicorn."""

import sys

# Before anything that is not there on Windows is imported.
if sys.platform == "win32":
    raise SystemExit("modelserver: does not run on Windows: start it inside WSL2.")
