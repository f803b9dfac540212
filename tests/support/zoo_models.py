"""The default models and sample photos, installed once for all the slow tests."""

import hashlib
from pathlib import Path

import pytest

from modelserver.tools import zoo
from modelserver.tools.zoo import catalogue

CACHE = Path(__file__).parents[2] / ".cache"
FOLDER = CACHE / "zoo"


def install_all():
    """Install what is missing and return the folder; photos are in its ``samples``."""
    for model in catalogue.MODELS:
        graph = FOLDER / model.graph.file
        # Left from before the conversion was changed: made anew.
        if graph.exists() and digest(graph) != model.sha256:
            graph.unlink()
        zoo.install(model.name, FOLDER, cache=CACHE / "packages")
    zoo.install_samples(FOLDER / "samples", cache=CACHE / "packages")
    return FOLDER


def digest(path):
    """Return the file's sha256 in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def zoo_folder():
    """Folder with both default models, and the sample photos in ``samples``."""
    return install_all()
