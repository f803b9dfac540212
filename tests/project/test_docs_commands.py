"""Every command of the documents is run, or it is said here why not."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise

import httpx
import pytest
from click.testing import CliRunner

from modelserver.tools.cli import main
from support import foreign_models, layers_files, tiny_graphs
from support.app_client import photo
from support.servers import ROOT, SECONDS, started, wait_for

DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
PROGRAM = ["python", "-m", "modelserver"]
LABELS = "0 apple\n1 pear\n2 plum\n3 cherry\n"

# Run by another test: document, how the command begins, who runs it.
ELSEWHERE = [
    ("README.md", "curl -F", "project/test_docs.py::test_the_readmes_curl_gets"),
    (
        "README.md",
        "HOST=0.0.0.0",
        "project/test_docs.py::test_the_readmes_line_for_others",
    ),
    ("README.md", "curl -H", "project/test_docs.py::test_the_readmes_line_for_others"),
    ("dialects.md", "curl", "project/test_docs_dialects.py::test_the_commands_of_the"),
    ("client.md", "python -m", "real/test_client.py::test_the_documents_command_runs"),
    (
        "import.md",
        "python -m",
        "project/test_docs_bring.py::test_the_commands_of_the_import",
    ),
    (
        "doctor.md",
        "python -m",
        "project/test_docs_bring.py::test_the_commands_of_the_doctors",
    ),
    ("zoo.md", "python -m modelserver models", "tools/test_cli.py::test_"),
    (
        "",
        "script/server",
        "project/test_scripts.py::test_the_server_script_starts_an_app",
    ),
    ("", "script/test", "project/test_scripts.py::test_the_test_script_hands_on"),
    ("", "script/check", "project/test_scripts.py::test_the_check_script_fails"),
    ("", "script/bootstrap", "project/test_scripts.py::test_a_fresh_clone_is_set_up"),
    ("", "script/gpu-proof", "project/test_scripts.py::test_the_proof_script_sets_up"),
    (
        "",
        "python -m modelserver doctor gpu",
        "tools/test_doctor_gpu.py::test_this_machine_can_be_asked",
    ),
]
# Not run: document, how the command begins, why.
NOT_RUN = [
    ("CONTRIBUTING.md", ".ci/run", "runs these very tests"),
    ("deploy/README.md", "", "needs root and a machine that may be changed"),
    ("", "systemctl", "needs root and systemd; test_deploy.py looks at the unit"),
    ("", "journalctl", "needs systemd and the service"),
    ("", ". .venv/bin/activate", "the tests have an environment of their own"),
    ("", ".venv/bin/pip install", "needs the network, and changes the environment"),
    ("benchmarks.md", ".venv/bin/python -m benchmarks", "takes minutes"),
    ("metrics.md", "OTEL_", "serves until it is stopped, and needs a collector"),
    ("tune.md", "PORT=", "serves until it is stopped; the servers here stand for both"),
]


def name(path):
    """A document's name: the file's, but for those that are not in docs/."""
    return path.name if path.parent.name in {"docs", ROOT.name} else "deploy/README.md"


def steps(path):
    """A document's commands in order, each with the answer that it promises or None."""
    fenced = re.findall(
        r"^( *)```(\w*)\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL
    )
    blocks = [(language, text) for _, language, text in fenced]
    for (language, text), (after, promised) in pairwise([*blocks, ("", "")]):
        if language == "sh":
            *others, last = split(text)
            yield from ((command, None) for command in others)
            yield last, json.loads(promised) if after == "json" else None


def split(text):
    """The commands of a block: lines, or a loop as a whole."""
    text = re.sub(r"\\\n *", "", text)
    lines = [line.split("  #")[0].strip() for line in text.strip().splitlines()]
    return [text.strip()] if lines[0].startswith("for ") else lines


def entry(table, page, command):
    """The first line of a table that is about a command."""
    return next(
        (
            line
            for line in table
            if line[0] in ("", page) and command.startswith(line[1])
        ),
        None,
    )


def ours(path):
    """The steps of a document that are to be run here."""
    for command, promised in steps(path):
        page = name(path)
        if not entry(ELSEWHERE, page, command) and not entry(NOT_RUN, page, command):
            yield command, promised


def test_every_exception_is_about_a_command():
    """And every test that is named is there."""
    every = [(name(path), command) for path in DOCS for command, _ in steps(path)]
    for line in [*ELSEWHERE, *NOT_RUN]:
        assert any(entry([line], *one) for one in every), line
    for _, _, test in ELSEWHERE:
        file, _, function = test.partition("::")
        assert f"def {function}" in (ROOT / "tests" / file).read_text(), test


