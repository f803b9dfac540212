"""Fixtures that several test files share."""

import os

import pytest

from modelserver.engine.catalogue import State
from support.app_client import SECONDS, left_in, make_settings
from support.quick import LEFT_OUT, pytest_configure, pytest_runtest_protocol
from support.skips import (
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from support.transports import EngineAtSocket, pytest_generate_tests
from support.zoo_models import zoo_folder

# Slots, limits and devices are expected as on a CPU, also where there is a GPU and
# TensorFlow for it. What tests of GPUs need they set themselves. Here, so that it comes
# before TensorFlow, and so that what tests start inherits it.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.pop("REQUIRE_GPU", None)

# A fixture for all files, and pytest's hooks: what was skipped, what is quick, and over
# what tests run.
__all__ = [
    "pytest_collectreport",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_logreport",
    "pytest_runtest_protocol",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "zoo_folder",
]


def pytest_addoption(parser):
    """``--slow`` runs the tests that take minutes, too; ``--quick`` needs no process."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")
    parser.addoption(
        "--quick",
        action="store_true",
        help="run what needs no process and no browser",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out what was not asked for."""
    left_out = set(LEFT_OUT) if config.getoption("--quick") else {"slow"}
    if config.getoption("--slow"):
        left_out -= {"slow"}
    others = [
        item for item in items if left_out & {m.name for m in item.iter_markers()}
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in set(others)]


@pytest.fixture
def folder(tmp_path):
    """An empty model folder."""
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def uploads(tmp_path):
    """An upload folder that must be empty after the test."""
    path = tmp_path / "pics"
    path.mkdir()
    yield path
    assert left_in(path) == []


@pytest.fixture
def transport(request):
    """How messages cross between door and engine; see ``support.transports``."""
    return getattr(request, "param", "call")


@pytest.fixture
def serving(folder, uploads, transport):
    """A function that serves what lies in the model folder and gives a test client.

    Sessions are in this process unless a test asks otherwise, which is fast.
    """
    from modelserver.tasks import by_kind
    from modelserver.web.factory import create_app

    apps, engines = [], []

    def serve(*kinds, **environ):
        defaults = {
            "MODEL_FOLDER": folder,
            "UPLOAD_FOLDER": uploads,
            "ISOLATION": "inline",
        }
        tasks = [by_kind(kind) for kind in kinds or ("detection",)]
        app = create_app(tasks, make_settings(**{**defaults, **environ}))
        apps.append(app)
        backend = app.extensions["modelserver"]
        if transport == "socket":
            engines.append(EngineAtSocket(backend.engine))
            engines[-1].admit(backend)
        backend.start()
        assert backend.engine.registry.wait(
            lambda registry: all(e.state is not State.LOADING for e in registry),
            SECONDS,
        )
        return app.test_client()

    yield serve
    for app in apps:
        app.extensions["modelserver"].close()
    for engine in engines:
        engine.close()
