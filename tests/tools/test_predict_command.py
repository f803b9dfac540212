"""``python -m modelserver predict`` and what it writes."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from modelserver.tools.cli import main, predict
from support.bench_servers import stand_in, unused_url
from support.client_fakes import FOUND


@pytest.fixture
def server():
    """A stand-in for a running server."""
    with stand_in() as server:
        server.headers_too = {"X-Image-Width": "100", "X-Image-Height": "200"}
        server.answer = lambda _number: (200, json.dumps(FOUND).encode())
        yield server


@pytest.fixture
def photos(tmp_path):
    """A folder of three photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_bytes(name.encode())
    return folder


def call(source, *arguments, **environ):
    """Call the command."""
    words = ["predict", str(source), "--model", "net", *map(str, arguments)]
    return CliRunner().invoke(main, words, env={"API_TOKEN": None, **environ})


def test_json_lines_come_to_stdout(server, photos):
    """Each photo is a line, and the summary is on stderr."""
    result = call(photos, "--url", server.url)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(line["file"] for line in lines) == ["a.jpg", "b.jpg", "c.jpg"]
    assert all(line["detections"] == FOUND for line in lines)
    assert result.stderr.startswith("3 photos in ")
    assert result.stderr.endswith("; 0 failed.\n")
    assert {post[0] for post in server.posts} == {"/detect"}


@pytest.mark.parametrize("form", ["jsonl", "csv", "coco"])
def test_a_file_is_written(server, photos, tmp_path, form):
    """The file has the format that was asked for, and replaces the old one."""
    out = tmp_path / "out"
    out.write_text("old")
    result = call(photos, "--url", server.url, "--format", form, "--output", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    text = out.read_text()
    if form == "coco":
        document = json.loads(text)
        assert len(document["annotations"]) == 6
        assert document["images"][0]["width"] == 100
    elif form == "csv":
        assert len(list(csv.DictReader(io.StringIO(text)))) == 6
    else:
        assert len(text.splitlines()) == 3


def test_classes_come_from_the_other_route(server, photos):
    """--classify asks the other route, and --top-k gives the number of classes."""
    body = {
        "class": "cat",
        "classes": [{"class": 7, "label": "cat", "confidence": 0.5}],
    }
    server.answer = lambda _number: (200, json.dumps(body).encode())
    result = call(photos, "--url", server.url, "--classify", "--top-k", "1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[0])["classes"] == body["classes"]
    path, _, sent = server.posts[0]
    assert path == "/classify"
    assert b'name="top_k"\r\n\r\n1\r\n' in sent


def test_options_are_sent(server, photos):
    """Each option is sent under the server's own name."""
    options = ["--min-confidence", "0.25", "--labels", "cat,dog"]
    options += ["--max-results", "3", "--coordinates", "pixel"]
    assert call(photos, "--url", server.url, *options).exit_code == 0
    for _, _, sent in server.posts:
        assert b'name="min_confidence"\r\n\r\n0.25\r\n' in sent
        assert b'name="labels"\r\n\r\ncat,dog\r\n' in sent
        assert b'name="max_results"\r\n\r\n3\r\n' in sent
        assert b'name="coordinates"\r\n\r\npixel\r\n' in sent


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        pytest.param(["--token", "secret"], {}, id="option"),
        pytest.param([], {"API_TOKEN": "secret"}, id="environment"),
    ],
)
def test_the_token_is_sent(server, photos, arguments, environ):
    """From the option, or from where the server has it."""
    call(photos, "--url", server.url, *arguments, **environ)
    assert server.posts[0][1]["Authorization"] == "Bearer secret"


def test_one_that_fails_is_in_the_output(server, photos):
    """The other photos go on, and the exit code is 1."""
    problem = {"type": "/problems/not-an-image", "title": "X", "detail": "It is none."}
    server.answer = lambda number: (
        (200, b"[]") if number else (415, json.dumps(problem).encode())
    )
    result = call(photos, "--url", server.url, "--workers", "1")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == 3
    assert [line["error"]["detail"] for line in lines if "error" in line] == [
        "It is none."
    ]
    assert result.stderr.endswith("; 1 failed.\n")


def test_a_single_file_and_several_sources_are_taken(server, photos):
    """Files have the names that were given."""
    one = photos / "a.jpg"
    result = call(one, "--url", server.url)
    assert json.loads(result.stdout)["file"] == str(one)
    result = call(one, photos, "--url", server.url)
    assert len(result.stdout.splitlines()) == 4


def test_folders_within_folders_are_taken_on_request(server, photos):
    """They are left out by default."""
    (photos / "more").mkdir()
    (photos / "more" / "d.jpg").write_bytes(b"d")
    assert len(call(photos, "--url", server.url).stdout.splitlines()) == 3
    deep = call(photos, "--url", server.url, "--recursive").stdout
    assert "more/d.jpg" in deep


@pytest.mark.parametrize(
    ("status", "said"), [(404, "There is no model"), (401, "There is no model")]
)
def test_what_fails_for_every_photo_is_one_sentence(server, photos, status, said):
    """The sentence is on stderr, with exit code 1."""
    body = json.dumps({"detail": "There is no model 'net'."}).encode()
    server.answer = lambda _number: (status, body)
    result = call(photos, "--url", server.url)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {status}: {said} 'net'.\n"


def test_nobody_there_is_one_sentence(photos, monkeypatch):
    """After some tries."""
    monkeypatch.setattr(predict, "_RETRIES", 0)
    result = call(photos, "--url", unused_url())
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: No server answers at 127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        pytest.param(["--url", "here"], "is no URL", 1, id="no URL"),
        pytest.param(["--classify", "--format", "coco"], "COCO is for", 2, id="coco"),
        pytest.param(["--top-k", "3"], "--top-k goes with --classify", 2, id="top"),
        pytest.param(
            ["--classify", "--max-results", "3"],
            "--max-results goes without --classify",
            2,
            id="max",
        ),
        pytest.param(["--workers", "0"], "--workers", 2, id="workers"),
        pytest.param(["--format", "xml"], "--format", 2, id="format"),
    ],
)
def test_what_is_asked_wrongly_is_said(photos, arguments, said, code):
    """The error comes before a request is sent."""
    result = call(photos, *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_a_folder_that_is_not_there_is_said(tmp_path):
    """The error is one sentence."""
    result = call(tmp_path / "gone")
    assert result.exit_code == 1
    assert "There is no folder or file" in result.stderr


@pytest.mark.parametrize(("arguments", "port"), [([], 5000), (["--classify"], 5432)])
def test_the_task_chooses_the_port(photos, monkeypatch, arguments, port):
    """The ports are those of the two apps."""
    asked = []

    class Client(predict.Client):
        def __init__(self, url, *rest, **options):
            asked.append(url)
            super().__init__(unused_url(), *rest, **{**options, "retries": 0})

    monkeypatch.setattr(predict, "Client", Client)
    call(photos, *arguments)
    assert asked == [f"http://127.0.0.1:{port}"]
