"""What the page says when something does not work, in a real browser."""

import json

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import served, watching
from support.tiny_graphs import write

pytestmark = pytest.mark.real

PHOTO = ("photo.png", photo((200, 100, 50), (64, 48)))
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A detection app with one model, and one that cannot be loaded."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    write(folder / "broken.frozen.pb", tiny_graphs.FAULTS["html"]())
    write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    for name in ("broken", "m"):
        (folder / f"{name}.label_map.pbtxt").write_text('item { id: 21 name: "red" }\n')
    with served("detection", folder, uploads, MAX_UPLOAD_MB=1) as url:
        yield url


@pytest.fixture
def watched(browser, url):
    """A fresh page of the server's, on which nothing goes wrong."""
    with watching(browser) as watch:
        watched = watch(url)
        watched.open()
        yield watched


def answer(page, status, body="", times=1, **headers):
    """Have the browser get an answer for the next POSTs that is not the server's."""
    page.route(
        "**/detect",
        lambda route: route.fulfill(status=status, body=body, headers=headers),
        times=times,
    )


def problem(title, detail, kind="about:blank"):
    """A problem's body."""
    return json.dumps({"type": kind, "title": title, "detail": detail})


def test_a_model_that_failed_cannot_be_chosen(watched):
    """It is named with its state; the first that serves is chosen."""
    option = watched.page.locator("#model option", has_text="broken")
    assert option.text_content() == "broken (failed)"
    assert option.is_disabled()
    assert watched.page.locator("#model").input_value() == "m"


def test_an_error_is_shown_in_the_servers_words(watched):
    """With a link to what it means, and no button where trying again is no use."""
    watched.choose(("notes.png", b"these are no pixels"))
    words = watched.page.locator(".problem").inner_text()
    assert "JPEG" in words
    assert watched.page.locator(".problem button").count() == 0
    assert (
        watched.page.locator(".picture").inner_text().startswith("This browser cannot")
    )
    assert watched.page.locator(".badge").text_content() == "!"
    assert "notes.png" in watched.page.locator("#live").text_content()
    link = watched.page.get_by_role("link", name="What this means")
    assert link.get_attribute("href") == "/problems/not-an-image"


def test_a_photo_that_is_too_large_is_not_sent(watched):
    """The page knows the limit."""
    watched.choose(("large.png", bytes(2**20 + 1)))
    words = watched.page.locator(".problem").inner_text()
    assert "This photo has 2 MiB, and the server takes 1." in words
    assert watched.posts() == 0


def test_a_full_server_is_asked_again_by_itself(watched):
    """After what Retry-After says."""
    watched.page.clock.install()
    body = problem("Overloaded", "The queue of 'm' is full.")
    answer(watched.page, 503, body, **{"Retry-After": "60", "Content-Type": PROBLEM})
    watched.choose(PHOTO)
    words = watched.page.locator(".problem").inner_text()
    assert "The queue of 'm' is full." in words
    assert "It is tried again in 60 s." in words
    assert watched.posts() == 1
    watched.page.clock.run_for(60_000)
    watched.page.locator(".result table").wait_for()
    assert watched.posts() == 2


def test_one_need_not_wait(watched):
    """A button asks at once, and only once; the focus stays with the result."""
    body = problem("Overloaded", "Full.")
    answer(watched.page, 503, body, **{"Retry-After": "60", "Content-Type": PROBLEM})
    watched.choose(PHOTO)
    watched.page.get_by_role("button", name="Try now").press("Enter")
    watched.page.locator(".result table").wait_for()
    assert watched.page.locator(".result h3:focus").count() == 1
    assert watched.posts() == 2


def test_it_is_not_tried_for_ever(watched):
    """Five times, then there is a button."""
    watched.page.clock.install()
    body = problem("Overloaded", "Full.")
    answer(watched.page, 503, body, 5, **{"Retry-After": "9", "Content-Type": PROBLEM})
    watched.choose(PHOTO)
    for _ in range(4):
        watched.page.get_by_role("button", name="Try now").wait_for()
        watched.page.clock.run_for(9000)
    watched.page.get_by_role("button", name="Try again").click()
    watched.page.locator(".result table").wait_for()
    assert watched.posts() == 6


def test_a_server_that_is_gone_is_told(watched):
    """In words, with a button that works once it is back."""
    watched.page.route("**/detect", lambda route: route.abort(), times=1)
    watched.choose(PHOTO)
    words = watched.page.locator(".problem").inner_text()
    assert "The server cannot be reached" in words
    watched.page.get_by_role("button", name="Try again").click()
    watched.page.locator(".result table").wait_for()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        pytest.param(502, "<h1>Bad</h1>", "The server answered 502", id="a proxy"),
        pytest.param(200, "<h1>Hi</h1>", "is no ModelServer", id="another server"),
        pytest.param(200, "null", "is no ModelServer", id="nothing"),
        pytest.param(200, '[{"label": 1}]', "is no ModelServer", id="other JSON"),
        pytest.param(422, '{"type": "javascript:alert(1)"}', "Error 422", id="a link"),
        pytest.param(400, "[]", "Error 400", id="no problem"),
    ],
)
def test_an_answer_of_somebody_else_is_told(watched, status, body, words):
    """It breaks nothing, and none of it becomes a link."""
    answer(watched.page, status, body)
    watched.choose(PHOTO)
    assert words in watched.page.locator(".problem").inner_text()
    assert watched.page.locator(".problem a").count() == 0


def never(_route):
    """Leave a request without an answer."""


def test_a_photo_that_is_taken_away_is_not_asked_about(watched):
    """Its request ends, and nothing is shown of it."""
    watched.page.route("**/detect", never, times=1)
    files = [{"name": "gone.png", "mimeType": "image/png", "buffer": PHOTO[1]}]
    watched.page.locator("#file").set_input_files(files)
    watched.page.get_by_role("button", name="Remove gone.png").click()
    assert watched.page.locator("#shown").is_hidden()
    assert watched.page.locator("#file:focus").count() == 1
    watched.choose(PHOTO)
    assert watched.page.locator(".thumb").count() == 1


def test_an_answer_without_times_has_the_browsers(watched):
    """Behind a proxy that takes the header off."""
    answer(watched.page, 200, "[]", **{"Content-Type": "application/json"})
    watched.choose(PHOTO)
    assert watched.page.locator(".timings dt").all_text_contents() == ["network"]
    assert (
        watched.page.locator(".count").text_content() == "No objects at 80 % or above"
    )
