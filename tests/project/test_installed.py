"""The package as pip installs it: a wheel in an environment elsewhere.

No network is needed. The wheel is built with the setuptools that is here, and the packages
that it asks for are links to those that are here: exactly what its metadata names, so an
environment without an extra lacks what the extra would bring.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from modelserver import __version__
from support import tiny_graphs
from support.app_client import photo
from support.servers import ROOT, started
from support.tiny_graphs import write

pytestmark = pytest.mark.real

RED = (250, 20, 20)
SERVER = ["check", "import", "inspect", "labels", "models", "serve"]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements*", "constraints*")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the project without what builds leave behind."""
    asked = next(
        Requirement(line)
        for line in (ROOT / "requirements-dev.txt").read_text().splitlines()
        if line.startswith("setuptools")
    )
    here = Version(metadata.version("setuptools"))
    assert here in asked.specifier, f"run script/bootstrap --dev: setuptools is {here}"
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "modelserver", source / "modelserver", ignore=ignored)
    for pattern in SOURCES:
        for file in ROOT.glob(pattern):
            shutil.copy(file, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", target, source)
    (made,) = target.glob("*.whl")
    return made


def pip(command, *words):
    """Run pip, which must find everything on this machine."""
    line = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", command]
    subprocess.run([*line, "--no-index", *map(str, words)], check=True)


class Environment:
    """A virtual environment with the wheel and what it asks for.

    Attributes:
        folder: an empty folder, far from the project.
    """

    def __init__(self, root, wheel, extra=""):
        self.folder = root / "elsewhere"
        self.folder.mkdir()
        venv.create(root / "venv", with_pip=False, symlinks=True)
        self.bin = root / "venv" / "bin"
        line = [sys.executable, "-m", "pip", "-q", "--python", self.bin / "python"]
        line += ["install", "--no-index", "--no-deps", wheel]
        subprocess.run(line, check=True)
        (site,) = (root / "venv").glob("lib/python*/site-packages")
        (found,) = site.glob("modelserver-*.dist-info")
        link(closure(metadata.PathDistribution(found), extra), site)

    def run(self, *words, code=0, **environ):
        """Run the command; give what it wrote."""
        done = subprocess.run(
            [self.bin / "modelserver", *map(str, words)],
            cwd=self.folder,
            env={**clean(), **environ},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return done

    def python(self, code):
        """Run some Python; give its output."""
        return subprocess.run(
            [self.bin / "python", "-c", code],
            cwd=self.folder,
            env=clean(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout


def clean():
    """This process's environment, without paths of Python's."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def closure(dist, extra):
    """All distributions that one needs with an extra, by name."""
    found, asked = {}, [(dist, {"", extra})]
    while asked:
        one, extras = asked.pop()
        for text in one.requires or ():
            need = Requirement(text)
            marker = need.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras):
                new = set(need.extras) | {""}
                before = found.setdefault(need.name.lower(), set())
                if not before or new - before:
                    found[need.name.lower()] = before | new
                    asked.append((metadata.distribution(need.name), new))
    return found


def link(names, site):
    """Put links to installed distributions into another environment."""
    for name in names:
        dist = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in dist.files}:
            if top not in {"..", "__pycache__"} and not (site / top).exists():
                (site / top).symlink_to(dist.locate_file(top))


@pytest.fixture(scope="module")
def base(wheel, tmp_path_factory):
    """An environment after ``pip install .``."""
    return Environment(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture(scope="module")
def full(wheel, tmp_path_factory):
    """An environment after ``pip install '.[cpu]'``, or with the GPU's TensorFlow."""
    names = {one.name for one in metadata.distributions()}
    extra = "gpu" if "tensorflow" in names else "cpu"
    return Environment(tmp_path_factory.mktemp("full"), wheel, extra)


def test_a_wheel_has_every_file_of_the_package_and_no_other(wheel):
    """Templates, the page's files and the label map's schema are in it, tests are not."""
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in packed if ".dist-info/" not in name} == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "modelserver").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert f"modelserver-{__version__}.dist-info/licenses/LICENSE" in packed


def test_the_base_brings_what_client_and_command_need_and_no_more(base):
    """Neither has the server's packages, and both work."""
    out = base.python(
        "import sys, modelserver.tools.cli\n"
        "from modelserver.client import AsyncClient, Client\n"
        "from importlib.util import find_spec\n"
        "names = 'flask', 'gunicorn', 'multipart', 'numpy', 'PIL', 'tensorflow'\n"
        "print([name for name in names if find_spec(name)])"
    )
    assert out == "[]\n"


def test_the_command_says_its_version(base):
    """One version, the package's."""
    assert base.run("--version").stdout == f"modelserver, version {__version__}\n"


@pytest.mark.parametrize("name", SERVER)
def test_without_the_servers_packages_a_command_says_what_to_install(base, name):
    """In one sentence, whatever it was asked for."""
    for words in ([name], [name, "--help"], [name, "a", "--folder", "b"]):
        done = base.run(*words, code=2)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: modelserver {name} needs the server's packages")
        assert "pip install 'modelserver[cpu]'" in line
        assert "pip install 'modelserver[gpu]'" in line


def test_help_needs_no_package_of_the_servers(base):
    """All commands are listed."""
    assert set(SERVER) < set(base.run("--help").stdout.split())


def test_an_empty_folder_is_told_what_to_put_there(full, tmp_path):
    """The server runs and finds what comes; nothing is downloaded unasked."""
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    serving = started(
        *(full.bin / "modelserver", "serve"),
        folder="models",
        uploads=tmp_path / "pics",
        tmp_path=tmp_path,
        python=full.bin / "python",
        cwd=elsewhere,
        PYTHONPATH="",
    )
    with serving as server:
        server.wait("/livez")
        assert server.end() == 0
    (line,) = (
        line
        for line in (tmp_path / "stderr").read_text().splitlines()
        if line.startswith("modelserver: ")
    )
    assert "NAME.frozen.pb and NAME.label_map.pbtxt" in line
    assert "modelserver models install all --samples" in line
    assert list(elsewhere.iterdir()) == []


def test_what_is_missing_is_named_as_pip_knows_it(base):
    """A wheel has no requirements files and no app.py to be named."""
    code = (
        "from modelserver.core.extras import install_command, serve_command\n"
        "print(install_command('otel'))\n"
        "print(serve_command('classify', 'app_classify.py'))"
    )
    assert base.python(code).splitlines() == [
        "pip install 'modelserver[otel]'",
        "modelserver serve classify",
    ]


def test_without_tensorflow_nothing_is_started(full):
    """A server that could load no model says so before it listens."""
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from modelserver.tools.cli import main; main(['serve'], prog_name='modelserver')"
    )
    done = subprocess.run(
        [full.bin / "python", "-c", code],
        cwd=full.folder,
        env=clean(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "tensorflow is not installed" in done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with a detector and a classifier."""
    folder = tmp_path_factory.mktemp("models")
    write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    labels = "".join(f'item {{ id: {n} name: "thing {n}" }}\n' for n in range(1, 28))
    (folder / "echo.label_map.pbtxt").write_text(labels)
    write(folder / "colour.pb", tiny_graphs.classifier())
    (folder / "colour.labels.txt").write_text("red\ngreen\nblue\n")
    return folder


DETECT, CLASSIFY = ("echo", "thing 26", []), ("colour", "red", ["--classify"])
ASKED = {"detect": [DETECT], "classify": [CLASSIFY], "all": [DETECT, CLASSIFY]}


@pytest.mark.parametrize("task", ASKED)
def test_serve_serves_from_an_empty_folder_and_predict_asks(
    base, full, models, tmp_path, task
):
    """The server of one environment, from its own wheel, and the client of another."""
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    (tmp_path / "photo.png").write_bytes(photo(RED))
    serving = started(
        *(full.bin / "modelserver", "serve", task, "--port", "0", "--models", models),
        folder="nowhere",
        uploads=tmp_path / "pics",
        tmp_path=tmp_path,
        python=full.bin / "python",
        cwd=elsewhere,
        PORT="1",
        PYTHONPATH="",
    )
    with serving as server:
        server.wait()
        assert "page.js" in server.wait("/").text
        server.wait("/static/page.js")
        for model, label, flags in ASKED[task]:
            words = ["predict", tmp_path / "photo.png", "--model", model, *flags]
            assert label in base.run(*words, "--url", server.url).stdout
        assert server.end() == 0
    assert list(elsewhere.iterdir()) == []
