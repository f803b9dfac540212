"""Which tasks an app serves, told to another process."""

import os
import sys
from types import SimpleNamespace

import pytest

from modelserver.core.errors import StartError
from modelserver.tasks import CLASSIFICATION, DETECTION
from modelserver.web.server import served_tasks


class Bright:
    """Stands for a task from outside: the real one would stay registered here."""

    __module__ = "support.brightness"
    kind = "brightness"


BRIGHTNESS = Bright()


def app(*tasks):
    """Return an app that serves tasks."""
    return SimpleNamespace(extensions={"modelserver": SimpleNamespace(tasks=tasks)})


def test_kinds_come_before_the_modules_of_tasks_from_outside():
    """A task of this package is known by its kind alone."""
    assert served_tasks.of_app(app(BRIGHTNESS, DETECTION)) == [
        "brightness",
        "detection",
        "--import",
        "support.brightness",
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (SimpleNamespace(name="bright"), ["brightness", "--import", "bright"]),
        (None, None),
    ],
    ids=["module", "script"],
)
def test_a_main_module_is_told_by_its_real_name(spec, words, monkeypatch):
    """``python -m NAME`` can be imported by its name; a script cannot."""
    monkeypatch.setattr(type(BRIGHTNESS), "__module__", "__main__")
    main = SimpleNamespace(__spec__=spec)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert served_tasks.describe([BRIGHTNESS]) == words


@pytest.mark.process
def test_an_app_is_asked_in_a_process_of_its_own(capfd):
    """Nothing that the app does when it is imported stays here."""
    done = []

    def load():
        done.append(1)
        os.write(2, b"loaded")
        return app(CLASSIFICATION, DETECTION)

    assert served_tasks.ask_app(load) == ["classification", "detection"]
    assert done == []
    assert capfd.readouterr().err == ""


@pytest.mark.process
@pytest.mark.parametrize("error", [StartError("no"), SystemExit(3), AttributeError()])
def test_an_app_that_cannot_be_loaded_tells_nothing(error, capfd):
    """Who serves it says why."""

    def load():
        raise error

    assert served_tasks.ask_app(load) is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("app:app", ["detection"]),
        ("app_classify", ["classification"]),
        ("app", ["detection"]),
    ],
)
def test_the_two_apps_are_known_without_being_loaded(uri, words):
    """Gunicorn's command line names them."""
    assert served_tasks.of_gunicorn(SimpleNamespace(app_uri=uri, wsgi=None)) == words


@pytest.mark.process
@pytest.mark.parametrize("uri", ["app:app", "other:app", None])
def test_other_apps_are_asked(uri, monkeypatch, tmp_path):
    """An app of the same name in another folder is another app."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.py").touch()
    application = SimpleNamespace(app_uri=uri, wsgi=lambda: app(CLASSIFICATION))
    assert served_tasks.of_gunicorn(application) == ["classification"]
