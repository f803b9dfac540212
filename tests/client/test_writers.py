"""Results as JSON lines, CSV and COCO."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelserver.client import (
    BadImage,
    Class,
    Classification,
    Detection,
    Detections,
    Outcome,
    Problem,
    writer,
)
from modelserver.client.errors import refusal
from modelserver.client.writers import CSV_COLUMNS
from support.client_fakes import CAT, DOG, outcome

# csv reads no null byte before Python 3.11; no file's name has one, and no label should.
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
SHARES = st.floats(0, 1)
DETECTIONS = st.builds(
    Detection, st.integers(-9, 9999), TEXTS, SHARES, st.tuples(*[SHARES] * 4)
)
SIZES = st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999))
FOUND = st.builds(outcome, TEXTS, size=SIZES) | st.builds(
    lambda name, items, size: outcome(name, *items, size=size),
    TEXTS,
    st.lists(DETECTIONS, max_size=4),
    SIZES,
)
REFUSED = refusal(Problem("/problems/x", "X", 422, "It is cut off.", "r-1"))


def written(form, *outcomes):
    """What a writer writes."""
    file = io.StringIO(newline="")
    made = writer(form, file)
    for one in outcomes:
        made.write(one)
    made.close()
    return file.getvalue()


def lines(*outcomes):
    """JSON lines, read again."""
    return [json.loads(line) for line in written("jsonl", *outcomes).split("\n")[:-1]]


def rows(*outcomes):
    """CSV, read again."""
    return list(csv.DictReader(io.StringIO(written("csv", *outcomes), newline="")))


def coco(*outcomes):
    """A COCO document, read again."""
    return json.loads(written("coco", *outcomes))


@given(st.lists(FOUND, max_size=5))
def test_json_lines_hold_everything(outcomes):
    """Each photo is a line, from which the same detections can be made."""
    read = lines(*outcomes)
    assert len(read) == len(outcomes)
    for line, one in zip(read, outcomes, strict=True):
        items = tuple(
            Detection(
                each["class"],
                each["label"],
                each["confidence"],
                tuple(each["bounding_box"]),
            )
            for each in line["detections"]
        )
        size = (line["width"], line["height"]) if "width" in line else None
        assert Detections(items, line["model"], size) == one.result
        assert line["file"] == one.name


@given(st.lists(FOUND, max_size=5))
def test_csv_holds_every_detection(outcomes):
    """Commas, quotes and line breaks in names are kept, and no digits are lost."""
    expected = [
        (one.name, found) for one in outcomes for found in (one.result.items or [None])
    ]
    read = [
        (
            row["file"],
            Detection(
                int(row["class"]),
                row["label"],
                float(row["confidence"]),
                tuple(float(row[side]) for side in ("x1", "y1", "x2", "y2")),
            )
            if row["class"]
            else None,
        )
        for row in rows(*outcomes)
    ]
    assert read == expected


@given(
    st.lists(
        st.builds(
            lambda name, items, size: outcome(name, *items, size=size),
            TEXTS,
            st.lists(DETECTIONS, max_size=4),
            st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        ),
        max_size=5,
        unique_by=lambda one: one.name,
    )
)
def test_coco_holds_every_box(outcomes):
    """The boxes are in pixels, and the ids fit together."""
    document = coco(*outcomes)
    images = {image["id"]: image for image in document["images"]}
    assert {image["file_name"] for image in images.values()} == {
        o.name for o in outcomes
    }
    assert len(images) == len(outcomes)
    known = {category["id"] for category in document["categories"]}
    ids = [each["id"] for each in document["annotations"]]
    assert len(set(ids)) == len(ids)
    by_name = {one.name: list(one.result) for one in outcomes}
    for each in document["annotations"]:
        image = images[each["image_id"]]
        found = by_name[image["file_name"]].pop(0)
        x, y, width, height = each["bbox"]
        corners = found.in_pixels(image["width"], image["height"])
        assert (x, y) == corners[:2]
        assert (x + width, y + height) == pytest.approx(corners[2:], abs=1e-6)
        assert each["category_id"] == found.class_id
        assert each["category_id"] in known
        assert each["score"] == found.confidence
    assert not any(by_name.values())


def test_letters_stay_letters():
    """A label in any script can be read in the file."""
    made = outcome("фото.jpg", Detection(1, "猫 🐈", 0.9, CAT.box))
    assert "фото.jpg" in written("jsonl", made)
    assert "猫 🐈" in written("jsonl", made)
    assert "猫 🐈" in written("csv", made)


@pytest.mark.parametrize("form", ["jsonl", "coco", "csv"])
def test_a_name_that_is_no_text_can_be_written(form, tmp_path):
    """A file system allows such names: JSON stays UTF-8, and CSV has the name's own bytes."""
    path = tmp_path / "out"
    with path.open("w", encoding="utf-8", errors="surrogateescape") as file:
        made = writer(form, file)
        made.write(outcome("\udcff.jpg", CAT, size=(10, 10)))
        made.close()
    assert (b"\xff.jpg" if form == "csv" else b"\\udcff.jpg") in path.read_bytes()


