"""How packages and commands are named, in the project's folder and installed."""

from importlib import metadata

import pytest

from modelserver.core import extras
from support.servers import ROOT


@pytest.fixture
def installed(monkeypatch):
    """A function that pretends that pip installed this package, or not."""

    def pretend(*, yes):
        def distribution(name):
            if not yes:
                raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "distribution", distribution)

    return pretend


@pytest.mark.parametrize("extra", ["cpu", "gpu", "grpc", "otel"])
def test_the_projects_folder_names_a_file_that_is_there(installed, extra):
    """Pip would look for an extra of a package that nobody installed."""
    installed(yes=False)
    assert (ROOT / extras.packages(extra)).is_file()
    assert extras.install_command(extra) == f"pip install -r {extras.packages(extra)}"
    assert extras.serve_command("detect", "app.py") == "python app.py"


def test_an_installed_package_names_its_extra(installed):
    """Quoted, as shells take the brackets for a pattern."""
    installed(yes=True)
    assert extras.packages("gpu") == "'modelserver[gpu]'"
    assert extras.install_command("gpu") == "pip install 'modelserver[gpu]'"
    assert extras.serve_command("detect", "app.py") == "modelserver serve detect"


def test_the_projects_own_python_is_named_to_another(tmp_path, monkeypatch):
    """As one types it: by a short name in the project's folder."""
    assert extras.made_python(tmp_path) == ""
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert extras.made_python(tmp_path) == str(python)
    monkeypatch.chdir(tmp_path)
    assert extras.made_python(tmp_path) == ".venv/bin/python"
    monkeypatch.setattr(extras.sys, "prefix", str(tmp_path / ".venv"))
    assert extras.made_python(tmp_path) == ""
