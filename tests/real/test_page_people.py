"""The page by keyboard, with a screen reader, in the dark, on a phone; real browser."""

import re

import pytest

from support import tiny_graphs
from support.app_client import photo
from support.browser import UNREACHED, Watched, served, watching
from support.servers import wait_for
from support.tiny_graphs import write

pytestmark = pytest.mark.real

PHOTO = ("photo.png", photo((200, 100, 50), (640, 480)))
PHONE = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
}
# Every text that is to be seen, with its contrast against what lies behind it.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((part) => part / 255).map((part) =>
      part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(one).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const seen = walker.currentNode.data.trim() && node.checkVisibility();
    if (!seen || ["SCRIPT", "NOSCRIPT"].includes(node.tagName)) continue;
    if (node.closest(".unseen, :disabled")) continue;
    const ink = light(numbers(getComputedStyle(node).color).slice(0, 3));
    const ground = light(behind(node));
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    found.push([walker.currentNode.data.trim(), contrast]);
  }
  return found;
}"""
FOCUS = """() => {
  const node = document.activeElement;
  const marked = [node, node.closest("#drop"), node.nextElementSibling].some((one) =>
    one && getComputedStyle(one).outlineStyle === "solid");
  return [node.id || node.textContent.trim() || node.value, marked];
}"""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A detection app with two models."""
    folder, uploads = (tmp_path_factory.mktemp(name) for name in ("models", "pics"))
    for name in ("m", "a_model_with_a_name_that_is_longer_than_a_phone_is_wide"):
        write(folder / f"{name}.frozen.pb", tiny_graphs.echo_detector())
        (folder / f"{name}.label_map.pbtxt").write_text(
            'item { id: 21 name: "red" }\nitem { id: 2 name: "second" }\n'
        )
    with served("detection", folder, uploads, MIN_CONFIDENCE=0.25) as url:
        yield url


@pytest.fixture
def opened(browser, url):
    """A function that opens the page as somebody sees it; nothing goes wrong there."""
    with watching(browser) as watch:

        def open_(**look):
            watched = watch(url, **look)
            watched.open()
            watched.page.select_option("#model", "m")
            return watched

        yield open_


def show_everything(watched):
    """A result, its JSON, a problem, and every field."""
    page = watched.page
    page.select_option("#model", label="All models, side by side")
    page.route(
        "**/detect",
        lambda route: route.fulfill(
            status=503, body="{}", headers={"Retry-After": "99"}
        ),
        times=1,
    )
    watched.choose(PHOTO)
    page.locator(".problem button").wait_for()
    page.locator(".result table").wait_for()
    page.get_by_text("JSON", exact=True).first.click()
    page.evaluate("""() => {
      for (const id of ["token-form", "token-used", "no-models"]) {
        document.getElementById(id).hidden = false;
      }
    }""")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(opened, scheme):
    """WCAG's AA: a contrast of 4.5 at least, in both colour schemes."""
    watched = opened(color_scheme=scheme)
    ground = watched.page.locator("body").evaluate(
        "(one) => getComputedStyle(one).backgroundColor"
    )
    assert (int(re.findall(r"\d+", ground)[0]) < 128) == (scheme == "dark")
    show_everything(watched)
    contrasts = watched.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [one for one in contrasts if one[1] < 4.5] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_can_be_used_can_be_told_from_the_ground(opened, scheme):
    """WCAG's AA: the edges of controls have a contrast of 3 at least."""
    page = opened(color_scheme=scheme).page
    for selector in ("#model", "#camera-open", "#drop"):
        edge, ground = page.locator(selector).evaluate(
            """(one) => [getComputedStyle(one).borderTopColor,
              getComputedStyle(one.closest(".card")).backgroundColor]"""
        )
        lights = sorted(luminance(colour) for colour in (edge, ground))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3


