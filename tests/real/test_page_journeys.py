"""Journeys over the page in a real browser: waiting, many boxes, many photos."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modelserver.decoder.drawing import colour
from support import tiny_graphs
from support.app_client import photo
from support.browser import Watched, served, watching
from support.servers import started, wait_for
from support.tiny_graphs import write

pytestmark = pytest.mark.real

COLOUR = (200, 100, 50)
PHOTO = photo(COLOUR, (640, 480))
OTHER = photo((50, 200, 90), (400, 300))
LABELS = """item { id: 21 name: "red" }
item { id: 2 name: "second" }
item { id: 3 name: "third" }
item { id: 6 name: "green" }
"""
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True}


def put(folder, name):
    """Put a detector that echoes into a folder."""
    write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
    (folder / f"{name}.label_map.pbtxt").write_text(LABELS)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A detection app with a model that echoes, and one that cannot be loaded."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    put(folder, "m")
    with served("detection", folder, uploads, MIN_CONFIDENCE=0.25) as url:
        yield url


@pytest.fixture
def opened(browser, url):
    """A function that opens a page as somebody sees it; nothing goes wrong there."""
    with watching(browser) as watch:

        def open_(path="/", **look):
            watched = watch(url, **look)
            watched.open(path)
            return watched

        yield open_


def state_of(watched, state, reason=""):
    """Have the server say that its only model is in a state."""
    model = {"name": "m", "kind": "detection", "state": state, "reason": reason}
    body = json.dumps({"models": [model]})
    watched.page.unroute("**/models")
    watched.page.route("**/models", lambda route: route.fulfill(body=body))


def test_a_photo_waits_for_its_model_for_as_long_as_it_loads(opened):
    """No try is counted; it is answered once the model serves, or told that it failed."""
    watched = opened()
    page = watched.page
    body = json.dumps({"type": "/problems/model-not-ready", "title": "Not ready"})
    page.clock.install()
    state_of(watched, "LOADING")
    refused = {"Retry-After": "1", "Content-Type": "application/problem+json"}
    page.route(
        "**/detect",
        lambda route: route.fulfill(status=503, body=body, headers=refused),
        times=1,
    )
    files = [{"name": "a.png", "mimeType": "image/png", "buffer": PHOTO}]
    page.locator("#file").set_input_files(files)
    page.locator(".asking", has_text="m is loading. Your photo is").wait_for()
    for _ in range(10):
        page.clock.run_for(2000)
    assert watched.posts() == 1
    assert page.locator(".problem").count() == 0
    state_of(watched, "READY")
    wait_for(lambda: page.clock.run_for(2000) or page.locator("table").count(), "it is")
    assert watched.posts() == 2
    # Another photo, for a model that is known to load, is not even sent.
    state_of(watched, "LOADING")
    wait_for(
        lambda: (
            page.clock.run_for(10_000)
            or "loading" in page.locator("#model option").first.text_content()
        ),
        "the page knows",
    )
    page.locator("#file").set_input_files(files)
    state_of(watched, "FAILED", "the graph is cut off: copy it again")
    page.clock.run_for(2000)
    page.get_by_text("m cannot be served: the graph is cut off").wait_for()
    assert watched.posts() == 2


def test_models_that_come_fail_and_come_back_are_noticed(
    browser, folder, uploads, tmp_path
):
    """On the real server: none, then one, a broken one with its reason, a restart."""
    places = {"folder": folder, "uploads": uploads, "tmp_path": tmp_path}
    with started("app.py", **places, RELOAD_S="0.2") as server:
        server.wait("/models")
        watched = Watched(browser.new_context(), server.url)
        page = watched.open()
        page.get_by_text("There is no model yet").wait_for()
        files = [{"name": "a.png", "mimeType": "image/png", "buffer": PHOTO}]
        page.locator("#file").set_input_files(files)
        page.get_by_text("Your photos wait for a model").wait_for()
        put(folder, "m")
        page.locator("tbody th").first.wait_for()
        assert page.locator("#no-models").is_hidden()
        write(folder / "broken.frozen.pb", tiny_graphs.FAULTS["html"]())
        page.locator("#troubles li").wait_for()
        words = page.locator("#troubles").text_content()
        assert words.strip().startswith("broken cannot be served: ")
    page.get_by_text("The server does not answer.").wait_for()
    page.context.close()


def test_many_boxes_are_sorted_out(opened):
    """Labels, boxes and words on and off; a row and its box by mouse and keyboard."""
    watched = opened()
    watched.choose(("a.png", PHOTO))
    page = watched.page
    chips = page.locator(".label-chip")
    wait_for(lambda: chips.count() == 3, "there is a chip for each label")
    assert sorted(chips.all_text_contents()) == ["red 1", "second 1", "third 1"]
    chips.filter(has_text="red").press("Enter")
    assert page.locator("tbody tr:visible th").all_text_contents() == [
        "second",
        "third",
    ]
    assert page.locator(".box:visible").count() == 2
    assert "1 switched off" in page.locator(".count").text_content()
    assert page.locator(".label-chip:focus").text_content() == "red 1"
    assert page.locator(".badge").text_content() == "2"
    page.get_by_role("button", name="All labels").click()
    assert page.locator(".box:visible").count() == 3
    page.get_by_label("Labels", exact=True).uncheck()
    assert page.locator(".chip:visible").count() == 0
    page.get_by_label("Boxes").uncheck()
    edge = "(one) => getComputedStyle(one).borderTopColor"
    assert page.locator(".box").first.evaluate(edge) == "rgba(0, 0, 0, 0)"
    page.get_by_label("Boxes").check()
    page.get_by_label("Labels", exact=True).check()
    # The last row's box by keyboard, kept by Enter, and let go again.
    page.locator("#model").focus()
    pin = page.locator(".pin").last
    while not pin.evaluate("(one) => one === document.activeElement"):
        page.keyboard.press("Tab")
    assert page.locator(".box.on").get_attribute("data-index") == "2"
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    page.locator("#model").focus()
    assert page.locator(".box.on").get_attribute("data-index") == "2"
    assert pin.get_attribute("aria-pressed") == "true"
    pin.press("Enter")
    page.locator("#model").focus()
    assert page.locator(".on").count() == 0


def test_a_photo_is_zoomed_and_moved(opened):
    """By buttons, keys and drags; boxes go with it, and lines stay as thin."""
    watched = opened()
    watched.choose(("a.png", PHOTO))
    page = watched.page
    sheet, frame = page.locator(".sheet"), page.locator(".picture")
    before, box = sheet.bounding_box(), page.locator(".box").first.bounding_box()
    page.get_by_role("button", name="Zoom in").click()
    assert sheet.bounding_box()["width"] == pytest.approx(1.5 * before["width"], abs=1)
    assert frame.bounding_box()["width"] == pytest.approx(before["width"], abs=1)
    now = page.locator(".box").first.bounding_box()
    assert now["width"] == pytest.approx(1.5 * box["width"], abs=2)
    frame.press("+")
    assert sheet.bounding_box()["width"] == pytest.approx(2.25 * before["width"], abs=1)
    x = sheet.bounding_box()["x"]
    frame.press("ArrowRight")
    assert sheet.bounding_box()["x"] == pytest.approx(x - 40, abs=1)
    middle = frame.bounding_box()
    page.mouse.move(middle["x"] + 200, middle["y"] + 200)
    page.mouse.down()
    page.mouse.move(middle["x"] + 230, middle["y"] + 200)
    page.mouse.up()
    assert sheet.bounding_box()["x"] == pytest.approx(x - 10, abs=1)
    page.get_by_role("button", name="Fit").click()
    assert sheet.bounding_box() == pytest.approx(frame.bounding_box(), abs=1)


def test_a_finger_finds_a_box_and_its_row(opened):
    """A tap on either marks both."""
    watched = opened(**PHONE)
    watched.choose(("a.png", PHOTO))
    page = watched.page
    page.locator(".pin").nth(1).tap()
    assert page.locator(".box.on").get_attribute("data-index") == "1"
    page.locator(".pin").nth(1).tap()
    page.locator('.box[data-index="0"]').tap(position={"x": 3, "y": 3})
    assert page.locator("tr.on").count() == 1


def test_words_cover_no_small_object_and_no_other_words(opened):
    """Those without room are shown with their row only."""
    watched = opened()
    small = [
        {"class": n, "label": "a long name for it", "confidence": 0.9 - n / 100,
         "bounding_box": [x, y, x + 0.02, y + 0.02]}
        for n, (x, y) in enumerate((c / 20, r / 20) for r in range(8) for c in range(8))
    ]  # fmt: skip
    watched.page.route("**/detect", lambda route: route.fulfill(json=small))
    watched.choose(("a.png", PHOTO))
    page = watched.page
    wait_for(lambda: page.locator(".chip.quiet").count() > 20, "they are placed")
    overlaps = page.evaluate(
        """() => {
          const rect = (one) => one.getBoundingClientRect();
          const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
            && a.top < b.bottom - 1 && b.top < a.bottom - 1;
          const tags = [...document.querySelectorAll(".chip:not(.quiet)")].map(rect);
          const boxes = [...document.querySelectorAll(".box")].map(rect);
          return tags.filter((tag, i) => boxes.some((box) => meet(tag, box))
            || tags.some((other, j) => i !== j && meet(tag, other))).length;
        }"""
    )
    assert overlaps == 0
    assert page.locator(".rows").bounding_box()["height"] < 700


def saved(page, name):
    """The bytes of what a button saves, and the file's name."""
    with page.expect_download() as download:
        page.get_by_role("button", name=name).click()
    return Path(download.value.path()).read_bytes(), download.value.suggested_filename


