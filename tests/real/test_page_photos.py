"""Photos on the page, in a real browser: shown, filtered, refused, tried again."""

import io
import json
import re

import pytest
from PIL import Image

from modelserver.decoder.drawing import colour
from support import tiny_graphs
from support.app_client import photo
from support.browser import served, watching
from support.servers import wait_for
from support.tiny_graphs import write

pytestmark = pytest.mark.real

SCRIPT = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
LABELS = f"""item {{ id: 21 name: "red" }}
item {{ id: 2 name: "{SCRIPT}" }}
item {{ id: 3 name: "third" }}
item {{ id: 6 name: "green" }}
"""
COLOUR = (200, 100, 50)
PHOTO = photo(COLOUR, (640, 480))
OTHER = photo((50, 200, 90), (400, 300))


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A detection app with two models that echo; the second's name is hostile."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    for name in ("m", IMAGE):
        write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
        (folder / f"{name}.label_map.pbtxt").write_text(LABELS)
    with served("detection", folder, uploads, MIN_CONFIDENCE=0.25) as url:
        yield url


@pytest.fixture
def watched(browser, url):
    """A fresh page of the server's, on which nothing goes wrong."""
    with watching(browser) as watch:
        watched = watch(url, viewport={"width": 1100, "height": 900})
        watched.open()
        watched.page.select_option("#model", "m")
        yield watched


def shown_boxes(page):
    """Indices of the boxes that are to be seen, surest first."""
    boxes = page.locator(".box:visible").all()
    return sorted(int(box.get_attribute("data-index")) for box in boxes)


def edges(page, selector):
    """Left, top, right and bottom of an element on the screen."""
    rect = page.locator(selector).bounding_box()
    x, y = rect["x"], rect["y"]
    return x, y, x + rect["width"], y + rect["height"]


def placed(page, box):
    """Where a box of the answer is to be on the screen."""
    left, top, right, bottom = edges(page, ".picture img")
    width, height = right - left, bottom - top
    x1, y1, x2, y2 = box
    return left + x1 * width, top + y1 * height, left + x2 * width, top + y2 * height


def answered():
    """The surest box of the photo, as the API has it."""
    _, _, (y1, x1, y2, x2) = tiny_graphs.echoed(*COLOUR)
    return x1, y1, x2, y2


def test_boxes_are_at_the_right_place_to_the_pixel(watched):
    """Where the answer says, on the photo as it is seen; drawn in their label's colour."""
    watched.choose(("photo.png", PHOTO))
    page = watched.page
    assert shown_boxes(page) == [0, 1, 2]
    got = edges(page, '.box[data-index="0"]')
    assert got == pytest.approx(placed(page, answered()), abs=0.5)
    picture = page.locator(".picture")
    seen = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
    x1, y1, _, y2 = answered()
    x, y = round(x1 * seen.width), round((y1 + 0.9 * (y2 - y1)) * seen.height)
    assert seen.getpixel((x + 1, y)) == colour("red")
    assert seen.getpixel((x + 8, y)) == COLOUR
    assert seen.getpixel((x - 8, y)) == COLOUR


def test_boxes_follow_when_the_window_changes(watched):
    """They are parts of the photo, not pixels of the screen."""
    watched.choose(("photo.png", PHOTO))
    watched.page.set_viewport_size({"width": 500, "height": 700})
    got = edges(watched.page, '.box[data-index="0"]')
    assert got == pytest.approx(placed(watched.page, answered()), abs=0.5)


