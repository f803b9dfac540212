"""``python -m modelserver bench`` and what it prints."""

import io
import json
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner
from rich.console import Console

from modelserver.core.contract import CLASSIFY, DETECT
from modelserver.tools import bench, cli
from modelserver.tools.cli import bench as command
from modelserver.tools.cli.shared import show_progress
from support.bench_servers import stand_in, unused_url


@pytest.fixture
def server():
    """A stand-in for a running server."""
    with stand_in() as server:
        yield server


@pytest.fixture
def photo(tmp_path):
    """A photo's path."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"photo")
    return path


def call(photo, *arguments, **environ):
    """Call the command with short rounds."""
    short = ["--seconds", "0.1", "--rounds", "1", "--clients", "1,2"]
    words = ["bench", "--model", "net", "--image", str(photo), *short, *arguments]
    return CliRunner().invoke(cli.main, words, env={"API_TOKEN": None, **environ})


def rows(printed):
    """The words of each row of a printed table."""
    lines = [line.split() for line in printed.splitlines()]
    return [words for words in lines if words and words[0].isdecimal()]


def test_a_table_has_a_row_for_each_count(server, photo):
    """Each row has the rate, the percentiles and the server's own stages."""
    result = call(photo, "--url", server.url)
    assert result.exit_code == 0, result.output
    assert f"net at {server.url}" in result.stdout
    for word in ("clients", "answers/s", "p50", "p99", "decode", "post"):
        assert word in result.stdout
    assert [row[0] for row in rows(result.stdout)] == ["1", "2"]
    assert result.stderr == ""


def test_json_is_for_programs(server, photo):
    """Stdout has one document with the request and the results."""
    result = call(photo, "--url", server.url, "--json")
    told = json.loads(result.stdout)
    assert told["url"] == server.url
    assert told["model"] == "net"
    assert told["photos"] == [str(photo)]
    assert (told["seconds"], told["rounds"]) == (0.1, 1)
    assert [one["clients"] for one in told["results"]] == [1, 2]
    assert set(told["results"][0]) == {
        *("clients", "answers", "errors", "per_second"),
        *("p50_ms", "p90_ms", "p99_ms", "stages"),
    }


def test_any_other_answer_is_exit_code_1(server, photo):
    """The table counts it, after a check that went well."""
    server.answer = lambda number: (503 if number % 2 else 200, b"[]")
    result = call(photo, "--url", server.url)
    assert result.exit_code == 1
    assert "x 503" in result.stdout


def test_a_model_slower_than_a_round_is_exit_code_1(server, photo, monkeypatch):
    """Nothing was measured then, and the table says so."""
    none = bench.Figures(1, 0, {}, 0.0, None, None, None, {})
    monkeypatch.setattr(bench, "measure", lambda *_arguments, **_options: [none])
    result = call(photo, "--url", server.url)
    assert result.exit_code == 1
    assert "no answer in time" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "path"), [([], "/detect"), (["--classify"], "/classify")]
)
def test_the_task_chooses_the_route(server, photo, arguments, path):
    """The route is detection's by default."""
    call(photo, "--url", server.url, *arguments)
    assert {post[0] for post in server.posts} == {path}


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        pytest.param(["--token", "secret"], {}, id="option"),
        pytest.param([], {"API_TOKEN": "secret"}, id="environment"),
    ],
)
def test_the_token_is_sent(server, photo, arguments, environ):
    """The token comes from the option, or from the server's variable."""
    call(photo, "--url", server.url, *arguments, **environ)
    assert server.posts[0][1]["Authorization"] == "Bearer secret"


def test_several_photos_come_in_turn(server, photo, tmp_path):
    """``--image`` may be given again."""
    other = tmp_path / "other.jpg"
    other.write_bytes(b"another")
    call(photo, "--url", server.url, "--image", str(other))
    assert any(b"another" in body for _, _, body in server.posts)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--url", "here"], "is no URL", id="no URL"),
        pytest.param(["--url", unused_url()], "No server answers at", id="nobody"),
        pytest.param(
            ["--image", "gone.jpg"], "'gone.jpg' cannot be read", id="no photo"
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(photo, arguments, said):
    """An error is one sentence on stderr, with exit code 1."""
    result = call(photo, *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_wrong_model_is_the_servers_sentence(server, photo):
    """It names those that there are."""
    detail = "There is no model 'net'. The models here are: other."
    server.answer = lambda _number: (404, json.dumps({"detail": detail}).encode())
    result = call(photo, "--url", server.url)
    assert result.exit_code == 1
    assert result.stderr == f"Error: The server answers 404: {detail}\n"


@pytest.mark.parametrize("counts", ["", "0", "1,a", "5000", "1,,2"])
def test_numbers_of_clients_are_checked(photo, counts):
    """Wrong numbers give the command line's own exit code and an example."""
    result = call(photo, "--clients", counts)
    assert result.exit_code == 2
    assert "such as 1,8,32" in result.stderr


@pytest.mark.parametrize("kind", ["detection", "classification"])
def test_a_server_is_started_if_none_answers(server, photo, monkeypatch, kind):
    """The server gets the folder and the token, and is ended in any case."""
    events = []

    @contextmanager
    def started(folder, endpoint, environ):
        kinds = {DETECT: "detection", CLASSIFY: "classification"}
        events.append((folder, kinds[endpoint], environ))
        yield command.Started(server.url, 1)
        events.append("ended")

    monkeypatch.setattr(command, "start_server", started)
    options = ["--start", "--folder", str(photo.parent), "--token", "t"]
    options += ["--classify"] if kind == "classification" else []
    result = call(photo, "--url", unused_url(), *options)
    assert result.exit_code == 0, result.output
    assert events == [(photo.parent, kind, {"API_TOKEN": "t"}), "ended"]


def test_a_server_that_answers_is_not_started_again(server, photo, monkeypatch):
    """``--start`` is for when there is none."""
    monkeypatch.setattr(command, "start_server", None)
    assert call(photo, "--url", server.url, "--start").exit_code == 0


def test_errors_are_counted_in_the_table():
    """Milliseconds have a tenth below ten, and an unknown value is a dash."""
    figures = [
        bench.Figures(8, 5, {"503": 2, "no answer": 1}, 41.52, 5.04, 181.4, None, {})
    ]
    console = Console(file=io.StringIO(), width=140)
    console.print(command.table(figures, "net"))
    (row,) = rows(console.file.getvalue())
    assert row[:5] == ["8", "41.5", "5.0", "181", "-"]
    assert row[5:10] == ["-", "-", "-", "-", "-"]
    assert " ".join(row[10:]) == "2 x 503, 1 x no answer"


def test_progress_stays_off_a_pipe(capsys):
    """A measurement's output is its table alone; on a terminal there is a bar."""
    with show_progress(Console(file=io.StringIO()), quiet=True) as report:
        report(0, 2, "1 client, warming up")
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar(server, photo):
    """The bar is on stderr while the measurement lasts, and the table fits into 80 columns."""
    result = call(photo, "--url", server.url, FORCE_COLOR="1", COLUMNS="80")
    assert result.exit_code == 0
    assert "2 clients, round 1 of 1" in result.stderr
    assert max(map(len, click.unstyle(result.stdout).splitlines())) <= 80
