"""The pictures of the page in ``docs/img``: ``PYTHONPATH=. python tests/support/screenshots.py``.

The photo is drawn here and the model knows where things are in it, so that nothing of
anybody else's is shown.
"""

import io
import sys
import tempfile
from pathlib import Path

import tensorflow as tf
from PIL import Image, ImageDraw, ImageFilter

from support.browser import chromium
from support.servers import ROOT, started
from support.tiny_graphs import building, file_of, write

SIZE = (1200, 800)
# What is drawn: label, confidence, and left, top, right, bottom in pixels.
THINGS = (
    ("boat", 0.97, (640, 470, 905, 662)),
    ("sun", 0.94, (806, 96, 986, 276)),
    ("house", 0.91, (128, 372, 372, 584)),
    ("tree", 0.86, (392, 330, 522, 586)),
    ("bird", 0.71, (560, 150, 660, 196)),
    ("bird", 0.44, (676, 222, 748, 256)),
    ("cloud", 0.32, (150, 96, 460, 200)),
)
LOOKS = {
    "page-light": {"viewport": {"width": 1240, "height": 1180}},
    "page-dark": {
        "viewport": {"width": 1240, "height": 1180},
        "color_scheme": "dark",
    },
    "page-phone": {
        "viewport": {"width": 390, "height": 1100},
        "device_scale_factor": 1.5,
    },
}


def landscape():
    """A bay at sunset, as a JPEG."""
    twice = (SIZE[0] * 2, SIZE[1] * 2)
    picture = Image.new("RGB", twice)
    draw = ImageDraw.Draw(picture)
    for y in range(twice[1]):
        part = y / twice[1]
        sky = (int(70 + 300 * part), int(110 + 150 * part), int(190 - 70 * part))
        draw.line([(0, y), (twice[0], y)], fill=sky)

    def at(*points):
        return [2 * point for point in points]

    draw.ellipse(at(806, 96, 986, 276), fill=(255, 236, 170))
    for left, top, right, bottom in (
        (150, 130, 330, 200),
        (230, 96, 400, 190),
        (320, 130, 460, 200),
    ):
        draw.ellipse(at(left, top, right, bottom), fill=(206, 190, 208))
    draw.polygon(
        at(0, 520, 240, 380, 480, 500, 760, 360, 1200, 500, 1200, 800, 0, 800),
        fill=(96, 84, 128),
    )
    draw.rectangle(at(0, 540, 1200, 800), fill=(44, 92, 132))
    for row in range(20):
        y = 566 + row * 12
        draw.line(at(820 - row * 9, y, 970 + row * 9, y), fill=(236, 190, 140), width=5)
    draw.polygon(at(0, 540, 540, 540, 610, 800, 0, 800), fill=(52, 84, 62))
    draw.rectangle(at(150, 460, 350, 584), fill=(238, 226, 206))
    draw.polygon(at(128, 462, 250, 372, 372, 462), fill=(150, 62, 52))
    draw.rectangle(at(228, 516, 272, 584), fill=(92, 60, 46))
    for left in (174, 294):
        draw.rectangle(at(left, 488, left + 34, 522), fill=(255, 214, 128))
    draw.rectangle(at(446, 480, 468, 586), fill=(84, 58, 42))
    draw.ellipse(at(392, 330, 522, 506), fill=(36, 104, 66))
    draw.polygon(at(640, 612, 905, 612, 862, 662, 684, 662), fill=(120, 44, 40))
    draw.rectangle(at(764, 470, 772, 612), fill=(70, 48, 36))
    draw.polygon(at(778, 476, 778, 600, 884, 600), fill=(250, 244, 232))
    draw.polygon(at(758, 496, 758, 600, 676, 600), fill=(232, 220, 204))
    for left, top, right, bottom in ((560, 150, 660, 196), (676, 222, 748, 256)):
        middle = (left + right) / 2
        for start, end in ((left, middle), (middle, right)):
            draw.arc(
                at(start, top, end, 2 * bottom - top),
                180,
                360,
                fill=(40, 36, 56),
                width=10,
            )
    picture = picture.resize(SIZE, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(0.4)).save(file, "JPEG", quality=90)
    return file.getvalue()


