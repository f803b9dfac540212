"""The detection app: ``python app.py``, port 5000."""

from modelserver.core.prerequisites import checked

with checked("tensorflow"):
    from modelserver.tasks import DETECTION
    from modelserver.web.factory import create_app
    from modelserver.web.server.config import serve, start_errors

with start_errors():
    app = create_app(DETECTION)

if __name__ == "__main__":
    serve(app, default_port=DETECTION.endpoint.port)
