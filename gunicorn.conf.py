"""Read by ``gunicorn app:app`` in this folder; ``python app.py`` has the same table."""

import sys

from modelserver.web.serving import configuration

globals().update(configuration(sys.argv))
