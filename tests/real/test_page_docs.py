"""The API page tries operations out: forms, answers, errors, curl lines; real browser."""

import re
import shutil
import subprocess

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import UNREACHED, served, watching
from support.tiny_graphs import write

pytestmark = pytest.mark.real

TOKEN = "s3cret-token"
RED = photo((200, 100, 50), (64, 48))
PHOTO = {"name": "it's a photo.png", "mimeType": "image/png", "buffer": RED}
# What has an edge of 44 pixels and more is hit by a finger.
SMALL = """() => [...document.querySelectorAll(
    ".tried :is(input, textarea, select, button), .try summary")]
  .filter((one) => one.checkVisibility())
  .map((one) => [one.id || one.textContent, one.getBoundingClientRect().height])
  .filter(([, height]) => height < 43.9)"""
# What is wider than the screen and does not scroll by itself.
WIDE = """() => [...document.querySelectorAll("main *")]
  .filter((one) => one.checkVisibility() && !one.closest(".scroll, pre, .unseen"))
  .filter((one) => one.getBoundingClientRect().right > document.documentElement.clientWidth)
  .map((one) => one.outerHTML.slice(0, 80))
  .concat(window.innerWidth === 360 ? [] : [`${window.innerWidth}`])"""


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    """Two detection apps with a model, the second with a token."""
    places = [tmp_path_factory.mktemp(name) for name in ("models", "pics", "more")]
    folder, *uploads = places
    write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }\n')
    with (
        served("detection", folder, uploads[0]) as free,
        served("detection", folder, uploads[1], API_TOKEN=TOKEN) as secret,
    ):
        yield {"": free, TOKEN: secret}


@pytest.fixture
def opened(browser, urls):
    """A function that opens the API page; nothing goes wrong there."""
    with watching(browser) as watch:

        def open_(token="", **look):
            watched = watch(urls[token], **look)
            watched.open("/docs")
            return watched

        yield open_


def tried(watched, title):
    """Open an operation's form; gives its part of the page."""
    verb, path = title.split()
    part = watched.page.locator(
        f'details.try[data-verb="{verb.lower()}"][data-path="{path}"]'
    )
    part.locator("summary").click()
    part.locator("form").wait_for()
    return part


def sent(part):
    """Send a form; gives the answer's part of the page."""
    part.get_by_role("button", name="Send", exact=True).click()
    part.locator(".answer :is(.facts, .problem)").first.wait_for()
    return part.locator(".answer")