def luminance(colour):
    """How light a colour is, as WCAG has it; ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_phone_scrolls_one_way_only(opened):
    """Nothing is wider than the screen, whatever is shown."""
    watched = opened(**PHONE)
    show_everything(watched)
    wide = watched.page.evaluate(
        "() => [document.documentElement.scrollWidth, window.innerWidth]"
    )
    assert wide == [360, 360]
    assert watched.page.evaluate(UNREACHED) == []


def test_a_finger_hits_what_it_means(opened):
    """44 pixels in both directions, for all that is more than a link in a sentence."""
    watched = opened(**PHONE)
    show_everything(watched)
    found = watched.page.locator(
        "button:not(.link), select, summary, input[type=range], .tabs span, #drop, nav a"
    )
    sizes = [
        (one.bounding_box(), one.inner_text())
        for one in found.all()
        if one.is_visible()
    ]
    assert len(sizes) > 10
    assert [one for one in sizes if min(one[0]["width"], one[0]["height"]) < 43.9] == []


def test_everything_can_be_done_by_keyboard(opened):
    """In the order of the page, and one always sees where one is."""
    watched = opened()
    page = watched.page
    name, data = PHOTO
    file = {"name": name, "mimeType": "image/png", "buffer": data}
    # The driver is to know of it long before: told at the last moment it may miss it.
    page.on("filechooser", lambda chooser: chooser.set_files([file]))
    page.evaluate("() => document.activeElement.blur()")
    seen = []

    def tab(until):
        while not seen or seen[-1] != until:
            page.keyboard.press("Tab")
            name, marked = page.evaluate(FOCUS)
            assert marked, name
            seen.append(name)
            assert len(seen) < 40, seen

    tab("file")
    assert seen[:5] == ["Models", "API", "model", "confidence", "camera-open"]
    assert seen[5:] == ["About this model", "file"]
    page.keyboard.press("Enter")
    page.locator(".result table").wait_for()
    tab("JSON")
    page.keyboard.press("Enter")
    assert page.locator("details pre").is_visible()
    tab("curl")
    page.keyboard.press("ArrowRight")
    assert "modelserver.client" in page.locator("#same-code").text_content()
    tab("same-code")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.locator("#live", has_text="Copied.").wait_for(state="attached")
    page.locator("#confidence").focus()
    page.keyboard.press("End")
    assert page.locator(".box:visible").count() == 0


def test_a_screen_reader_is_told_everything(opened):
    """Fields have names, results are a table, and what is new is announced."""
    watched = opened()
    watched.choose(PHOTO)
    page = watched.page
    for role, name in (
        ("combobox", "Model"),
        ("slider", re.compile("Confidence at least")),
        ("list", "Photos"),
        ("button", re.compile(r"photo\.png")),
        ("button", "Remove photo.png"),
        ("img", "photo.png"),
        ("table", "What m sees in photo.png"),
        ("columnheader", "Confidence"),
        ("group", "In which language"),
        ("region", "Results"),
        ("region", "The same request"),
    ):
        assert page.get_by_role(role, name=name).first.is_visible(), name
    row = page.get_by_role("row", name=re.compile("red")).text_content()
    assert re.search(r"red97 %\d+, \d+ \W \d+, \d+$", row)
    told = page.locator("#live")
    wait_for(lambda: "photo.png, m: 3 objects. red 97 %" in told.text_content(), "told")
    page.locator("#confidence").focus()
    page.keyboard.press("End")
    wait_for(lambda: told.text_content() == "photo.png, m: no objects. ", "told again")
    assert page.locator("#confidence").get_attribute("aria-valuetext") == "100 %"
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "(all) => all.filter((one) => one.checkVisibility() || one.className === 'unseen')"
        ".map((one) => one.tagName)"
    )
    assert levels == ["H1", "H2", "H3", "H4", "H2"]
    assert page.locator("html").get_attribute("lang") == "en"


def test_little_is_transferred_and_most_of_it_once(browser, url):
    """Under 120 kB, headers and all; on the next visit what is kept costs nothing."""
    watched = Watched(browser.new_context(), url)
    watched.open().wait_for_load_state("networkidle")
    sizes = [one.sizes() for one in watched.done]
    assert len(sizes) >= 9
    total = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes)
    assert 20_000 < total < 120_000
    watched.open("/detect").wait_for_load_state("networkidle")
    again = watched.page.evaluate(
        """() => performance.getEntriesByType("resource")
          .map((one) => [new URL(one.name).pathname, one.transferSize])"""
    )
    assert ["/static/page.css", 0] in again
    assert sum(size for _, size in again) < 5_000
    watched.close()


def test_a_row_and_its_box_stand_out_together(opened):
    """While the mouse is on either."""
    watched = opened()
    watched.choose(PHOTO)
    watched.page.locator('tr[data-index="1"]').hover()
    assert watched.page.locator(".box.on").get_attribute("data-index") == "1"
    watched.page.locator("h1").hover()
    assert watched.page.locator(".on").count() == 0
