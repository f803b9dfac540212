"""The objects behind an app, where it serves the models itself and where it does not."""

import os
from types import SimpleNamespace

import pytest

from modelserver.core.errors import Overloaded
from modelserver.core.refusals import make_page
from modelserver.tasks import DETECTION
from modelserver.web.backend import Backend
from modelserver.web.dialects.table import DIALECTS
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


def test_a_closed_backend_refuses_what_still_asks(folder):
    """A request that outlives its door's models is a 503, not a bug."""
    settings = make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=folder / "pics")
    descriptor = make_page(4)
    backend = Backend([DETECTION], settings)
    backend.join("/nowhere", descriptor)
    os.close(descriptor)
    backend.start()
    backend.close()
    with pytest.raises(Overloaded, match="closing"):
        backend.link.ask("models")
    backend.count_unreadable(400)
    assert backend.refusal(1) is None


@pytest.mark.parametrize(
    ("path", "dialect", "counted"),
    [
        ("/detect", None, ("/detect", "", 503)),
        ("/detect/more", None, ("/detect", "", 503)),
        ("/v2/models/x/infer", "v2", ("/v2/models/<model>/infer", "", 503, "v2")),
        ("/v1/vision/custom/list", "deepstack", None),
        ("/v2/none", "v2", ("", "", 503, "v2")),
    ],
)
def test_what_no_app_answered_is_counted_under_its_route(
    path, dialect, counted, folder, monkeypatch
):
    """As it is defined, so that text from clients makes no series."""
    settings = make_settings(MODEL_FOLDER=folder, UPLOAD_FOLDER=folder / "pics")
    backend = Backend([DETECTION], settings)
    told, refused = [], []
    link = SimpleNamespace(
        count=lambda *facts: told.append(facts), count_refusal=refused.append
    )
    monkeypatch.setattr(backend, "_link", link)
    error = Overloaded()
    backend.count_refusal(error, path, 503, DIALECTS[dialect] if dialect else None)
    assert told == [counted or (path, "", 503, dialect)]
    assert refused == [error.slug]
    monkeypatch.undo()
