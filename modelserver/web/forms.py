"""Forms: names of models, photos and options, from the body and the query.

The body is parsed as it comes, once, and a photo's bytes go straight into an upload.
A body that is no form is the photo itself, if the query names the model.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import parse_qs

from flask import g
from gunicorn.http.errors import NoMoreData, ParseException
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
)
from werkzeug.exceptions import ClientDisconnected

from modelserver.core.errors import (
    BadRequest,
    BodyTooSlow,
    MissingField,
    UnsupportedEncoding,
    UploadTooLarge,
)
from modelserver.engine.uploads import Upload
from modelserver.tasks.options import NAMES
from modelserver.web.form_parser import (
    FormParser,
    boundaries,
    choose,
    reason_of,
    tidied,
)
from modelserver.web.server.bodies import MemoryBody, words_of
from modelserver.web.server.upload_pace import TooSlow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from flask import Request

    from modelserver.engine.uploads import Spool
    from modelserver.web.keys import FormKey

# Bytes of one read from the socket; each read waits for the interpreter's lock.
_READ_BYTES = 256 * 1024
_LINE_END_BYTES = len(b"\r\n")
# Each file is an open file descriptor for as long as the request lasts; more files in
# one request would gain nothing.
MAX_FILES = 32
# As many fields of text besides them: names of models, labels, a few options.
MAX_PARTS = 2 * MAX_FILES
_MAX_TEXT_BYTES = 16 * 1024
_FORM = "multipart/form-data"
_PLAIN = frozenset({"identity", ""})
LEAVE_IT = "leave that header to the library that makes the form"
"""What to do about the type of a form's body, for the end of a sentence."""
_TEXT_FORM = "application/x-www-form-urlencoded"
_FIELDS = frozenset({"modelname", *NAMES})
# Names for the photo that clients of other servers, and people from memory, use.
_OTHER_NAMES = frozenset({"image", "images", "photo", "picture", "upload", "img"})
# The same for the model's name, in small letters and without anything between them.
_OTHER_MODELS = frozenset({"model", "modelname", "modelid", "models"})
_NAME_CHARS = 50
# Types of a body that is taken for a photo though nothing names a model.
_PHOTO_TYPES = ("image/", "application/octet-stream")
# So many of a photo's first bytes tell whether it is text.
_HEAD_BYTES = 64
_DATA_URL = re.compile(rb"\s*[\"']?data:[\w.+-]*/[\w.+;=-]*,", re.IGNORECASE)
# The first letters in base64 of JPEG, PNG, GIF, WebP, BMP, and AVIF or HEIC; in the
# kind for addresses, too.
_BASE64_PHOTO = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*[\"']?(?:[/_]9j[/_]|iVBOR|R0lGOD|UklGR|Qk[0-3]|"
    rb"AAAA[\w+/-]{2}Z0eX)[\w+/=\s-]*$"
)
# The first digits of the same in hexadecimal.
_HEX_PHOTO = re.compile(
    rb"\s*[\"']?(?:0x|\\x)?(?:ffd8ff|89504e47|47494638|52494646)", re.IGNORECASE
)
# How JPEG and PNG begin once their bytes were taken for Latin-1 or UTF-8.
_MANGLED_PHOTO = re.compile(
    rb"\xc3\xbf\xc3\x98\xc3\xbf|(?:\xef\xbf\xbd){3}|(?:\xc2\x89|\xef\xbf\xbd)PNG"
)
_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]*")


class File(NamedTuple):
    """One photo; its ``name`` is the client's, empty if there is none.

    Attributes:
        upload: closed when the request ends.
    """

    name: str
    upload: Upload


@dataclass(frozen=True)
class FormShape:
    """The parts of a form that mean something. Immutable.

    Attributes:
        photos: names of parts that are photos; if there are none, fields may come in a
            form of the other kind, or in no body at all.
        fields: names of fields.
        any_file: a part with a file's name is a photo as well, however it is called.
        is_raw: a body that is no form is the photo itself.
    """

    photos: frozenset[str]
    fields: frozenset[str]
    any_file: bool = False
    is_raw: bool = False


OWN = FormShape(frozenset({"file"}), _FIELDS, is_raw=True)
"""The form of this server's own routes."""


@dataclass
class Form:
    """The content of a request, in the order it came.

    Attributes:
        files: the photos.
        fields: the values, of at most 16 KiB each, of the fields that mean something:
            ``modelname`` and the options; only those that were sent.
        other: the name of a part that may have been meant as the photo.
        other_model: that of a field that may have been meant as the model's name.
    """

    files: list[File] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)
    other: str | None = None
    other_model: str | None = None

    def note(self, name: str) -> None:
        """Note a field of a name that means nothing, if it nearly does."""
        plain = re.sub(r"[\W_]", "", name[:_NAME_CHARS].lower())
        if plain in _OTHER_MODELS:
            self.other_model = name[:_NAME_CHARS]