def test_what_failed_is_in_every_form(tmp_path):
    """A failure has the server's words, or the client's."""
    failed = [
        outcome("a.jpg", error=REFUSED),
        outcome("b.jpg", error=BadImage("It is gone.")),
    ]
    first, second = lines(*failed)
    assert first == {"file": "a.jpg", "error": vars(REFUSED.problem)}
    assert second["error"] == {"type": "BadImage", "detail": "It is gone."}
    said = ["422: It is cut off.", "It is gone."]
    assert [row["error"] for row in rows(*failed)] == said
    assert [one["error"] for one in coco(*failed)["failures"]] == said


def test_a_photo_with_nothing_in_it_is_there():
    """A photo without detections is in the output."""
    empty = outcome("a.jpg", size=(10, 20))
    assert lines(empty)[0]["detections"] == []
    (row,) = rows(empty)
    assert (row["file"], row["width"], row["class"], row["error"]) == (
        "a.jpg",
        "10",
        "",
        "",
    )
    assert coco(empty)["images"][0]["file_name"] == "a.jpg"


def test_csv_begins_with_its_columns():
    """The first line is there without any photo."""
    assert written("csv") == ",".join(CSV_COLUMNS) + "\r\n"


def test_classes_are_written():
    """The output has the best class alone, or the classes that were asked for."""
    classes = (Class(281, "cat", 0.9), Class(282, "dog", 0.1))
    one = Outcome(Path("a.jpg"), "a.jpg", Classification("cat", "net"))
    more = Outcome(Path("b.jpg"), "b.jpg", Classification("cat", "net", classes))
    assert lines(one)[0] == {"file": "a.jpg", "model": "net", "class": "cat"}
    assert [each["class"] for each in lines(more)[0]["classes"]] == [281, 282]
    labels = [(row["file"], row["label"], row["confidence"]) for row in rows(one, more)]
    assert labels == [
        ("a.jpg", "cat", ""),
        ("b.jpg", "cat", "0.9"),
        ("b.jpg", "dog", "0.1"),
    ]
    assert coco(one)["failures"][0]["error"] == "a classification has no boxes"


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000139.jpg", "000007.jpg"], [7, 139]),
        (["b.jpg", "1.jpg"], [1, 2]),
        (["1.jpg", "01.png"], [1, 2]),
    ],
)
def test_images_are_numbered_as_their_files_are(names, ids):
    """Ids are the numbers in the names if all differ, and else the order of names."""
    document = coco(*(outcome(name, size=(9, 9)) for name in names))
    assert [image["id"] for image in document["images"]] == ids


def test_sizes_that_the_server_does_not_tell_are_read(tmp_path):
    """The size is read from the file, and a photo of unknown size is a failure."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"nothing")
    made = [outcome(name, DOG, path=tmp_path / name) for name in ("a.png", "b.png")]
    document = coco(*made)
    assert document["annotations"][0]["bbox"] == [0, 0, 40, 30]
    assert document["annotations"][0]["area"] == 1200
    assert [one["file_name"] for one in document["failures"]] == ["b.png"]


def test_pixels_are_not_scaled_again():
    """Boxes that came in pixels are written as they are."""
    box = Detection(1, "cat", 0.9, (10, 20, 30, 60))
    found = Detections((box,), "net", (100, 100), "pixel")
    document = coco(Outcome(Path("a.jpg"), "a.jpg", found))
    assert document["annotations"][0]["bbox"] == [10, 20, 20, 40]