def test_shell_commands_are_marked_as_such():
    """A command in a block of another kind would escape these tests."""
    for path in DOCS:
        fenced = re.findall(
            r"^ *```(\w*)\n(.*?)^ *```", path.read_text(), re.MULTILINE | re.DOTALL
        )
        for language, text in fenced:
            first = text.split()[0] if text.split() else ""
            if first in {"curl", "python", "pip", "systemctl", "cp", "kill"}:
                assert language == "sh", (path.name, text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader has it: exports, labels, a photo, and two tiny models."""
    place = tmp_path_factory.mktemp("documents")
    for folder in ("models", "exported", "bin", "pics", "logs", "pics2", "logs2"):
        (place / folder).mkdir()
    tiny_graphs.write(place / "models" / "tiny.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(
        place / "exported" / "frozen_inference_graph.pb", tiny_graphs.echo_detector()
    )
    (place / "exported" / "label_map.pbtxt").write_text('item { id: 1 name: "seal" }\n')
    foreign_models.detector(place / "exported" / "saved_model")
    keras = foreign_models.keras_model()
    keras.export(place / "model.savedmodel", format="tf_saved_model", verbose=False)
    keras.save(place / "my_model.keras")
    foreign_models.graph_model(place / "web_model")
    foreign_models.older_keras_file(place / "keras_model.h5")
    layers_files.write(place / "teachable", layers_files.teachable(), converted=False)
    layers_files.metadata(place / "teachable", ["ball", "doll", "kite"])
    vision = place / "customvision"
    vision.mkdir()
    tiny_graphs.write(vision / "model.pb", tiny_graphs.classifier())
    (vision / "labels.txt").write_text("river\nsea\ngiant\n")
    (vision / "cvexport.manifest").write_text('{"DomainType": "Classification"}')
    (place / "labels.txt").write_text(LABELS)
    for photograph in ("photo.jpg", "tiny.test.jpg"):
        (place / photograph).write_bytes(photo(form="JPEG"))
    python = place / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def urls(place):
    """Both apps on the reader's models, by the port that the documents name."""
    quick = {"folder": place / "models", "ISOLATION": "inline", "RELOAD_S": "0.2"}
    detecting = started(
        "app.py", uploads=place / "pics", tmp_path=place / "logs", **quick
    )
    classifying = started(
        "app_classify.py", uploads=place / "pics2", tmp_path=place / "logs2", **quick
    )
    with detecting as one, classifying as other:
        one.wait()
        other.wait("/livez")
        yield {"5000": one.url, "5432": other.url}


def adapted(command, urls):
    """A command with the servers and the model that are here, and with short loads."""
    place = r"http://(?:127\.0\.0\.1|gpu-box):(\d+|\$port)"
    command = re.sub(
        place, lambda found: urls.get(found[1], urls["5000"]), command
    ).replace("NAME", "tiny")
    short = "bench --clients 1 --seconds 0.1 --rounds 1"
    bench = re.sub(r"(?<=-m modelserver )bench\b", short, command)
    if bench != command and "--url" not in bench:
        bench += f" --url {urls['5000']}"
    return bench.replace("1 2 3 4 5;", "1;")


def run(command, place):
    """Run a command in the reader's folder; returns what it printed."""
    words = shlex.split(command)
    if words[:3] == PROGRAM:
        result = CliRunner().invoke(main, words[3:], env={"ISOLATION": "inline"})
        assert result.exit_code == 0, f"{command}\n{result.output}"
        return result.output
    path = f"{place / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=place,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def wait_for_model(command):
    """Wait, as a reader does, until the model that a command asks serves."""
    asked = re.search(r"-F modelname=(\S+) .*(http://[\d.:]+)/", command)
    if asked:
        wait_for(
            lambda: any(
                (one["name"], one["state"]) == (asked[1], "READY")
                for one in httpx.get(f"{asked[2]}/models").json()["models"]
            ),
            f"{asked[1]} serves",
        )


def alike(told, got):
    """Whether two JSON values have the same keys and kinds; lists by their first."""
    if isinstance(told, list):
        return isinstance(got, list) and all(map(alike, told, got)) and bool(got)
    if isinstance(told, dict):
        return list(told) == list(got) and all(alike(told[k], got[k]) for k in told)
    return type(told) is type(got)


# Models that serve in the end: both exports of Teachable Machine, Custom Vision's, ...
SERVED = {
    "tutorial.md": {
        *("seals", "birds", "otter_types", "toys", "fruit", "berries"),
        *("plants", "leaves"),
    }
}
RUN = [path for path in DOCS if any(ours(path))]


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:__array__ impl:DeprecationWarning")  # Keras's
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_the_commands_of_a_document_run(path, place, urls, monkeypatch):
    """In order, in one folder, but for ports and names; answers are of the told form."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("MODEL_FOLDER", raising=False)
    # The commands that read graphs set it, and it would stay.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    for words, promised in ours(path):
        command = adapted(words, urls)
        wait_for_model(command)
        printed = run(command, place)
        if promised is not None:
            assert alike(promised, json.loads(printed)), printed
    wait_for(lambda: SERVED.get(path.name, set()) <= ready(urls), "all models serve")


def ready(urls):
    """Names of the models that serve."""
    models = [
        model
        for url in urls.values()
        for model in httpx.get(f"{url}/models").json()["models"]
    ]
    return {model["name"] for model in models if model["state"] == "READY"}
