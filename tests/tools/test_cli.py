"""The command line."""

import io
import subprocess
import sys

import pytest
from click.testing import CliRunner
from rich.console import Console

from modelserver.core.errors import InstallError
from modelserver.tools import zoo
from modelserver.tools.cli import commands, main
from modelserver.tools.cli.shared import show_progress


class FakeZoo:
    """Notes what is installed; ``broken`` makes every installation fail."""

    def __init__(self):
        self.installed, self.samples, self.caches = [], [], set()
        self.broken = False

    def install(self, name, folder, *, cache, progress):
        """Note a model."""
        if self.broken:
            raise InstallError("The network is down.")
        progress(0, 1, f"fetching {name}")
        progress(1, 1, f"installed {name}")
        self.installed.append((name, str(folder)))
        self.caches.add(cache)

    def install_samples(self, folder, *, cache, progress):
        """Note the photos."""
        self.samples.append(str(folder))

    def is_installed(self, name, folder):
        """Tell whether it was noted."""
        return (name, str(folder)) in self.installed


@pytest.fixture
def fake(monkeypatch):
    """A zoo that downloads nothing."""
    fake = FakeZoo()
    for name in ("install", "install_samples", "is_installed"):
        monkeypatch.setattr(zoo, name, getattr(fake, name))
    monkeypatch.delenv("MODEL_FOLDER", raising=False)
    return fake


def call(*arguments):
    """Call the command line."""
    return CliRunner().invoke(main, ["models", *arguments])


BOTH = [(name, "models") for name in zoo.names()]


@pytest.mark.parametrize(
    ("arguments", "installed"),
    [
        pytest.param([], BOTH, id="no name"),
        pytest.param(["all"], BOTH, id="all"),
        pytest.param(["efficientnet_lite0"], BOTH[1:], id="one name"),
        pytest.param([zoo.names()[1], zoo.names()[0]], BOTH[::-1], id="two names"),
    ],
)
def test_models_are_installed_by_name(fake, arguments, installed):
    """Without a name, or with 'all', every default model is installed."""
    result = call("install", *arguments)
    assert result.exit_code == 0
    assert fake.installed == installed
    assert fake.samples == []


def test_progress_is_plain_lines_off_a_terminal(fake):
    """A log or a pipe gets one line a step."""
    result = call("install", "efficientnet_lite0")
    assert result.stdout.splitlines() == [
        "fetching efficientnet_lite0",
        "installed efficientnet_lite0",
    ]


@pytest.mark.parametrize(
    ("environ", "option", "folder"),
    [
        pytest.param({}, [], "models", id="default"),
        pytest.param({"MODEL_FOLDER": "nets"}, [], "nets", id="environment"),
        pytest.param({"MODEL_FOLDER": ""}, [], "models", id="empty"),
        pytest.param({"MODEL_FOLDER": "n"}, ["--folder", "here"], "here", id="option"),
    ],
)
def test_the_folder_is_the_servers(fake, monkeypatch, environ, option, folder):
    """Models go to the server's folder by default."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    call("install", *option)
    assert {where for _, where in fake.installed} == {folder}


def test_samples_and_cache_are_options(fake):
    """Photos come on request, and downloads are kept on request."""
    call("install", "--samples", "--cache", "kept")
    assert fake.samples == ["samples"]
    assert {str(cache) for cache in fake.caches} == {"kept"}


def test_an_error_is_one_sentence(fake):
    """The error is on stderr, with exit code 1 and no traceback."""
    fake.broken = True
    result = call("install")
    assert result.exit_code == 1
    assert result.stderr == "Error: The network is down.\n"


def test_the_list_tells_what_is_installed(fake):
    """Each default model is listed with its task and state."""
    call("install", "efficientnet_lite0")
    lines = [line.split() for line in call("list").stdout.splitlines()]
    assert lines == [
        ["ssdlite_mobilenet_v2_coco", "detection", "not", "installed"],
        ["efficientnet_lite0", "classification", "installed"],
    ]


def test_progress_is_a_bar_on_a_terminal():
    """A terminal gets a bar, and a line for each step that is done."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with show_progress(console) as report:
        report(1, 2, "fetching nets [1]")
        report(2, 2, "installed nets")
    shown = console.file.getvalue()
    assert "installed nets\n" in shown
    assert "━" in shown
    assert "\x1b[" in shown


@pytest.mark.process
def test_the_command_line_imports_no_tensorflow():
    """``python -m modelserver`` answers at once."""
    code = (
        "import sys, runpy; sys.argv = ['modelserver', '--help']\n"
        "try: runpy.run_module('modelserver', run_name='__main__')\n"
        "except SystemExit: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "Usage: python -m modelserver" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_command_without_its_packages_names_the_python_that_has_them(monkeypatch):
    """Where script/server made one."""
    monkeypatch.setattr(commands, "made_python", lambda: ".venv/bin/python")
    monkeypatch.setattr(commands, "find_spec", lambda _name: None)
    result = CliRunner().invoke(main, ["check"])
    assert result.exit_code == 2
    assert "is not installed: .venv/bin/python has them; else pip" in result.stderr