def test_many_photos_are_looked_over_and_saved(opened):
    """A table with a filter, files of all answers, the picture, and all gone again."""
    watched = opened()
    watched.choose(("a.png", PHOTO), ("b.png", OTHER), ("=c.png", PHOTO))
    page = watched.page
    wait_for(
        lambda: page.locator(".badge").all_text_contents() == ["3"] * 3, "all answered"
    )
    page.get_by_label("Photos with").select_option("green")
    rows = page.locator("#overview-table tbody tr")
    wait_for(lambda: rows.count() == 1, "it is filtered")
    rows.get_by_role("button", name="b.png").click()
    assert page.locator(".picture img").get_attribute("alt") == "b.png"
    data, name = saved(page, "JSON file")
    results = json.loads(data)["results"]
    assert (name, len(results)) == ("modelserver.json", 3)
    assert len(results[0]["detections"]) == 3
    page.locator("#confidence").fill("0.4")
    table = list(csv.DictReader(io.StringIO(saved(page, "CSV file")[0].decode())))
    assert [row["file"] for row in table] == ["a.png"] * 2 + ["b.png"] * 2 + [
        "'=c.png"
    ] * 2
    assert (table[0]["label"], table[0]["width"]) == ("red", "640")
    coco = json.loads(saved(page, "COCO file")[0])
    assert [image["file_name"] for image in coco["images"]] == [
        "a.png",
        "b.png",
        "=c.png",
    ]
    first = coco["annotations"][0]
    assert first["area"] == pytest.approx(first["bbox"][2] * first["bbox"][3])
    page.locator(".thumb").first.click()
    data, name = saved(page, "Save picture")
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (name, picture.shape) == ("a-m.png", (480, 640, 3))
    assert (picture == colour("red")).all(axis=2).sum() > 100
    page.get_by_role("button", name="Clear all").click()
    assert page.locator("#shown").is_hidden()
    assert page.locator(".thumb").count() == 0