def test_a_photo_that_lies_on_its_side_is_upright(watched):
    """The browser turns it as the server does, so boxes fit; pixels are the upright's."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 480), COLOUR).save(file, "JPEG", quality=95, exif=exif)
    watched.choose(("side.jpg", file.getvalue()))
    page = watched.page
    left, top, right, bottom = edges(page, ".picture img")
    assert (right - left) / (bottom - top) == pytest.approx(480 / 640, abs=0.01)
    got = edges(page, '.box[data-index="0"]')
    assert got == pytest.approx(placed(page, answered()), abs=2)
    told = page.locator("tbody tr").first.locator(".where").text_content()
    x1, y1, x2, y2 = answered()
    wanted = [x1 * 480, y1 * 640, x2 * 480, y2 * 640]
    assert [int(n) for n in re.findall(r"\d+", told)] == pytest.approx(wanted, abs=3)


def test_the_slider_filters_without_asking_again(watched):
    """Boxes, rows, counts and the code to copy follow it."""
    watched.choose(("photo.png", PHOTO))
    page = watched.page
    sent = watched.posts()
    page.locator("#confidence").fill("0.4")
    assert shown_boxes(page) == [0, 1]
    assert page.locator("tbody tr:visible").count() == 2
    assert (
        page.locator(".count").text_content() == "2 objects at 40 % or above, 1 below"
    )
    assert page.locator(".badge").text_content() == "2"
    assert "min_confidence=0.4" in page.locator("#same-code").text_content()
    page.locator("#confidence").fill("1")
    assert shown_boxes(page) == []
    assert page.locator("table").is_hidden()
    assert page.locator(".count").text_content().startswith("No objects at 100 %")
    page.locator("#confidence").fill("0.25")
    assert shown_boxes(page) == [0, 1, 2]
    assert "min_confidence" not in page.locator("#same-code").text_content()
    assert watched.posts() == sent == 1


def test_times_and_the_raw_answer_are_shown(watched):
    """Numbers and a bar; the JSON is the server's, and can be copied."""
    watched.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    watched.choose(("photo.png", PHOTO))
    page = watched.page
    words = page.locator(".timings dt").all_text_contents()
    assert words == ["wait", "decode", "queue", "run", "post", "other", "network"]
    assert all(
        re.fullmatch(r"[\d.]+ ms", n)
        for n in page.locator(".timings dd").all_text_contents()
    )
    page.get_by_text("JSON", exact=True).click()
    text = page.locator("details pre").text_content()
    assert json.loads(text)[0]["label"] == "red"
    page.locator("details button").click()
    page.locator("#live", has_text="Copied.").wait_for(state="attached")
    assert page.evaluate("navigator.clipboard.readText()") == text


def test_several_photos_lie_in_a_strip(watched):
    """Each is asked about once, is counted, and is shown when it is pressed."""
    watched.choose(("a.png", PHOTO), ("b.png", OTHER), ("c.png", PHOTO))
    page = watched.page
    wait_for(
        lambda: page.locator(".badge").all_text_contents() == ["3"] * 3, "all answered"
    )
    page.get_by_role("button", name="b.png").first.click()
    assert page.locator("tbody th").first.text_content() == "green"
    assert page.locator(".thumb[aria-pressed=true]").get_attribute("title") == "b.png"
    assert watched.posts() == 3
    page.get_by_role("button", name="Remove b.png").click()
    assert page.locator(".picture img").get_attribute("alt") == "c.png"
    for name in ("c.png", "a.png"):
        page.get_by_role("button", name=f"Remove {name}").click()
    assert page.locator("#shown").is_hidden()
    assert watched.posts() == 3


def test_all_models_look_at_one_photo_side_by_side(watched):
    """One request a model; each result has its own boxes, table and times."""
    page = watched.page
    page.select_option("#model", label="All models, side by side")
    watched.choose(("photo.png", PHOTO))
    page.locator(".result").nth(1).locator("table").wait_for()
    assert sorted(page.locator(".result h3").all_text_contents()) == sorted(
        ["m", IMAGE]
    )
    assert watched.posts() == 2
    tops = [one.bounding_box()["y"] for one in page.locator(".result").all()]
    assert tops[0] == tops[1]


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photos_are_dropped_and_pasted(watched, way):
    """Anywhere on the page."""
    watched.page.evaluate(
        """([way, numbers]) => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(numbers)], "given.png", {type: "image/png"}));
          const options = {bubbles: true, cancelable: true};
          const event = way === "drop"
            ? new DragEvent("drop", {...options, dataTransfer: data})
            : new ClipboardEvent("paste", {...options, clipboardData: data});
          document.querySelector("h1").dispatchEvent(event);
        }""",
        [way, list(PHOTO)],
    )
    watched.page.locator("table").wait_for()
    assert watched.page.locator(".picture img").get_attribute("alt") == "given.png"


def test_the_camera_gives_a_photo(watched):
    """One picture, and then the camera is off."""
    page = watched.page
    page.get_by_role("button", name="Camera").click()
    page.locator("#camera-take:enabled").click()
    page.locator(".result table, .result .count").first.wait_for(state="attached")
    assert page.locator(".picture img").get_attribute("alt") == "camera.jpg"
    assert page.locator("#camera").is_hidden()
    video = page.locator("#camera-video")
    wait_for(lambda: video.evaluate("(one) => one.srcObject === null"), "it is off")


def test_what_names_hold_is_text(watched):
    """Labels, models and files: no element comes of them, and no dialog."""
    page = watched.page
    page.select_option("#model", IMAGE)
    watched.choose((f"{IMAGE}.png", PHOTO))
    assert SCRIPT in page.locator("tbody th").all_text_contents()
    assert page.locator(".chip", has_text=SCRIPT).count() == 1
    assert page.locator(".result h3").text_content() == IMAGE
    assert page.locator(".thumb .name").text_content() == f"{IMAGE}.png"
    assert page.locator("script").count() == 1
    assert page.locator("main img:not([src^='blob:'])").count() == 0
    for radio in page.locator("input[name=language]").all():
        radio.check()
        assert "onerror" in page.locator("#same-code").text_content()
