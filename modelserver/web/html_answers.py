"""Answers in HTML to browsers that open an address of the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Response, render_template, request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.core.contract import Labels, ModelReport

_PAGE, _JSON = "text/html", "application/json"


def wants_page() -> bool:
    """Return whether the client would rather have HTML than JSON, as browsers say."""
    return request.accept_mimetypes.best_match((_JSON, _PAGE), _JSON) == _PAGE


def opens_page() -> bool:
    """Return whether a browser is about to show the answer, whatever it may be.

    A program may ask for HTML without a thought, as Java's does by default; when it
    sends a photo, its errors stay JSON.
    """
    navigates = request.headers.get("Sec-Fetch-Mode") == "navigate"
    return wants_page() and (navigates or request.method in {"GET", "HEAD"})


def page(template: str, **facts: Any) -> Response:
    """Return a page made of a template."""
    text = render_template(template, root=request.script_root, **facts)
    response = Response(text, content_type=f"{_PAGE}; charset=utf-8")
    response.headers["Vary"] = "Accept"
    return response


def models_page(models: Sequence[tuple[ModelReport, Labels | None]]) -> Response:
    """Return a page about models.

    Args:
        models: each with its labels, if they can be read.
    """
    return page("models.html", models=models)