def read_form(request: Request, spool: Spool, shape: FormShape = OWN) -> Form:
    """Read the query, and the body to its end.

    Fields of other names are ignored.

    Raises:
        BadRequest: the body is not a multipart form, and the query names no model; or
            the form is malformed or cut off.
        Unauthorized: the form must have the token, and does not.
        UnsupportedEncoding: it is compressed.
        BodyTooSlow: it came too slowly.
        UploadTooLarge: too many parts, or a text that is too long.
        StorageFull, StorageUnavailable: the upload cannot be kept.
    """
    environ = request.environ
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding.strip().lower() not in _PLAIN:
        raise UnsupportedEncoding
    form = Form()
    if environ.get("QUERY_STRING"):
        for name in shape.fields & request.args.keys():
            form.fields[name] = request.args.getlist(name)
        for name in request.args.keys() - shape.fields:
            form.note(name)
    content_type = environ.get("CONTENT_TYPE", "")
    kind = content_type.partition(";")[0].strip().lower()
    edges = boundaries(content_type) if kind == _FORM else []
    if edges:
        _read_multipart(request, edges, _Reader(form, spool, shape))
    elif not shape.photos:
        _read_fields(request, form, shape)
    elif (
        shape.is_raw
        and kind != _FORM
        and ("modelname" in form.fields or kind.startswith(_PHOTO_TYPES))
    ):
        _read_raw(request, form, spool)
    else:
        raise _no_form_error(shape, kind)
    if (key := form_key()) is not None:
        key.check(form.fields)
    return form


def _no_form_error(shape: FormShape, kind: str) -> BadRequest:
    first = "Send a multipart form (multipart/form-data with its boundary), as "
    if kind == _FORM:
        first = f"The Content-Type has no boundary: {LEAVE_IT}. {first}"
    if not shape.is_raw:
        return BadRequest(f"{first}curl -F {min(shape.photos)}=@photo.jpg does.")
    return BadRequest(
        f"{first}curl -F modelname=NAME -F file=@photo.jpg does, or the photo alone "
        "with ?modelname=NAME, as curl --data-binary @photo.jpg does."
    )


def form_key() -> FormKey | None:
    """Return what demands the token of the present request's form.

    ``None`` if none is needed, or the request's head had it.
    """
    return cast("FormKey | None", g.get("form_key"))


@contextmanager
def _reading() -> Iterator[None]:
    """Raise what is wrong with a body, in the words of errors of ours.

    Raises:
        BadRequest: it is malformed or cut off.
        BodyTooSlow: it came too slowly.
        UploadTooLarge: it has too many parts.
    """
    try:
        yield
    except TooSlow as error:
        raise BodyTooSlow from error
    except ParserLimitReached as error:
        raise UploadTooLarge(f"The form is too large: {error}.") from error
    except MultipartError as error:
        raise _malformed_error(reason_of(error)) from error
    except ParseException as error:
        raise _malformed_error(words_of(error)) from error
    except (ClientDisconnected, NoMoreData) as error:
        raise _malformed_error("it ends too early") from error


def _malformed_error(reason: str) -> BadRequest:
    return BadRequest(f"The request's body is malformed: {reason}")


def _read_multipart(request: Request, edges: list[bytes], reader: _Reader) -> None:
    with _reading():
        pieces = _pieces(body_stream(request))
        first = next(pieces, b"")
        if not first:
            raise _empty_error(request, "send a form with the photo")
        boundary = choose(edges, first)
        with FormParser(boundary, MAX_PARTS) as parser:
            for piece in tidied(pieces, boundary, first):
                for event in parser.parse(piece):
                    reader.take(event)


def _empty_error(request: Request, wanted: str) -> BadRequest:
    """Return the error for a body without a byte; old clients forget its length."""
    environ = request.environ
    if environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ:
        return BadRequest(f"The body is empty: {wanted}.")
    return BadRequest(
        "The request has neither Content-Length nor chunks, so its body is empty: "
        f"{wanted}, and its length."
    )


