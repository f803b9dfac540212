"""Fixtures that several test files share."""

import io
import os
import time

import numpy as np
import pytest
from PIL import Image
from skips import (
    pytest_collectreport,
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
from zoo_models import zoo_folder

from modelserver.core.settings import Settings
from modelserver.engine.catalogue import Stage

SECONDS = 120

# Slots, limits and devices are expected as on a CPU, also where there is a GPU and
# TensorFlow for it. What tests of GPUs need they set themselves. Here, so that it comes
# before TensorFlow, and so that what tests start inherits it.
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ.pop("REQUIRE_GPU", None)

# A fixture for all files, and pytest's hooks that look at what was skipped.
__all__ = [
    "pytest_collectreport",
    "pytest_runtest_logreport",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "zoo_folder",
]


def pytest_addoption(parser):
    """``--slow`` runs the tests that take minutes, too."""
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    """Leave the slow tests out unless they were asked for."""
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


def make_settings(**environ):
    """Settings from variables, as an operator gives them."""
    return Settings.from_environ({name: str(value) for name, value in environ.items()})


def photo(colour=(200, 100, 50), size=(32, 24), form="PNG"):
    """A photo's file: one colour all over."""
    buffer = io.BytesIO()
    Image.new("RGB", size, tuple(colour)).save(buffer, form)
    return buffer.getvalue()


def noise(size=(48, 64), seed=0):
    """Pixels, uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


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


def left_in(folder):
    """What stays in a folder once the requests under way have been answered."""
    until = time.monotonic() + 20
    while (left := list(folder.iterdir())) and time.monotonic() < until:
        time.sleep(0.02)
    return left


@pytest.fixture
def serving(folder, uploads):
    """A function that serves what lies in the model folder and gives a test client.

    Sessions are in this process unless a test asks otherwise, which is fast.
    """
    from modelserver.web.factory import create_app

    apps = []

    def serve(kind="detection", **environ):
        defaults = {
            "MODEL_FOLDER": folder,
            "UPLOAD_FOLDER": uploads,
            "ISOLATION": "inline",
        }
        app = create_app(kind, make_settings(**{**defaults, **environ}))
        apps.append(app)
        backend = app.extensions["modelserver"]
        backend.start()
        assert backend.registry.wait(
            lambda registry: all(e.stage is not Stage.LOADING for e in registry),
            SECONDS,
        )
        return app.test_client()

    yield serve
    for app in apps:
        app.extensions["modelserver"].close()


EDGE = "edge-of-a-part"


def form(fields, file=None):
    """The bytes of a multipart form, as curl sends it."""
    parts = [
        f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + value.encode()
        for name, value in fields.items()
    ]
    if file is not None:
        head = 'Content-Disposition: form-data; name="file"; filename="photo.jpg"'
        parts.append(f"--{EDGE}\r\n{head}\r\n\r\n".encode() + file)
    return b"\r\n".join([*parts, f"--{EDGE}--\r\n".encode()])


def post(client, path, model, file, **options):
    """POST a multipart form and give the response."""
    return post_form(client, path, form({"modelname": model}, file), **options)


def post_form(client, path, body, **options):
    """POST a form's bytes and give the response."""
    kind = f"multipart/form-data; boundary={EDGE}"
    return client.post(path, data=body, content_type=kind, **options)
