"""A folder of photos through the client."""

import io
import sys
import threading

import httpx
import pytest

from modelserver import client
from modelserver.client import Client, folders
from modelserver.client.pace import Pace
from support.app_client import photo
from support.client_fakes import URL, Answers, found, problem, sent

NAMES = [f"{number}.jpg" for number in range(9)]


@pytest.fixture
def photos(tmp_path):
    """A folder of nine photos, each with its name for bytes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_bytes(name.encode())
    return folder


def ask(answers, source, **options):
    """What becomes of each photo, by name."""
    options = {"progress": False, **options}
    with Client(URL, transport=httpx.MockTransport(answers)) as made:
        return {one.name: one for one in made.detect_folder(source, "net", **options)}


def echo(request):
    """Answer a label that is the photo's bytes."""
    _, data = sent(request)
    one = {"class": 1, "confidence": 0.9, "bounding_box": [0, 0, 1, 1]}
    return httpx.Response(200, json=[{**one, "label": data.decode()}])


@pytest.mark.parametrize("workers", [1, 3, 32])
def test_each_photo_gets_its_own_answer(photos, workers):
    """The answers are not mixed up, with one worker or with many."""
    seen = ask(echo, photos, workers=workers)
    assert sorted(seen) == NAMES
    for name, outcome in seen.items():
        assert outcome.result[0].label == name
        assert outcome.path == photos / name
        assert outcome.error is None


def test_one_that_fails_leaves_the_others_alone(photos):
    """A photo that fails is yielded with the server's words, and the others go on."""

    def answer(request):
        bad = sent(request)[1] == b"3.jpg"
        return problem(422, "undecodable-image") if bad else echo(request)

    seen = ask(answer, photos)
    assert [name for name in NAMES if seen[name].error] == ["3.jpg"]
    assert seen["3.jpg"].error.problem.type == "/problems/undecodable-image"
    assert seen["3.jpg"].result is None


def test_a_file_that_cannot_be_read_leaves_the_others_alone(photos):
    """A file may go between the listing and its turn, and the others go on."""

    def answer(request):
        (photos / "8.jpg").unlink(missing_ok=True)
        return echo(request)

    seen = ask(answer, photos, workers=1)
    assert isinstance(seen["8.jpg"].error, client.BadImage)
    assert sum(one.error is None for one in seen.values()) == 8


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param(problem(401, "unauthorized"), client.Unauthorized, id="token"),
        pytest.param(problem(404, "model-not-found"), client.NotFound, id="model"),
    ],
)
def test_what_fails_for_all_ends_it(photos, answer, error):
    """A wrong token or model ends the run before each photo is asked for."""
    answers = Answers(answer)
    with pytest.raises(error):
        ask(answers, photos, workers=1)
    assert len(answers.requests) < len(NAMES)


def test_a_server_that_is_not_there_ends_it(photos, monkeypatch):
    """The run ends after the client's retries."""
    monkeypatch.setattr(Pace, "pause", lambda _self, _seconds: None)
    with pytest.raises(client.Unreachable):
        ask(Answers(httpx.ConnectError("refused")), photos)


class Narrow:
    """A server that takes some at a time and refuses the others."""

    def __init__(self, places):
        self.places = places
        self.busy = self.refusals = self.most = 0
        self.lock = threading.Lock()
        self.refused = threading.Event()

    def __call__(self, request):
        """Answer or refuse, by how many are here."""
        with self.lock:
            if self.busy >= self.places:
                self.refusals += 1
                self.refused.set()
                return problem(503, "overloaded", **{"Retry-After": "0"})
            self.busy += 1
            self.most = max(self.most, self.busy)
        # So that somebody comes meanwhile, who finds no place.
        self.refused.wait(60)
        with self.lock:
            self.busy -= 1
        return echo(request)


def test_a_full_server_answers_all_in_the_end(photos, monkeypatch):
    """Fewer are sent at a time; nobody is refused for ever."""
    limits = []

    class Noted(Pace):
        def note_refusal(self):
            super().note_refusal()
            limits.append(self.limit)

    monkeypatch.setattr(folders, "Pace", Noted)
    server = Narrow(2)
    seen = ask(server, photos, workers=8)
    assert all(one.error is None for one in seen.values())
    assert server.refusals == len(limits)
    assert 1 <= min(limits) < 8
    assert server.most <= 2


