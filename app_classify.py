"""The classification app: ``python app_classify.py``, port 5432."""

from modelserver.core.prerequisites import checked

with checked("tensorflow"):
    from modelserver.tasks import CLASSIFICATION
    from modelserver.web.factory import create_app
    from modelserver.web.server.config import serve, start_errors

with start_errors():
    app = create_app(CLASSIFICATION)

if __name__ == "__main__":
    serve(app, default_port=CLASSIFICATION.endpoint.port)
