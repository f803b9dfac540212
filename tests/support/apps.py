"""Apps in this process, with their models loaded, for tests that share one."""

from contextlib import contextmanager

from modelserver.engine.catalogue import State
from modelserver.tasks import by_kind
from modelserver.web.factory import create_app
from support.app_client import SECONDS, make_settings


@contextmanager
def loaded(kinds, folder, uploads, **environ):
    """Give an app of some kinds of tasks, once none of its models loads any more."""
    settings = make_settings(
        MODEL_FOLDER=folder, UPLOAD_FOLDER=uploads, ISOLATION="inline", **environ
    )
    app = create_app([by_kind(kind) for kind in kinds], settings)
    backend = app.extensions["modelserver"]
    try:
        backend.start()
        assert backend.engine.registry.wait(
            lambda registry: all(e.state is not State.LOADING for e in registry),
            SECONDS,
        )
        yield app
    finally:
        backend.close()