def test_a_server_that_stays_full_is_given_up(photos, monkeypatch):
    """After minutes each photo fails with the server's own words."""
    monkeypatch.setattr(folders, "_FULL", client.Policy(retries=2))
    monkeypatch.setattr(Pace, "pause", lambda _self, _seconds: None)
    answers = Answers(problem(503, "overloaded"))
    seen = ask(answers, photos)
    assert all(isinstance(one.error, client.Unavailable) for one in seen.values())
    assert len(answers.requests) == 3 * len(NAMES)


def test_a_broken_connection_is_tried_again(photos, monkeypatch):
    """A folder's photo is tried again as a single photo is."""
    monkeypatch.setattr(Pace, "pause", lambda _self, _seconds: None)
    answers = Answers(httpx.ReadError("reset"), found())
    assert all(one.error is None for one in ask(answers, photos).values())


def test_an_iterator_that_is_closed_sends_no_more(photos):
    """Requests on their way are answered, and the others are not sent."""
    answers = Answers(found())
    with Client(URL, transport=httpx.MockTransport(answers)) as made:
        outcomes = made.detect_folder(photos, "net", workers=1, progress=False)
        next(outcomes)
        outcomes.close()
    assert len(answers.requests) <= 4
    assert not [t for t in threading.enumerate() if "modelserver-client" in t.name]


def test_closing_wakes_those_that_wait_to_retry(photos):
    """Closing does not wait for a Retry-After of a minute."""

    def answer(request):
        if sent(request)[1] == b"0.jpg":
            return echo(request)
        return problem(503, "full", **{"Retry-After": "60"})

    with Client(URL, transport=httpx.MockTransport(answer)) as made:
        outcomes = made.detect_folder(photos, "net", workers=2, progress=False)
        assert next(outcomes).name == "0.jpg"
        outcomes.close()


def test_options_hold_for_every_photo(photos):
    """An iterator of labels is read once, and sent with each."""
    answers = Answers(found())
    ask(answers, photos, labels=iter(["cat", "dog"]), min_confidence=0.5)
    for request in answers.requests:
        texts, _ = sent(request)
        assert texts["labels"] == ["cat", "dog"]
        assert texts["min_confidence"] == ["0.5"]


def test_a_folder_is_classified_as_well(photos):
    """``classify_folder`` asks the other route."""
    answers = Answers(httpx.Response(200, json={"class": "cat"}))
    with Client(URL, transport=httpx.MockTransport(answers)) as made:
        many = made.classify_folder(photos, "net", top_k=2, progress=False)
        assert {one.result.label for one in many} == {"cat"}
    assert {request.url.path for request in answers.requests} == {"/classify"}
    assert sent(answers.requests[0])[0]["top_k"] == ["2"]


@pytest.fixture
def tree(tmp_path):
    """A folder with photos, other files, and folders."""
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "in/c.webp", ".h/d.jpg"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "tree" / "folder.jpg").mkdir()
    return tmp_path / "tree"


def test_photos_are_found_by_their_endings(tree):
    """Photos come in order, without hidden files, with names relative to the folder."""
    assert [one.name for one in folders.find(tree)] == ["a.png", "b.JPG"]
    deep = [one.name for one in folders.find(str(tree), recursive=True)]
    assert deep == ["a.png", "b.JPG", "in/c.webp"]


def test_named_files_are_taken_as_they_are(tree):
    """A named file may have any ending, and with several sources names are paths."""
    one, *others = folders.find([tree / "notes.txt", tree / "in"])
    assert one == folders.File(tree / "notes.txt", str(tree / "notes.txt"))
    assert [other.name for other in others] == [str(tree / "in" / "c.webp")]


@pytest.mark.parametrize(
    ("name", "said"),
    [("gone", "There is no folder or file"), ("empty", "There is no photo in")],
)
def test_nothing_to_send_is_said_at_once(tmp_path, name, said):
    """The error comes at the call, not with the first result."""
    (tmp_path / "empty").mkdir()
    with Client(URL) as made, pytest.raises(client.BadImage, match=said):
        made.detect_folder(tmp_path / name, "net")


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self):
        """It is."""
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_progress_is_a_bar_on_a_terminal(photos, monkeypatch, kind):
    """The bar counts the failed photos, and a log gets no bar."""
    shown = kind()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    answers = Answers(problem(422, "undecodable-image"), found())
    (photos / "0.jpg").write_bytes(photo())
    ask(answers, photos, progress=True, workers=1)
    if kind is Terminal:
        assert "9/9" in shown.getvalue()
        assert "1 failed" in shown.getvalue()
    else:
        assert shown.getvalue() == ""