def read_body(request: Request) -> bytes:
    """Return a body that is no form, whole; for what is read from memory anyway.

    Raises:
        BadRequest: it is malformed or cut off.
        UnsupportedEncoding: it is compressed.
        BodyTooSlow: it came too slowly.
        RequestEntityTooLarge: it is over the limit.
    """
    encoding = request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding.strip().lower() not in _PLAIN:
        raise UnsupportedEncoding
    with _reading():
        stream = body_stream(request)
        # Werkzeug notices a body that is over the limit when it is asked for more.
        return b"".join(iter(lambda: stream.read(_READ_BYTES), b""))


def _read_fields(request: Request, form: Form, shape: FormShape) -> None:
    """Read the fields of a form without photos, which may be no form at all."""
    with _reading():
        body = body_stream(request).read(_MAX_TEXT_BYTES + 1)
    if len(body) > _MAX_TEXT_BYTES:
        raise UploadTooLarge("The form is too large: it has no photo here.")
    if request.mimetype != _TEXT_FORM:
        return
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=MAX_PARTS)
    except ValueError as error:
        raise UploadTooLarge(
            "The form is too large: it has too many fields."
        ) from error
    for name in shape.fields & fields.keys():
        form.fields.setdefault(name, []).extend(fields[name])


def head_fields(head: bytes, content_type: str, shape: FormShape) -> Form:
    """Return the fields that the beginning of a multipart form has.

    Args:
        head: the body's first bytes.
        content_type: of the request.
    """
    form = Form()
    edges = boundaries(content_type) or [b""]
    boundary = choose(edges, head)
    reader = _Reader(form, None, shape)
    try:
        parser = FormParser(boundary, MAX_PARTS, strict=False)
        for piece in tidied(iter(()), boundary, head):
            for event in parser.parse(piece):
                reader.take(event)
    except (MultipartError, ValueError, UploadTooLarge, BadRequest):
        # What is wrong is said by who reads all of it.
        return form
    return form


