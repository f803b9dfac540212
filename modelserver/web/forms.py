"""What clients send: names of models, photos and options, in a form and the query.

The body is parsed as it comes, once, and a photo's bytes go straight into an upload.
A body that is no form is the photo itself, where the query names the model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from flask import g
from gunicorn.http.errors import ParseException
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from modelserver.errors import (
    BadRequest,
    BodyTooSlow,
    MissingField,
    UnsupportedEncoding,
    UploadTooLarge,
)
from modelserver.options import NAMES
from modelserver.web.pacing import TooSlow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from flask import Request

    from modelserver.uploads import Spool, Upload

# What is read from the socket at a time; each read waits for the interpreter's lock.
_READ_BYTES = 256 * 1024
_LINE_END_BYTES = len(b"\r\n")
# Each file is an open file descriptor for as long as the request lasts; what is gained
# by one request instead of several is gained by then.
MAX_FILES = 32
# As many fields of text beside them: names of models, labels, a few options.
MAX_PARTS = 2 * MAX_FILES
_MAX_TEXT_BYTES = 16 * 1024
_FORM = "multipart/form-data"
_FIELDS = frozenset({"modelname", *NAMES})


class File(NamedTuple):
    """One photo; its ``name`` is what the client calls it, empty where it does not.

    Attributes:
        upload: closed when the request ends.
    """

    name: str
    upload: Upload


@dataclass
class Form:
    """What a client sent, in the order it came.

    Attributes:
        files: the photos.
        fields: the values, of at most 16 KiB each, of the fields that mean something:
            ``modelname`` and the options; those that are missing were not there.
    """

    files: list[File] = field(default_factory=list)
    fields: dict[str, list[str]] = field(default_factory=dict)


def read_form(request: Request, spool: Spool) -> Form:
    """Read the query, and the body to its end.

    Fields of other names are read over.

    Raises:
        BadRequest: the body is no multipart form, and no model is named in the query;
            or it is a malformed or cut off form.
        UnsupportedEncoding: it is compressed.
        BodyTooSlow: it came too slowly.
        UploadTooLarge: too many parts, or a text that is too long.
        StorageFull, StorageUnavailable: the upload cannot be kept.
    """
    environ = request.environ
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedEncoding
    form = Form()
    if environ.get("QUERY_STRING"):
        for name in _FIELDS & request.args.keys():
            form.fields[name] = request.args.getlist(name)
    kind, options = parse_options_header(environ.get("CONTENT_TYPE", ""))
    boundary = options.get("boundary")
    if kind == _FORM and boundary:
        _read_multipart(request, boundary, form, spool)
    elif kind != _FORM and "modelname" in form.fields:
        _read_raw(request, form, spool)
    else:
        raise BadRequest(
            "Send a multipart form (multipart/form-data with its boundary), as "
            "curl -F modelname=NAME -F file=@photo.jpg does, or the photo alone with "
            "?modelname=NAME, as curl --data-binary @photo.jpg does."
        )
    return form


def _read_multipart(request: Request, boundary: str, form: Form, spool: Spool) -> None:
    reader = _Reader(form, spool)
    try:
        with PushMultipartParser(
            boundary, max_segment_count=MAX_PARTS, strict=True
        ) as parser:
            for piece in _pieces(request.stream):
                for event in parser.parse(piece):
                    reader.take(event)
    except TooSlow as error:
        raise BodyTooSlow from error
    except ParserLimitReached as error:
        raise UploadTooLarge(f"The form is too large: {error}.") from error
    except (MultipartError, ParseException) as error:
        raise BadRequest(f"The request's body is malformed: {error}") from error


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """Read a body in pieces, never with the line's end at its end alone in one.

    What comes after a form's last boundary is an error to the strict parser, unless it
    comes together with it.
    """
    piece = stream.read(_READ_BYTES)
    while piece:
        ahead = stream.read(_READ_BYTES)
        if 0 < len(ahead) <= _LINE_END_BYTES:
            piece += ahead
            ahead = stream.read(_READ_BYTES)
        yield piece
        piece = ahead


def _read_raw(request: Request, form: Form, spool: Spool) -> None:
    """Read a body that is the photo itself.

    Its type is not asked for: curl calls whatever it sends a form of another kind.
    """
    upload = spool.open()
    uploads().append(upload)
    sent = False
    try:
        while piece := request.stream.read(_READ_BYTES):
            upload.write(piece)
            sent = True
    except TooSlow as error:
        raise BodyTooSlow from error
    except ParseException as error:
        raise BadRequest(f"The request's body is malformed: {error}") from error
    if sent:
        form.files.append(File("", upload))


class _Reader:
    """Gathers the parser's events into a form."""

    def __init__(self, form: Form, spool: Spool) -> None:
        self._form = form
        self._spool = spool
        self._part: MultipartSegment | None = None
        self._text: bytearray | None = None
        self._upload: Upload | None = None

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take a part's head, some of its bytes, or ``None`` for its end."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        else:
            self._add(event)

    def _begin(self, part: MultipartSegment) -> None:
        self._part, self._text, self._upload = part, None, None
        if part.name == "file" and part.filename:
            if len(self._form.files) >= MAX_FILES:
                raise UploadTooLarge(
                    f"The form has more than {MAX_FILES} files; send several requests."
                )
            self._upload = self._spool.open()
            uploads().append(self._upload)
            self._form.files.append(File(part.filename, self._upload))
        elif part.name in _FIELDS or not part.filename:
            self._text = bytearray()

    def _add(self, data: bytes | bytearray) -> None:
        if self._text is not None:
            self._text += data
            if len(self._text) > _MAX_TEXT_BYTES:
                raise UploadTooLarge("The form is too large: a field is too long.")
        elif self._upload is not None:
            self._upload.write(data)

    def _end(self) -> None:
        part, self._part = self._part, None
        if self._text is not None and part is not None and part.name in _FIELDS:
            text = self._text.decode("utf-8", "replace")
            self._form.fields.setdefault(part.name, []).append(text)


def require(form: Form) -> tuple[list[str], list[File]]:
    """Return the names of models, each once, and the photos; at least one of each.

    Raises:
        MissingField: one of them is not there.
    """
    names = [name for name in dict.fromkeys(form.fields.get("modelname", ())) if name]
    if not names:
        raise MissingField("modelname", "send the name of a model, see GET /models.")
    if not form.files:
        raise MissingField("file", "send a photo, e.g. curl -F file=@photo.jpg.")
    return names, form.files


def uploads() -> list[Upload]:
    """Return the uploads that this request has opened, to be closed at its end."""
    if "uploads" not in g:
        g.uploads = []
    return cast("list[Upload]", g.uploads)
