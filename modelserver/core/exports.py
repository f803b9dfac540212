"""Facts about a model from the files of its export besides the graph.

Tools that make models write such files: Custom Vision a manifest, Teachable Machine its
metadata, and this server's own ``import`` a record of the original. The graph's own
arithmetic and the operator's sidecar go before; if these are silent, this is evidence.
All functions may be called from any thread.
"""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core.errors import ModelError
from modelserver.core.signatures import MAX_SIDE, Kind, Resize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# The names of these files in a folder of an export; import's record ends like this.
MANIFEST = "cvexport.manifest"
PROPERTIES = "metadata_properties.json"
METADATA = "metadata.json"
RECORD_END = ".import.json"
NAMES = (MANIFEST, PROPERTIES, METADATA)

MAX_BYTES = 1 << 20
CUSTOM_VISION = "Azure Custom Vision"
# Custom Vision's code brings the middle square to 256 x 256, and feeds its middle.
CROP_FROM = 256
TEACHABLE = "Teachable Machine"


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """Facts from the files of an export. Immutable; every field is optional.

    Attributes:
        tool: the maker of the model, e.g. ``Azure Custom Vision``.
        told_by: the files with these facts, for a sentence.
        kind: the task that the model does.
        domain: the kind of model in the tool's own words.
        mean, scale: the graph is fed ``(pixel - mean) * scale`` for pixels 0..255; one
            number or one a channel, in the order in which they are fed.
        bgr: whether the channels are fed as blue, green, red.
        size: ``(height, width)`` in pixels that the graph is fed with.
        resize: how an upload of another shape is brought to ``size``.
        crop_from: side of the square, in pixels, that the middle of an upload is
            brought to before ``size`` is cut out of its middle.
        labels: name of the file with the labels.
        names: the labels themselves, in their order.
        notes: a sentence for each thing that an import saw in the original.
    """

    tool: str = ""
    told_by: tuple[str, ...] = ()
    kind: Kind | None = None
    domain: str = ""
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    bgr: bool | None = None
    size: tuple[int, int] | None = None
    resize: Resize | None = None
    crop_from: int | None = None
    labels: str | None = None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge(parts: Iterable[Export]) -> Export | None:
    """Merge the facts of several files; for each field the first file that has it wins.

    Returns:
        ``None`` if there is no part at all.
    """
    whole: dict[str, Any] = {}
    told_by: list[str] = []
    for part in parts:
        told_by += part.told_by
        for field in part.__struct_fields__:
            value = getattr(part, field)
            if value not in (None, "", ()):
                whole.setdefault(field, value)
    return Export(**{**whole, "told_by": tuple(told_by)}) if whole else None


def read(files: Mapping[str, bytes]) -> Export | None:
    """Read the files of an export.

    Args:
        files: each one's name to its bytes. Other files than those of ``NAMES`` and
            ``import``'s record are passed over.

    Raises:
        ModelError: a file is malformed; the message names it.
    """
    parts = []
    for name, data in files.items():
        if name.endswith(RECORD_END):
            parts.append(_record(name, data))
        elif name in _READERS and (content := _object(name, data)) is not None:
            parts.append(_READERS[name](content))
    return merge(parts)


def record(export: Export) -> bytes:
    """Return an import's record as the file that :func:`read` reads."""
    known = {
        key: value
        for key, value in msgspec.to_builtins(export).items()
        if value not in (None, "", (), [])
    }
    return msgspec.json.format(msgspec.json.encode(known)) + b"\n"


def _record(name: str, data: bytes) -> Export:
    """Read an import's record."""
    try:
        found = msgspec.json.decode(_text(name, data), type=Export)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise ModelError(f"{name}: this is not what import wrote ({err})") from err
    sides = (*(found.size or ()), 1 if found.crop_from is None else found.crop_from)
    if not all(map(_is_each, (found.mean, found.scale))) or not all(
        map(_is_side, sides)
    ):
        raise ModelError(f"{name}: its numbers are out of range")
    return msgspec.structs.replace(found, told_by=(name,))