def _text(name: str | None) -> str:
    """Return a name of a part or file, which most clients write in UTF-8.

    In another encoding (Latin-1, GBK, Shift-JIS) it is no reason to refuse a photo: it
    is kept as Latin-1 reads it.
    """
    try:
        return (name or "").encode("latin-1").decode("utf-8")
    except UnicodeError:
        return name or ""


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Read a body in pieces, of which none is a line end alone.

    The strict parser refuses bytes after a form's last boundary, unless they come in
    one piece with it.
    """
    piece = stream.read(_READ_BYTES)
    while piece:
        ahead = stream.read(_READ_BYTES)
        if 0 < len(ahead) <= _LINE_END_BYTES:
            piece += ahead
            ahead = stream.read(_READ_BYTES)
        yield piece
        piece = ahead


def body_stream(request: Request) -> IO[bytes]:
    """Return the body to be read.

    Raises:
        RequestEntityTooLarge: its head says that it is over the limit.
    """
    counted = request.stream
    given = request.environ["wsgi.input"]
    # Our worker has read it to its end, within the limit: counting copies it twice.
    return given if isinstance(given, (MemoryBody, Upload)) else counted


def _read_raw(request: Request, form: Form, spool: Spool) -> None:
    """Read a body that is the photo itself.

    Its type does not matter: curl sends any data as a form of another kind.
    """
    stream = body_stream(request)
    # One in the upload folder is an upload as it is.
    upload = keep(stream if isinstance(stream, Upload) else spool.open())
    with _reading():
        is_there = stream is upload
        head = upload.read(_HEAD_BYTES) if is_there else _copy(stream, upload)
    if not head:
        raise _empty_error(request, "send the photo's bytes")
    if head.startswith(b"--"):  # no photo does
        raise BadRequest(
            "The body looks like a multipart form, and Content-Type says otherwise: "
            f"{LEAVE_IT}."
        )
    _check_head(head)
    form.files.append(File("", upload))


def _copy(stream: IO[bytes], upload: Upload) -> bytes:
    """Write a body into an upload; return its first bytes."""
    head = b""
    while piece := stream.read(_READ_BYTES):
        upload.write(piece)
        head = head or piece[:_HEAD_BYTES]
    return head


def _check_head(head: bytes, *, named: bool = True) -> None:
    """Refuse text instead of a photo, with a hint.

    Args:
        head: a photo's first bytes, 64 at most.
        named: the client gave it a file's name, or it is the whole body.

    Raises:
        BadRequest: it is a photo written as text, or a word instead of a file.
    """
    if any(kind.match(head) for kind in (_DATA_URL, _BASE64_PHOTO, _HEX_PHOTO)):
        raise BadRequest(
            "The photo is text (base64, hexadecimal or a data URL): send the bytes "
            "themselves, as curl -F file=@photo.jpg does."
        )
    if _MANGLED_PHOTO.match(head):
        raise BadRequest(
            "The photo was read as text on its way, which damages it: have your "
            "program read the file as bytes, and send those."
        )
    is_short = len(head) < _HEAD_BYTES and head.isascii()
    if not named and (is_short or _TEXT.fullmatch(head)):
        text = head.decode("ascii")[:_NAME_CHARS]
        raise BadRequest(
            f"The form field 'file' holds the text {text!r}, not a photo's bytes; curl "
            "sends a file where its name has an @ before it, as in -F file=@photo.jpg."
        )


class _Reader:
    """Collects the parser's events into a form.

    Args:
        spool: the upload folder; without it photos are passed over.
        shape: of the form.
    """

    def __init__(self, form: Form, spool: Spool | None, shape: FormShape = OWN) -> None:
        self._form = form
        self._spool = spool
        self._shape = shape
        self._key = form_key() if spool is not None else None
        # Bytes of photos, which are kept before it is certain who sends them.
        self._size = 0
        self._part: MultipartSegment | None = None
        self._text: bytearray | None = None
        self._upload: Upload | None = None
        self._head = b""

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take a part's head, some of its bytes, or ``None`` for its end."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        else:
            self._add(event)

    def _begin(self, part: MultipartSegment) -> None:
        self._part, self._text, self._upload, self._head = part, None, None, b""
        name = _text(part.name)
        shape = self._shape
        if name in shape.photos or (shape.any_file and part.filename):
            self._begin_photo(part)
        elif name in shape.fields:
            self._text = bytearray()
        elif part.filename or name.lower() in _OTHER_NAMES:
            self._form.other = self._form.other or name[:_NAME_CHARS]
        else:
            self._form.note(name)

    def _begin_photo(self, part: MultipartSegment) -> None:
        if self._spool is None:
            return
        if len(self._form.files) >= MAX_FILES:
            raise UploadTooLarge(
                f"The form has more than {MAX_FILES} files; send several requests."
            )
        self._upload = keep(self._spool.open())
        self._form.files.append(File(_text(part.filename), self._upload))

    def _add(self, data: bytes | bytearray) -> None:
        if self._text is not None:
            self._text += data
            if len(self._text) > _MAX_TEXT_BYTES:
                raise UploadTooLarge("The form is too large: a field is too long.")
        elif self._upload is not None:
            self._size += len(data)
            if self._key is not None:
                self._key.check(self._form.fields, self._size)
            self._upload.write(data)
            if len(self._head) < _HEAD_BYTES:
                self._head += data[: _HEAD_BYTES - len(self._head)]

    def _end(self) -> None:
        part, self._part = self._part, None
        if self._text is not None and part is not None:
            text = self._text.decode("utf-8", "replace")
            self._form.fields.setdefault(_text(part.name), []).append(text)
        elif self._upload is not None and part is not None:
            if not self._head:
                raise BadRequest("The file is empty: send a photo.")
            _check_head(self._head, named=bool(part.filename))


def require(form: Form, known: Callable[[], list[str]]) -> tuple[list[str], list[File]]:
    """Return the names of models, each once, and the photos; at least one of each.

    Args:
        form: as it was read.
        known: returns the names of the models in the folder, in any state; if there is
            only one, no name is needed. Not asked if there is a name.

    Raises:
        MissingField: one of them is not there.
    """
    given = (name.strip() for name in form.fields.get("modelname", ()))
    names = [name for name in dict.fromkeys(given) if name]
    if not names:
        names = known()
        if len(names) != 1:
            there = f"one of {', '.join(names)}" if names else "see GET /models"
            instead = _instead("modelname", form.other_model)
            wanted = f"send the name of a model{instead}, {there}."
            raise MissingField("modelname", wanted)
    if form.files:
        return names, form.files
    instead = _instead("file", form.other)
    raise MissingField("file", f"send a photo{instead}, e.g. curl -F file=@photo.jpg.")


def _instead(name: str, other: str | None) -> str:
    return "" if other is None else f" as {name!r}, not as {other!r}"


def spooled(spool: Spool, data: bytes | memoryview) -> Upload:
    """Return data in a file of the upload folder, which goes with the request.

    Raises:
        StorageFull, StorageUnavailable: it cannot be kept.
    """
    upload = keep(spool.open())
    upload.write(data)
    return upload


def keep(upload: Upload) -> Upload:
    """Have an upload closed at the request's end, and return it."""
    uploads().append(upload)
    return upload


def uploads() -> list[Upload]:
    """Return the uploads that this request has opened, to be closed at its end."""
    if "uploads" not in g:
        g.uploads = []
    return cast("list[Upload]", g.uploads)
