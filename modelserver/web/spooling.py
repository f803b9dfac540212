"""Requests whose file parts go straight into the upload folder."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, cast

from flask import Request

from modelserver.web.backend import backend

if TYPE_CHECKING:
    from modelserver.uploads import Upload


class SpooledRequest(Request):
    """Writes each uploaded file once, to where it is decoded from."""

    @property
    def uploads(self) -> list[Upload]:
        """The uploads opened so far, to be closed at the end of the request."""
        return cast("list[Upload]", self.environ.setdefault("modelserver.uploads", []))

    def _get_file_stream(self, *_args: Any, **_options: Any) -> IO[bytes]:
        """Open where Werkzeug writes a file part; none of its hints is needed."""
        upload = backend().spool.open()
        self.uploads.append(upload)
        return cast("IO[bytes]", upload)
