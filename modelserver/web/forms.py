"""The one form that clients send: a model's name and a photo.

The body is parsed as it comes, once, and the photo's bytes go straight into an upload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import g
from gunicorn.http.errors import ParseException
from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    parse_options_header,
)

from modelserver.errors import BadRequest, MissingField, UploadTooLarge

if TYPE_CHECKING:
    from flask import Request

    from modelserver.uploads import Spool, Upload

# What is read from the socket at a time; each read waits for the interpreter's lock.
_READ_BYTES = 256 * 1024
# The form has two parts; a few more may come from generous clients.
_MAX_PARTS = 10
_MAX_TEXT_BYTES = 16 * 1024


@dataclass
class Form:
    """What a client sent; empty fields were not there.

    Attributes:
        modelname: of at most 16 KiB.
        file: closed when the request ends.
    """

    modelname: str = ""
    file: Upload | None = None


def read_form(request: Request, spool: Spool) -> Form:
    """Read a multipart body to its end.

    Fields of other names are read over.

    Raises:
        BadRequest: it is no multipart form, or a malformed or cut off one.
        UploadTooLarge: too many parts, or a text that is too long.
        StorageFull, StorageUnavailable: the upload cannot be kept.
    """
    kind, options = parse_options_header(request.headers.get("Content-Type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise BadRequest(
            "Send a multipart form (multipart/form-data with its boundary), as "
            "curl -F modelname=NAME -F file=@photo.jpg does."
        )
    reader = _Reader(spool)
    try:
        with PushMultipartParser(
            options["boundary"],
            max_segment_count=_MAX_PARTS,
            strict=True,
        ) as parser:
            while not parser.closed:
                for event in parser.parse(request.stream.read(_READ_BYTES)):
                    reader.take(event)
    except ParserLimitReached as error:
        raise UploadTooLarge(f"The form is too large: {error}.") from error
    except (MultipartError, ParseException) as error:
        raise BadRequest(f"The request's body is malformed: {error}") from error
    return reader.form


class _Reader:
    """Gathers the parser's events into a form."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._part: MultipartSegment | None = None
        self._text = bytearray()
        self.form = Form()

    def take(self, event: MultipartSegment | bytes | bytearray | None) -> None:
        """Take a part's head, some of its bytes, or ``None`` for its end."""
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._part is not None:
            self._add(event)

    def _begin(self, part: MultipartSegment) -> None:
        self._part = None
        if part.name == "file" and part.filename:
            if self.form.file is not None:
                raise BadRequest("The form has more than one file.")
            self.form.file = self._spool.open()
            uploads().append(self.form.file)
            self._part = part
        elif part.name == "modelname":
            if self.form.modelname:
                raise BadRequest("The form has more than one modelname.")
            self._part = part
            self._text.clear()

    def _add(self, data: bytes | bytearray) -> None:
        if self._part is not None and self._part.name == "modelname":
            self._text += data
            if len(self._text) > _MAX_TEXT_BYTES:
                raise UploadTooLarge("The form is too large: modelname is too long.")
        elif self.form.file is not None:
            self.form.file.write(data)

    def _end(self) -> None:
        if self._part is not None and self._part.name == "modelname":
            self.form.modelname = self._text.decode("utf-8", "replace")
        self._part = None


def require(form: Form) -> tuple[str, Upload]:
    """Return the form's model name and its file.

    Raises:
        MissingField: one of them is not there.
    """
    if not form.modelname:
        raise MissingField("modelname", "send the name of a model, see GET /models.")
    if form.file is None:
        raise MissingField("file", "send a photo, e.g. curl -F file=@photo.jpg.")
    return form.modelname, form.file


def uploads() -> list[Upload]:
    """Return the uploads that this request has opened, to be closed at its end."""
    if "uploads" not in g:
        g.uploads = []
    return cast("list[Upload]", g.uploads)
