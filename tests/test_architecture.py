"""The structure of the package, held by tests."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "modelserver"
LAYERS = (
    {"errors", "extras", "held", "_label_map_pb2"},
    {"settings", "logs", "metrics", "signatures", "cuda"},
    {"exports"},
    {
        "labels",
        "discovery",
        "recovery",
        "images",
        "uploads",
        "batching",
        "admission",
        "options",
    },
    {"graphs", "rewriting", "detection", "classification", "findings"},
    {"sessions"},
    {"runners"},
    {"registry", "models", "golden", "hotfolder"},
    {"service"},
    {"albums"},
    {"web", "conversion", "client"},
    {"zoo", "doctor", "scaleout", "bench"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HOME = {
    "tensorflow": {"graphs", "rewriting", "sessions", "conversion"},
    "PIL": {"images", "client"},
    "pillow_heif": {"images"},
    "simplejpeg": {"images"},
    "flask": {"web"},
    "werkzeug": {"web"},
    "gunicorn": {"web"},
    "multipart": {"web"},
    "apispec": {"web"},
    "structlog": {"logs"},
    "pynvml": {"runners"},
    "httpx": {"client"},
    "prometheus_client": {"metrics"},
    "opentelemetry": {"web"},
    "ray": {"scaleout"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path):
    """Absolute names that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    """A module imports lower layers only, and each framework has one home."""
    me = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if me == "__init__":
        me = "errors"
    assert me in RANK, f"{me} stands in no layer"
    for name in imports(path):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top == "modelserver" and other in RANK and other != me:
            assert RANK[other] < RANK[me], f"{me} must not import {other}"
        assert me in HOME.get(top, {me}), f"{top} belongs to {HOME[top]}"


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
# An HTTP date in Retry-After is of the wall clock, and so is when a span began.
TELLS_DATES = {"client/retrying.py", "web/traces.py"}


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


def test_importing_the_package_imports_no_framework():
    """``import modelserver`` is cheap: neither TensorFlow nor Flask comes with it."""
    code = "import modelserver, sys; print({'tensorflow', 'flask'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "set()"