def test_the_address_keeps_model_slider_and_labels(opened):
    """A reload and a link show the same."""
    watched = opened("/?model=m&confidence=0.4&without=red")
    page = watched.page
    assert page.locator("#confidence").input_value() == "0.4"
    watched.choose(("a.png", PHOTO))
    assert page.locator("tbody tr:visible th").all_text_contents() == ["second"]
    page.locator("#confidence").fill("0.41")
    page.locator(".label-chip", has_text="second").click()
    page.reload()
    assert page.locator("#confidence").input_value() == "0.41"
    assert re.search(r"without=red&without=second$", page.url)


def test_folders_are_dropped_and_what_is_no_photo_is_named(opened):
    """A folder's photos are taken in the order of names."""
    watched = opened()
    page = watched.page
    page.evaluate(
        """(numbers) => {
          const file = (name) => ({ isDirectory: false, name,
            file: (done) => done(new File([new Uint8Array(numbers)], name)) });
          const folder = (name, ...inside) => ({ isDirectory: true, name, createReader() {
            const parts = [inside.slice(0, 2), inside.slice(2), []];
            return { readEntries: (done) => done(parts.shift()) };
          }});
          const entry = folder("day", file("b.png"), file("notes.txt"),
            folder("more", file("c.png")), file("a.png"), file(".hidden"));
          const event = new Event("drop", { bubbles: true, cancelable: true });
          event.dataTransfer = { types: ["Files"], files: [],
            items: [{ webkitGetAsEntry: () => entry }] };
          document.querySelector("h1").dispatchEvent(event);
        }""",
        list(PHOTO),
    )
    wait_for(lambda: page.locator(".thumb").count() == 3, "the folder is read")
    names = page.locator(".thumb .name").all_text_contents()
    assert names == ["a.png", "b.png", "c.png"]
    assert "notes.txt" in page.locator("#notice").text_content()


def test_a_label_has_one_colour_everywhere(opened):
    """On the page as in pictures that the server draws, whatever the label is."""
    watched = opened()
    labels = ["red", "dining table", "été 火", "", "<b>", "a" * 300]
    found = watched.page.evaluate(
        """async (labels) => {
          const path = document.querySelector("link[rel=modulepreload]").href;
          const { colourOf } = await import(path.replace(/[^/]*$/, "colours.js"));
          return labels.map(colourOf);
        }""",
        labels,
    )
    assert found == ["#{:02x}{:02x}{:02x}".format(*colour(one)) for one in labels]


