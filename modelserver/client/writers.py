"""Results as JSON lines, CSV or COCO JSON.

Writers take outcomes as they come and are for one thread. ``close`` ends the text; it
leaves the file open, which is the caller's.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from modelserver.client.photos import upright_size
from modelserver.client.results import Detections

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

    from modelserver.client.errors import ClientError
    from modelserver.client.folders import Outcome
    from modelserver.client.results import Classification, Size

Format = Literal["jsonl", "csv", "coco"]

CSV_COLUMNS = (
    *("file", "class", "label", "confidence", "x1", "y1", "x2", "y2"),
    *("width", "height", "error"),
)
"""The first line of a CSV file."""


class Writer(Protocol):
    """A writer of outcomes in some format."""

    def write(self, outcome: Outcome) -> None:
        """Write one outcome, or keep it until the end."""
        raise NotImplementedError

    def close(self) -> None:
        """End the text; the file stays open."""
        raise NotImplementedError


def writer(form: Format, file: IO[str]) -> Writer:
    """Return a writer.

    Args:
        form: ``jsonl``, ``csv`` or ``coco``.
        file: of UTF-8 text; for names of files that are no text, opened with
            ``errors="surrogateescape"``.
    """
    kinds: dict[Format, Callable[[IO[str]], Writer]]
    kinds = {"jsonl": JsonLines, "csv": Csv, "coco": Coco}
    return kinds[form](file)


class JsonLines:
    """A JSON object a line and photo, written at once.

    ``file``, then ``detections`` as the server answers them, or ``class`` (and
    ``classes`` if asked for), or ``error``; ``width`` and ``height`` if known.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, outcome: Outcome) -> None:
        """Write one line."""
        self._file.write(dump(_record(outcome)) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Do nothing: all is written."""


class Csv:
    """A row a detection or class, under ``CSV_COLUMNS``, written at once.

    A photo without any has one row with its name alone, a photo that failed a row with
    its error. Boxes are in the coordinates that were asked for. Lines end in CR LF, as
    in RFC 4180; if they ended in LF, Python would leave a CR within a name unquoted.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._rows = csv.DictWriter(file, CSV_COLUMNS)
        self._rows.writeheader()

    def write(self, outcome: Outcome) -> None:
        """Write a photo's rows."""
        self._rows.writerows(table_rows(outcome))
        self._file.flush()

    def close(self) -> None:
        """Do nothing: all is written."""


def table_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Return a photo's rows, by the names of ``CSV_COLUMNS``; a row may lack some."""
    first: dict[str, object] = {"file": outcome.name, "error": outcome.error}
    size = None if outcome.result is None else outcome.result.size
    if size is not None:
        first |= {"width": size[0], "height": size[1]}
    return [{**first, **row} for row in _rows(outcome.result)]


class Coco:
    """One COCO document, written at the end.

    ``images``, ``categories`` and ``annotations`` (boxes x, y, width, height in pixels,
    each with its ``score``, so the list is one of COCO results, too), and in
    ``failures`` the photos without an answer. An image's id is the number in its file's
    name, as in COCO itself, if each name is a number; else images are counted in the
    order of names. For detections only.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._outcomes: list[Outcome] = []

    def write(self, outcome: Outcome) -> None:
        """Keep an outcome until the end."""
        self._outcomes.append(outcome)

    def close(self) -> None:
        """Write the document."""
        self._file.write(dump(coco(self._outcomes)) + "\n")
        self._file.flush()


def coco(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return detections as a COCO document; see ``Coco``.

    Sizes that the server did not tell are read from the files; a photo of unknown size
    is a failure.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.name)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    names: dict[int, str] = {}
    for image_id, outcome in zip(_image_ids(ordered), ordered, strict=True):
        found = outcome.result
        if not isinstance(found, Detections):
            failures.append(_failure(outcome))
            continue
        size = found.size or upright_size(outcome.path)
        if size is None:
            unknown = "nobody tells the photo's width and height"
            failures.append({"file_name": outcome.name, "error": unknown})
            continue
        width, height = size
        image = {"file_name": outcome.name, "width": width, "height": height}
        images.append({"id": image_id, **image})
        names |= {item.class_id: item.label for item in found}
        annotations += _annotations(found, size, image_id, len(annotations) + 1)
    return {
        "images": images,
        "categories": [{"id": key, "name": names[key]} for key in sorted(names)],
        "annotations": annotations,
        "failures": failures,
    }


def dump(value: object) -> str:
    """Return JSON for people, with letters as they are, unless UTF-8 lacks them."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file's name that is no text
        return json.dumps(value)
    return text


def _record(outcome: Outcome) -> dict[str, Any]:
    record: dict[str, Any] = {"file": outcome.name}
    found = outcome.result
    if found is None:
        return record | {"error": _error(outcome.error)}
    record["model"] = found.model
    if found.size is not None:
        record |= {"width": found.size[0], "height": found.size[1]}
    if isinstance(found, Detections):
        return record | {"detections": msgspec.to_builtins(found.items)}
    record["class"] = found.label
    if found.classes:
        record["classes"] = msgspec.to_builtins(found.classes)
    return record


def _error(error: ClientError | None) -> dict[str, Any]:
    if error is None or error.problem is None:
        return {"type": type(error).__name__, "detail": str(error)}
    return dict(vars(error.problem))


def _rows(found: Detections | Classification | None) -> list[dict[str, Any]]:
    if found is None:
        return [{}]
    if isinstance(found, Detections):
        rows = msgspec.to_builtins(found.items)
        sides = ("x1", "y1", "x2", "y2")
        for row in rows:
            row.update(zip(sides, row.pop("bounding_box"), strict=True))
        return rows or [{}]
    return msgspec.to_builtins(found.classes) or [{"label": found.label}]


def _image_ids(ordered: list[Outcome]) -> list[int]:
    stems = [outcome.path.stem for outcome in ordered]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(ordered) + 1))


def _failure(outcome: Outcome) -> dict[str, Any]:
    error = str(outcome.error or "a classification has no boxes")
    return {"file_name": outcome.name, "error": error}


def _annotations(
    found: Detections, size: Size, image_id: int, first: int
) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": image_id,
            "category_id": item.class_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "score": item.confidence,
        }
        for number, (item, (x1, y1, x2, y2)) in enumerate(
            zip(found, found.in_pixels(size), strict=True), first
        )
    ]
