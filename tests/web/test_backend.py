"""The objects behind an app, where it serves the models itself and where it does not."""

import os

import pytest

from modelserver.core.refusals import make_page
from modelserver.tasks import DETECTION
from modelserver.web.backend import Backend
from support.app_client import make_settings


@pytest.mark.parametrize(
    ("isolation", "page", "warns"),
    [("process", None, True), ("inline", None, False), ("process", 4, False)],
    ids=["alone", "asked-for", "door"],
)
def test_who_serves_without_an_engine_of_its_own_is_warned(
    isolation, page, warns, folder, caplog
):
    """Several such processes would hold every model several times."""
    settings = make_settings(
        MODEL_FOLDER=folder, UPLOAD_FOLDER=folder / "pics", ISOLATION=isolation
    )
    backend = Backend([DETECTION], settings)
    if page is not None:
        descriptor = make_page(page)
        backend.join("/nowhere", descriptor)
        os.close(descriptor)
    backend.start()
    backend.close()
    assert ("would hold every model" in caplog.text) == warns