# Whether two photos were asked about at the same time.
AT_ONCE = """() => {
  const all = performance.getEntriesByType("resource")
    .filter(({ name }) => name.endsWith("/detect"));
  return all.some((a, i) => all.some((b, j) => i < j
    && b.startTime < a.responseEnd - 1 && a.startTime < b.responseEnd - 1));
}"""


def test_the_camera_is_answered_live(opened):
    """One frame at a time, with boxes and the rate; closing ends it."""
    watched = opened()
    page = watched.page
    page.get_by_role("button", name="Camera").click()
    page.locator("#camera-live:enabled").click()
    told = page.locator("#camera-rate", has_text=re.compile(r"frames a second"))
    told.wait_for()
    wait_for(lambda: page.evaluate("0") or watched.posts() > 3, "frames are asked")
    size = page.locator("#camera-canvas").evaluate("(one) => [one.width, one.height]")
    assert min(size) > 100
    assert page.locator("#camera-video").is_hidden()
    assert not page.evaluate(AT_ONCE)
    page.locator("#camera-close").click()
    page.locator("#camera").wait_for(state="hidden")
    assert page.locator("#camera-rate").text_content() == ""
    wait_for(lambda: still(watched), "nothing is asked")
    assert page.locator(".thumb").count() == 0


# A second and a half of frames of nearly one colour, as a file that is chosen or dropped.
FILM = """async (way) => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 320, height: 240});
  const pen = canvas.getContext("2d");
  const recorder = new MediaRecorder(canvas.captureStream(20), {mimeType: "video/webm"});
  const parts = [];
  recorder.ondataavailable = ({data}) => parts.push(data);
  const done = new Promise((stopped) => (recorder.onstop = stopped));
  recorder.start();
  for (let frame = 0; frame < 30; frame += 1) {
    pen.fillStyle = frame % 2 ? "rgb(200 100 50)" : "rgb(201 101 51)";
    pen.fillRect(0, 0, 320, 240);
    await new Promise((next) => setTimeout(next, 50));
  }
  recorder.stop();
  await done;
  const data = new DataTransfer();
  data.items.add(new File(parts, "film.webm", {type: "video/webm"}));
  if (way === "drop") {
    return document.body.dispatchEvent(
      new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: data}));
  }
  const input = document.getElementById("file");
  input.files = data.files;
  input.dispatchEvent(new Event("change"));
}"""

TONES = """(one) => new Set(new Uint32Array(
  one.getContext("2d").getImageData(0, 0, 320, 240).data.buffer)).size"""


@pytest.mark.parametrize("way", ["drop", "choose"])
def test_a_video_is_answered_frame_by_frame(opened, way):
    """One frame at a time, with boxes and the rate; pausing holds it, closing ends it."""
    watched = opened()
    page = watched.page
    film = page.locator("#camera-video")
    film.evaluate("(one) => (one.loop = true)")
    page.evaluate(FILM, way)
    assert page.get_by_role("dialog", name="film.webm").is_visible()
    page.locator("#camera-rate", has_text="frames a second").wait_for()
    canvas = page.locator("#camera-canvas")
    assert canvas.evaluate("(one) => [one.width, one.height]") == [320, 240]
    assert canvas.evaluate(TONES) > 10  # boxes and words besides the one colour
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    wait_for(lambda: still(watched), "nothing is asked")
    assert canvas.is_visible()
    sent = watched.posts()
    page.get_by_role("button", name="Play", exact=True).click()
    wait_for(lambda: page.evaluate("0") or watched.posts() > sent + 2, "frames")
    assert not page.evaluate(AT_ONCE)
    film.evaluate("(one) => (one.loop = false)")
    page.get_by_role("button", name="Play", exact=True).wait_for()  # it has ended
    wait_for(lambda: still(watched), "nothing is asked")
    page.get_by_role("button", name="Take photo").click()
    page.locator(".result table").wait_for()
    assert page.locator(".thumb").count() == 1
    assert film.get_attribute("src") is None


def still(watched):
    """Whether no photo is sent for a while."""
    sent = watched.posts()
    watched.page.wait_for_timeout(500)
    return watched.posts() == sent


def test_a_video_that_cannot_be_played_says_so(opened):
    """In words, and the camera works after it."""
    watched = opened()
    page = watched.page
    film = {"name": "x.webm", "mimeType": "video/webm", "buffer": b"no film"}
    page.locator("#file").set_input_files([film])
    page.get_by_text("This browser cannot play this file.").wait_for()
    page.locator("#camera-close").click()
    assert watched.posts() == 0
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("heading", name="Camera").wait_for()
    page.locator("#camera-live:enabled").click()
    page.locator("#camera-rate", has_text="frames a second").wait_for()
    page.locator("#camera-live", has_text="Stop live").wait_for()
    page.locator("#camera-close").click()