def test_a_photo_is_tried_and_the_answer_is_shown(opened, tmp_path):
    """With status, time, headers and JSON, and the curl line gives the same."""
    watched = opened()
    part = tried(watched, "POST /detect")
    part.get_by_text("Here: m.").wait_for()
    assert part.get_by_label("modelname").input_value() == "m"
    part.get_by_label("file", exact=True).set_input_files(PHOTO)
    part.get_by_label("min_confidence").fill("0.9")
    part.get_by_label("coordinates").select_option("pixel")
    answer = sent(part)
    assert re.match(r"200 OK in [\d.]+ ms, \d+ bytes", answer.inner_text())
    facts = answer.locator(".facts")
    for name in ("Content-Type", "X-Model", "X-Image-Width", "Server-Timing"):
        assert name in facts.inner_text()
    assert '"label": "red"' in answer.locator("pre").inner_text()
    told = watched.page.locator("#live").text_content()
    assert told.startswith("200 OK in ")
    code = part.get_by_role("region", name="as a line of curl").text_content()
    assert "-F min_confidence=0.9" in code.replace("--form-string", "-F")
    assert "API_TOKEN" not in code
    if shutil.which("curl"):
        (tmp_path / PHOTO["name"]).write_bytes(RED)
        command = ["sh", "-c", code.replace("curl ", "curl -s ", 1)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert '"label":"red"' in done.stdout, (code, done.stdout)


def test_a_picture_that_is_answered_is_seen(opened):
    """Asked for by Accept, as large as the photo."""
    part = tried(opened(), "POST /detect")
    part.get_by_text("Here: m.").wait_for()
    part.get_by_label("file", exact=True).set_input_files(PHOTO)
    part.get_by_label("Accept").select_option("image/png")
    picture = sent(part).get_by_alt_text("The picture that was answered")
    picture.evaluate("(one) => one.decode()")
    assert picture.evaluate("(one) => [one.naturalWidth, one.naturalHeight]") == [
        64,
        48,
    ]


def test_errors_are_told_in_words(opened):
    """The server's own, with a way to more, and those of a server that is away."""
    watched = opened()
    part = tried(watched, "POST /detect")
    part.get_by_text("Here: m.").wait_for()
    part.get_by_label("file", exact=True).set_input_files(
        {"name": "x.png", "mimeType": "image/png", "buffer": b"text"}
    )
    answer = sent(part)
    assert answer.inner_text().startswith("415 ")
    assert "Not an image." in answer.locator(".problem").inner_text()
    link = answer.get_by_role("link", name="What this means")
    assert link.get_attribute("href") == "/problems/not-an-image"
    assert "Not an image." in watched.page.locator("#live").text_content()
    part.get_by_label("file", exact=True).set_input_files(PHOTO)
    part.get_by_label("min_confidence").fill("7")
    assert "min_confidence" in sent(part).locator(".problem").inner_text()
    watched.page.route("**/detect", lambda route: route.abort(), times=1)
    part.get_by_role("button", name="Send", exact=True).click()
    answer.get_by_text("Nothing answered.").wait_for()
    part.get_by_label("X-Request-Timeout-Ms").fill("1\u20ac")
    part.get_by_role("button", name="Send", exact=True).click()
    answer.get_by_text("a character that browsers do not send").wait_for()


def test_what_takes_too_long_is_stopped(opened):
    """The button that sends stops it, too."""
    watched = opened()
    part = tried(watched, "GET /livez")

    def hold(_route):
        """Leave the request without an answer."""

    watched.page.route("**/livez", hold, times=1)
    part.get_by_role("button", name="Send", exact=True).click()
    part.get_by_role("button", name="Stop").click()
    part.get_by_text("Stopped.").wait_for()
    assert sent(part).inner_text().startswith("200 OK")


def test_each_operation_has_a_form(opened):
    """Also those of other protocols; none needs more than the document says."""
    watched = opened()
    page = watched.page
    every = page.locator("details.try")
    every.evaluate_all("(all) => all.forEach((one) => (one.open = true))")
    page.wait_for_function(
        "(count) => document.querySelectorAll('.tried form').length === count",
        arg=every.count(),
    )
    assert every.count() == page.locator("section.card > h2").count() > 20
    ids = page.locator("[id]").evaluate_all("(all) => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))
    label = page.get_by_label("name", exact=False).first
    assert label.get_attribute("aria-describedby") in ids


def test_a_path_and_a_body_of_json_are_sent(opened):
    """The model that the path names, and a text of one's own."""
    watched = opened()
    part = tried(watched, "GET /models/{name}/labels")
    part.get_by_text("Here: m.").wait_for()
    assert '"red"' in sent(part).locator("pre").inner_text()
    part.get_by_label("name", exact=True).fill("no/such model")
    assert sent(part).inner_text().startswith("404 ")
    assert ("GET", "/models/no%2Fsuch%20model/labels") in watched.asked
    part = tried(watched, "POST /v2/models/{model}/infer")
    part.get_by_label("Body").fill("{")
    assert sent(part).inner_text().startswith("400 ")
    assert "--data-raw '{'" in part.locator("pre code").text_content()


def test_a_token_is_asked_for_where_one_is_needed(opened):
    """Kept for the tab, in all forms, never in the curl line; open routes ask for none."""
    watched = opened(TOKEN)
    assert tried(watched, "GET /livez").get_by_label("API token").count() == 0
    part = tried(watched, "GET /models")
    other = tried(watched, "POST /detect")
    assert sent(part).inner_text().startswith("401 ")
    part.get_by_label("API token").fill(TOKEN)
    assert sent(part).inner_text().startswith("200 ")
    assert other.get_by_label("API token").input_value() == TOKEN
    code = part.get_by_role("region", name="as a line of curl").text_content()
    assert "$API_TOKEN" in code
    assert TOKEN not in watched.page.locator("main").inner_text()
    watched.page.reload()
    other = tried(watched, "POST /detect")
    other.get_by_text("Here: m.").wait_for()
    other.get_by_label("file", exact=True).set_input_files(PHOTO)
    assert '"red"' in sent(other).locator("pre").inner_text()


def test_all_is_done_by_keyboard_and_on_a_phone(opened):
    """In the order of the page, what is touched is large enough, nothing scrolls aside."""
    watched = opened(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    page = watched.page
    page.locator('details.try[data-path="/livez"] summary').focus()
    page.keyboard.press("Enter")
    page.locator('[data-path="/livez"] form').wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Send"
    page.keyboard.press("Enter")
    page.locator('[data-path="/livez"] .facts').wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator("#live", has_text="Copied.").wait_for(state="attached")
    for title in ("POST /detect", "GET /models/{name}"):
        tried(watched, title)
    assert page.evaluate(SMALL) == []
    assert page.evaluate(WIDE) == []
    assert page.evaluate(UNREACHED) == []
