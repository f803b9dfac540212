"""The files of the page: scripts, style, icon, and the sample photos."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from flask import request, send_from_directory, url_for
from werkzeug.exceptions import NotFound

if TYPE_CHECKING:
    from flask import Blueprint, Response

_STATIC = Path(__file__).parent / "static"
# Their scripts are pages' own, and imported by none.
_ENTRIES = {"docs.js", "page.js"}
_DIGEST_LENGTH = 12
# A year, the most that is of use: the address changes with the content.
_FOREVER = "public, max-age=31536000, immutable"
# The default models' sample photos, where they lie; no other file is given away.
_SAMPLES = {
    "chelsea.png": "A cat",
    "coffee.png": "A cup of coffee",
    "astronaut.png": "An astronaut",
}


class PageFiles:
    """Addresses of the page's files, as they are when the app is made.

    Scripts import each other by relative names, so they lie in a folder that is named
    by a digest of all; each other file has its own digest in its query.

    Attributes:
        modules: the script's imports, for the browser to fetch at once rather than one
            after the other.
    """

    def __init__(self, routes: Blueprint) -> None:
        self.modules = sorted({p.name for p in _STATIC.glob("*.js")} - _ENTRIES)
        self._digests = digests_of(_STATIC)
        self._scripts = _digest("".join(self._digests.values()).encode())
        self._samples = Path("samples").absolute()
        routes.add_url_rule("/static/<digest>/<name>", "script", self._script)
        routes.add_url_rule("/samples/<name>", "sample", self._sample)
        routes.after_app_request(self._keep)

    def asset(self, name: str) -> str:
        """Return a file's address."""
        return url_for("static", filename=name, v=self._digests[name])

    def script(self, name: str) -> str:
        """Return a script's address."""
        return url_for("page.script", digest=self._scripts, name=name)

    def samples(self) -> dict[str, str]:
        """Return the addresses of the sample photos there are, with their words."""
        return {
            url_for("page.sample", name=name): words
            for name, words in _SAMPLES.items()
            if (self._samples / name).is_file()
        }

    def _script(self, digest: str, name: str) -> Response:
        if not name.endswith(".js"):
            raise NotFound
        response = send_from_directory(_STATIC, name)
        if digest == self._scripts:
            response.headers["Cache-Control"] = _FOREVER
        return response

    def _sample(self, name: str) -> Response:
        if name not in _SAMPLES:
            raise NotFound
        return send_from_directory(self._samples, name)

    def _keep(self, response: Response) -> Response:
        if request.endpoint == "static" and response.status_code == HTTPStatus.OK:
            name = (request.view_args or {}).get("filename", "")
            if request.args.get("v") == self._digests.get(name):
                response.headers["Cache-Control"] = _FOREVER
        return response


def digests_of(folder: Path) -> dict[str, str]:
    """Return a digest of the content of each file in a folder, by name."""
    return {path.name: _digest(path.read_bytes()) for path in sorted(folder.iterdir())}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST_LENGTH]
