"""The structure of the package, held by tests."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "modelserver"
# Which folders a folder may use besides itself.
MAY_USE = {
    "core": set(),
    "tasks": {"core"},
    "decoder": {"core"},
    "runner": {"core", "tasks"},
    "engine": {"core", "tasks", "decoder", "runner"},
    "web": {"core", "tasks", "engine"},
    "client": {"core"},
    "tools": {"core", "tasks", "decoder", "runner", "engine", "client", "web"},
}
# Of the tools only this one starts the server.
USES_WEB = "tools/cli/serve.py"
TOP = {"__init__": set(), "__main__": {"core", "tools"}}
HOME = {
    "tensorflow": {"runner", "tools/importing"},
    "tf_keras": {"tools/importing"},
    "PIL": {"decoder", "client"},
    "pillow_heif": {"decoder"},
    "simplejpeg": {"decoder"},
    "flask": {"web"},
    "grpc": {"web/grpc_door"},
    "grpc_health": {"web/grpc_door"},
    "grpc_reflection": {"web/grpc_door"},
    "werkzeug": {"web"},
    "gunicorn": {"web"},
    "multipart": {"web"},
    "apispec": {"web/openapi"},
    "structlog": {"core/logs.py"},
    "prometheus_client": {"core/metrics.py"},
    "pynvml": {"engine/runners"},
    "httpx": {"client"},
    "click": {"tools"},
    "opentelemetry": {"web"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Absolute names that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_package_has_the_folders_of_the_design():
    """A new folder has its line in the table, and nothing else lies at the top."""
    entries = {path.relative_to(PACKAGE).parts[0] for path in FILES}
    assert entries == {*MAY_USE, *(f"{name}.py" for name in TOP)}


def test_the_design_page_shows_what_a_folder_may_use():
    """The last column of its picture of folders is the table here."""
    text = (PACKAGE.parent / "docs" / "design.md").read_text()
    lines = re.findall(r"^  (\w+)/ .*  (\S.*)$", text, re.MULTILINE)
    told = {name: set(re.findall(r"\w+", may)) & set(MAY_USE) for name, may in lines}
    assert told == MAY_USE


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_folder_uses_the_folders_of_its_line(path):
    """A module imports what its folder may use only, and each framework has one home."""
    here = path.relative_to(PACKAGE)
    me = here.with_suffix("").parts[0]
    may_use = {me, *MAY_USE.get(me, TOP.get(me, set()))}
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "modelserver" and rest:
            folder = rest.split(".")[0]
            assert folder in may_use or folder not in MAY_USE, f"{me} uses {folder}"
            if folder == "web" and me != "web":
                assert here.as_posix() == USES_WEB
        homes = HOME.get(top, {""})
        assert any(here.as_posix().startswith(home) for home in homes), name


def test_no_module_imports_itself_by_way_of_others():
    """There is no circle of imports, those for type checking included."""
    names = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = path
    uses = {}
    for name, path in names.items():
        found = {
            one if one in names else one.rpartition(".")[0] for one in imports(path)
        }
        uses[name] = {one for one in found if one in names} - {name, "modelserver"}
    TopologicalSorter(uses).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_stays_readable(path):
    """No file is longer than 600 lines and no function longer than 45."""
    if path.name.endswith("_pb2.py"):
        pytest.skip("generated")
    text = path.read_text()
    assert text.count("\n") <= 600
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name


WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
# An HTTP date in Retry-After is of the wall clock, and so is when a span began, and
# when a model was asked last.
TELLS_DATES = {
    "client/retries.py",
    "web/dialects/inference.py",
    "web/traces.py",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_wait_is_of_a_clock_that_jumps(path):
    """Timeouts, rates and ages are of the monotonic clock, whatever sets the other."""
    calls = {
        f"{ast.unparse(node.value).rpartition('.')[2]}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    if path.relative_to(PACKAGE).as_posix() not in TELLS_DATES:
        assert calls & WALL_CLOCKS == set()
    assert "from time import" not in path.read_text()


@pytest.mark.process
def test_importing_the_package_imports_no_framework():
    """``import modelserver`` is cheap: neither TensorFlow nor Flask comes with it."""
    code = "import modelserver, sys; print({'tensorflow', 'flask'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "set()"
