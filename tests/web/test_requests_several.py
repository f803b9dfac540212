"""Several photos, several models, over HTTP."""

import pytest

from modelserver import decoder
from modelserver.engine import loader
from modelserver.web.forms import MAX_FILES, MAX_PARTS
from support import tiny_graphs
from support.app_client import photo
from support.request_forms import expect_problem, send
from support.transports import TRANSPORTS

OVER = TRANSPORTS

RED, BLUE = photo((200, 100, 50)), photo((20, 100, 250))


@pytest.fixture
def two(folder, serving):
    """Return a client of an app with two echoing models, ``a`` and ``b``."""
    for name in ("a", "b"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    return serving()


def pairs(response):
    """Return file and model of each result, in order."""
    assert response.status_code == 200, response.data
    assert list(response.json) == ["results"]
    return [(result["file"], result["model"]) for result in response.json["results"]]


def test_one_file_and_one_model_keep_the_contracts_shape(two):
    """One pair has the plain shape, also if its model is named twice."""
    plain = send(two, "/detect", ("modelname", "a"), ("file", "x.png", RED))
    assert isinstance(plain.json, list)
    twice = send(
        two, "/detect", ("modelname", "a"), ("modelname", "a"), ("file", "x", RED)
    )
    assert twice.json == plain.json


def test_several_files_are_answered_in_their_order(two):
    """Each file is answered as it would be alone."""
    files = [("file", f"{n}.png", RED if n % 2 else BLUE) for n in range(7)]
    response = send(two, "/detect", ("modelname", "a"), *files)
    assert pairs(response) == [(f"{n}.png", "a") for n in range(7)]
    alone = {
        file: send(two, "/detect", ("modelname", "a"), ("file", "x", file)).json
        for file in (RED, BLUE)
    }
    for number, result in enumerate(response.json["results"]):
        assert list(result) == ["file", "model", "detections"]
        assert result["detections"] == alone[RED if number % 2 else BLUE]


def test_several_models_are_answered_file_by_file(two):
    """Models come in the order given; ``*`` means all."""
    files = [("file", "1", RED), ("file", "2", BLUE)]
    response = send(two, "/detect", ("modelname", "b"), ("modelname", "a"), *files)
    assert pairs(response) == [("1", "b"), ("1", "a"), ("2", "b"), ("2", "a")]
    every = send(two, "/detect", ("modelname", "*"), files[0])
    assert pairs(every) == [("1", "a"), ("1", "b")]
    also = send(two, "/detect", ("modelname", "*"), ("modelname", "b"), files[0])
    assert also.json == every.json


def test_every_model_is_answered_in_the_long_form_where_there_is_one(folder, serving):
    """``*`` has the long form, also with one model."""
    tiny_graphs.write(folder / "m.pb", tiny_graphs.classifier())
    client = serving("classification")
    ask = [("modelname", "*"), ("file", "x", RED), ("top_k", "2")]
    response = send(client, "/classify", *ask)
    assert pairs(response) == [("x", "m")]
    (result,) = response.json["results"]
    assert list(result) == ["file", "model", "class", "classes"]
    assert len(result["classes"]) == 2
    assert list(send(client, "/classify", *ask[:2]).json["results"][0]) == [
        "file",
        "model",
        "class",
    ]


def test_what_fails_carries_its_problem_and_the_rest_is_answered(two):
    """A failed pair carries its problem within a 200."""
    files = [("file", "good", RED), ("file", "bad", b"text"), ("file", "cut", RED[:60])]
    response = send(two, "/detect", ("modelname", "a"), ("modelname", "x"), *files)
    assert len(pairs(response)) == 6
    found = [
        result["error"]["type"].rpartition("/")[2] if "error" in result else "ok"
        for result in response.json["results"]
    ]
    assert found == [
        "ok",
        "model-not-found",
        "not-an-image",
        "model-not-found",
        "undecodable-image",
        "model-not-found",
    ]
    problem = response.json["results"][1]["error"]
    assert list(problem) == ["type", "title", "status", "detail", "error"]
    alone = send(two, "/detect", ("modelname", "x"), files[0])
    assert alone.json == problem


def test_what_fails_altogether_in_one_way_is_that_problem(two, serving):
    """Equal failures of all pairs are one problem with its status."""
    texts = [("file", str(n), b"text") for n in range(3)]
    response = send(two, "/detect", ("modelname", "a"), *texts)
    expect_problem(response, 415, "not-an-image")
    mixed = send(two, "/detect", ("modelname", "a"), ("file", "1", RED[:60]), *texts)
    assert mixed.status_code == 200
    assert all("error" in result for result in mixed.json["results"])


def test_every_model_where_there_is_none_is_not_found(serving):
    """``*`` in an empty folder is a 404 with the hint."""
    response = send(serving(), "/detect", ("modelname", "*"), ("file", "x", RED))
    assert ".frozen.pb" in expect_problem(response, 404, "model-not-found")


def test_headers_tell_what_holds_for_all_results(two):
    """Headers that differ between results are left out."""
    many = send(two, "/detect", ("modelname", "*"), ("file", "x", RED)).headers
    assert many["X-Image-Width"] == "32"
    assert "X-Model" not in many
    assert "queue;dur=" in many["Server-Timing"]
    other = ("file", "y", photo(size=(10, 24)))
    response = send(two, "/detect", ("modelname", "a"), ("file", "x", RED), other)
    assert response.headers["X-Model"] == "a"
    assert response.headers["X-Image-Height"] == "24"
    assert "X-Image-Width" not in response.headers


def test_a_form_has_so_many_files_and_parts_at_most(two):
    """The limit of files and parts is exact."""
    file = ("file", "x", photo(size=(4, 4)))
    model = ("modelname", "a")
    assert len(pairs(send(two, "/detect", model, *[file] * MAX_FILES))) == MAX_FILES
    over = send(two, "/detect", model, *[file] * (MAX_FILES + 1))
    assert str(MAX_FILES) in expect_problem(over, 413, "upload-too-large")
    parts = send(two, "/detect", *[model] * MAX_PARTS, file)
    expect_problem(parts, 413, "upload-too-large")


def test_a_files_name_is_given_back_as_it_is_and_no_longer_than_names_are(two):
    """A name is returned cut, and never becomes a path."""
    names = ["../x.png", "ключ.png", "<b>", "x" * 1000]
    response = send(
        two, "/detect", ("modelname", "a"), *[("file", name, RED) for name in names]
    )
    assert [result for result, _ in pairs(response)] == [*names[:3], "x" * 255]


def test_a_photo_of_the_size_that_all_together_may_have_is_seen_by_several_models(
    folder, serving, monkeypatch
):
    """The largest photo fits once in each model's memory."""
    monkeypatch.setattr(loader, "_RESIZED_BYTES", 0)
    for name in ("a", "b", "c"):
        tiny_graphs.write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    client = serving(MAX_PIXELS_IN_FLIGHT=10_000, MAX_IMAGE_PIXELS=10_000)
    large = ("file", "x", photo(size=(100, 100)))
    response = send(client, "/detect", ("modelname", "*"), large)
    assert len(pairs(response)) == 3
    assert all("detections" in result for result in response.json["results"])


def test_a_queue_shorter_than_the_request_does_not_refuse_it(folder, serving):
    """A request's photos wait for one another's slots."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving(QUEUE_LENGTH=1, SLOTS=1)
    response = send(
        client,
        "/detect",
        ("modelname", "m"),
        *[("file", str(n), RED) for n in range(9)],
    )
    assert all("detections" in result for result in response.json["results"])


@pytest.mark.parametrize(("form", "decodes"), [("PNG", 1), ("JPEG", 2)])
def test_a_photo_is_decoded_once_for_all_that_would_get_the_same_pixels(
    form, decodes, folder, serving, monkeypatch
):
    """Models that take the same pixels share one decode."""
    small = tiny_graphs.resizing_detector((6, 8))
    for name, graph in (
        ("full", tiny_graphs.echo_detector()),
        ("small", small),
        ("small too", small),
        ("tall", tiny_graphs.echo_detector((None, 200, 300, 3))),
    ):
        tiny_graphs.write(folder / f"{name}.frozen.pb", graph)
    client = serving()
    file = ("file", "x", photo(size=(640, 480), form=form))
    alone = {
        name: send(client, "/detect", ("modelname", name), file).json
        for name in ("full", "small", "small too", "tall")
    }
    sizes = []
    real = decoder.decode

    def counting(*arguments, **options):
        sizes.append(options["at_least"])
        return real(*arguments, **options)

    monkeypatch.setattr(decoder, "decode", counting)
    response = send(client, "/detect", ("modelname", "*"), file)
    assert len(sizes) == decodes
    for result in response.json["results"]:
        assert result["detections"] == alone[result["model"]]