def knowing_detector():
    """A graph that says what is drawn, whatever it is shown."""
    width, height = SIZE
    boxes = [
        (top / height, left / width, bottom / height, right / width)
        for _, _, (left, top, right, bottom) in THINGS
    ]
    labels = sorted({label for label, _, _ in THINGS})
    with building() as graph:
        image = tf.compat.v1.placeholder(
            tf.uint8, (None, None, None, 3), "image_tensor"
        )
        one = tf.ones([tf.shape(image)[0], 1])
        scores = [confidence for _, confidence, _ in THINGS]
        classes = [1.0 + labels.index(label) for label, _, _ in THINGS]
        tf.multiply(one[:, :, None], [boxes], name="detection_boxes")
        tf.multiply(one, [scores], name="detection_scores")
        tf.multiply(one, [classes], name="detection_classes")
        tf.multiply(one[:, 0], float(len(THINGS)), name="num_detections")
    text = "".join(
        f'item {{ id: {number} name: "{label}" }}\n'
        for number, label in enumerate(labels, 1)
    )
    return file_of(graph), text


class Film:
    """The page in use, frame by frame, with a pointer.

    Attributes:
        frames: pictures of one size.
        durations: of each, in milliseconds.
    """

    WIDTH = 720

    def __init__(self, page):
        self._page = page
        self._at = (0, 0)
        self.frames = []
        self.durations = []

    def shoot(self, milliseconds):
        """Add a frame."""
        picture = Image.open(io.BytesIO(self._page.screenshot())).convert("RGB")
        x, y = self._at
        arrow = ((0, 0), (0, 30), (7, 24), (12, 35), (17, 33), (12, 22), (21, 22))
        draw = ImageDraw.Draw(picture)
        draw.polygon([(x + a, y + b) for a, b in arrow], "black", "white", width=2)
        height = round(self.WIDTH * picture.height / picture.width)
        self.frames.append(
            picture.resize((self.WIDTH, height), Image.Resampling.LANCZOS)
        )
        self.durations.append(milliseconds)

    def point(self, locator, part=0.5):
        """Move the pointer onto an element, some part of its width from the left."""
        box = locator.bounding_box()
        x, y = box["x"] + part * box["width"], box["y"] + box["height"] / 2
        self._page.mouse.move(x, y)
        self._at = (x, y)

    def save(self, path):
        """Write all frames as one animated picture."""
        first, *others = self.frames
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self.durations,
            loop=0,
            quality=75,
            method=6,
        )


def use(page, file):
    """Choose a photo, and look at what was found in some ways; gives the film."""
    film = Film(page)
    film.point(page.locator("#drop"), 0.4)
    film.shoot(1200)
    page.locator("#file").set_input_files(file)
    page.locator(".count").wait_for()
    page.locator("#strip").evaluate("() => document.activeElement.blur()")
    film.shoot(1600)
    slider = page.locator("#confidence")
    for sure in (0.36, 0.3, 0.24, 0.4, 0.6, 0.8, 0.9, 0.4):
        slider.fill(str(sure))
        film.point(slider, sure)
        film.shoot(900 if sure in {0.24, 0.9} else 250)
    for row in (0, 2, 3):
        film.point(page.locator("tbody tr").nth(row), 0.2)
        film.shoot(800)
    birds = page.locator(".label-chip", has_text="bird")
    film.point(birds)
    for _ in range(2):
        birds.click()
        film.shoot(900)
    zoom = page.get_by_role("button", name="Zoom in")
    zoom.scroll_into_view_if_needed()
    for _ in range(2):
        film.point(zoom)
        zoom.click()
        film.shoot(700)
    page.get_by_role("button", name="Fit").click()
    page.evaluate("() => window.scrollTo(0, 0)")
    film.point(page.locator("#drop"), 0.4)
    film.shoot(1200)
    return film


def main():
    """Write the pictures."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "img"
    file = {"name": "bay.jpg", "mimeType": "image/jpeg", "buffer": landscape()}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        (place / "models").mkdir()
        (place / "pics").mkdir()
        graph, labels = knowing_detector()
        write(place / "models" / "seaside.frozen.pb", graph)
        (place / "models" / "seaside.label_map.pbtxt").write_text(labels)
        with (
            started(
                "app.py",
                folder=place / "models",
                uploads=place / "pics",
                tmp_path=place,
                MIN_CONFIDENCE=0.4,
            ) as server,
            chromium() as browser,
        ):
            server.wait()
            for name, look in LOOKS.items():
                page = browser.new_context(**look).new_page()
                page.goto(server.url)
                page.locator("#file").set_input_files(file)
                page.locator(".count").wait_for()
                page.locator("#strip").evaluate("() => document.activeElement.blur()")
                page.screenshot(path=out / f"{name}.png", full_page=False)
            page = browser.new_context(**LOOKS["page-light"]).new_page()
            page.goto(server.url)
            page.locator("#samples").evaluate_all(
                "(all) => all.forEach((one) => one.remove())"
            )
            use(page, file).save(out / "page.webp")


if __name__ == "__main__":
    main()
