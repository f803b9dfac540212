"""Read by ``gunicorn app:app`` in this folder; ``python app.py`` has the same table."""

import sys

from modelserver.web.server.config import configuration

globals().update(configuration(sys.argv))