def _is_each(numbers: tuple[float, ...] | None) -> bool:
    """Return whether numbers are one for all channels or one each, and finite."""
    each = numbers or ()
    return len(each) in {0, 1, 3} and all(map(math.isfinite, each))


def _text(name: str, data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ModelError(f"{name}: the file is larger than 1 MiB")
    return data.removeprefix(codecs.BOM_UTF8)


def _object(name: str, data: bytes) -> dict[str, Any] | None:
    """Read a JSON object whose values may be anything.

    Many programs write a ``metadata.json``: a foreign one is passed over.
    """
    if name == METADATA and len(data) > MAX_BYTES:
        return None
    try:
        found: dict[str, Any] = msgspec.json.decode(
            _text(name, data), type=dict[str, Any]
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        if name == METADATA:
            return None
        raise ModelError(f"{name}: this is not a JSON object ({err})") from err
    return found


def _manifest(content: dict[str, Any]) -> Export:
    """Read Custom Vision's manifest.

    Microsoft's own samples feed every TensorFlow export with 0..255, though the
    properties may name another range (Azure-Samples/customvision-export-samples,
    ``tensorflow``). Exports without properties are older: their code crops, and feeds
    blue first.
    """
    domain = _word(content.get("DomainType"))
    old = not content.get("MetadataPropsFileName")
    kind = _KINDS.get(domain.lower())
    crops = old and domain.lower() == "classification"
    return Export(
        tool=CUSTOM_VISION,
        told_by=(MANIFEST,),
        kind=kind,
        domain=" ".join(filter(None, (domain, _word(content.get("Flavor"))))),
        mean=(0.0,),
        scale=(1.0,),
        bgr=True if old else None,
        resize="crop" if crops else None,
        crop_from=CROP_FROM if crops else None,
        labels=_word(content.get("LabelFileName")) or None,
    )


_KINDS: dict[str, Kind] = {
    "classification": "classification",
    "objectdetection": "detection",
}


def _properties(content: dict[str, Any]) -> Export:
    """Read Custom Vision's properties: the size, and the order of the channels."""
    order = _word(content.get("Image.BitmapPixelFormat")).lower()
    sides = tuple(
        _whole(content.get(f"CustomVision.Preprocess.Target{side}"))
        for side in ("Height", "Width")
    )
    return Export(
        tool=CUSTOM_VISION,
        told_by=(PROPERTIES,),
        domain=_word(content.get("CustomVision.Postprocess.Method")),
        mean=(0.0,),
        scale=(1.0,),
        bgr={"bgr8": True, "rgb8": False}.get(order),
        size=(sides[0], sides[1]) if all(map(_is_side, sides)) else None,
    )


def _teachable(content: dict[str, Any]) -> Export:
    """Read Teachable Machine's metadata; its own code crops and feeds [-1, 1]."""
    package = _word(content.get("packageName"))
    if package != "@teachablemachine/image":
        return Export()
    side = _whole(content.get("imageSize"))
    names = content.get("labels")
    listed = names if isinstance(names, list) else []
    return Export(
        tool=TEACHABLE,
        told_by=(METADATA,),
        kind="classification",
        domain=_word(content.get("modelName")),
        mean=(127.5,),
        scale=(1 / 127.5,),
        bgr=False,
        size=(side, side) if _is_side(side) else None,
        resize="crop",
        names=tuple(map(_word, listed)) if all(map(_word, listed)) else (),
    )


_READERS: dict[str, Callable[[dict[str, Any]], Export]] = {
    MANIFEST: _manifest,
    PROPERTIES: _properties,
    METADATA: _teachable,
}


def _word(value: object) -> str:
    """Return a text of at most 200 characters; an empty one for other types."""
    return value[:200] if isinstance(value, str) else ""


def _whole(value: object) -> int:
    """Return a whole number written as one or as a text; 0 for other types."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:9])
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_side(side: int) -> bool:
    return 1 <= side <= MAX_SIDE
