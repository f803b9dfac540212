"""Forms of several fields of one name, which ``conftest.form`` has not."""

import json

from support.app_client import EDGE, post_form


def form_of(*parts):
    """The bytes of a form; a part is a name and text, or a name, a file's name and bytes."""
    pieces = []
    for name, *rest in parts:
        head = f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"'
        if len(rest) == 2:
            head += f'; filename="{rest[0]}"'
        content = rest[-1] if isinstance(rest[-1], bytes) else rest[-1].encode()
        pieces.append(f"{head}\r\n\r\n".encode() + content)
    return b"\r\n".join([*pieces, f"--{EDGE}--\r\n".encode()])


def send(client, path, *parts, **options):
    """POST such a form."""
    return post_form(client, path, form_of(*parts), **options)


def expect_problem(response, status, slug):
    """Check that it is a problem of a type; give its sentence."""
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    body = json.loads(response.data)
    assert body["type"] == f"/problems/{slug}"
    return body["detail"]
