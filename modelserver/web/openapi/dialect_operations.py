"""The routes of other servers' protocols, in OpenAPI 3.1.

Their own documents say all of them; here is what they take and answer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from modelserver.web.openapi import schemas

if TYPE_CHECKING:
    from collections.abc import Iterable

    from modelserver.web.dialects.dialect import Dialect, Route

_STRING = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_JSON = "application/json"
_OBJECT = {"schema": {"type": "object"}}


def of(dialects: Iterable[Dialect]) -> dict[str, dict[str, Any]]:
    """Return the description of each endpoint of some dialects, by Flask's name."""
    return {
        f"{dialect.name}.{route.endpoint}": _operation(route, answer)
        for dialect in dialects
        for route, answer in zip(
            dialect.routes, schemas.of_dialect(dialect), strict=True
        )
    }


def _operation(route: Route, answer: dict[str, Any]) -> dict[str, Any]:
    refusal = {"description": "Why there is no answer.", "content": {_JSON: _OBJECT}}
    content = {_JSON: {"schema": answer}}
    if route.answer is bytes:
        content = {"image/*": {"schema": _BINARY}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {
            "200": {"description": route.summary, "content": content},
            "4XX": refusal,
            "5XX": refusal,
        },
    }
    names = re.findall(r"<(?:\w+:)?(\w+)>", route.path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _STRING}
            for name in names
        ]
    if route.is_open:
        operation["security"] = []
    if route.form is not None:
        members = dict.fromkeys(sorted(route.form.fields), _STRING)
        members |= dict.fromkeys(sorted(route.form.photos), _BINARY)
        form = {"schema": {"type": "object", "properties": members}}
        operation["requestBody"] = {"content": {"multipart/form-data": form}}
    elif route.reads_body:
        operation["requestBody"] = {"content": {_JSON: _OBJECT}}
    return operation
