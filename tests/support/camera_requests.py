"""Requests of programs that watch cameras, byte by byte, as each of them writes HTTP.

Frigate and Viseron are Python programs that post with ``requests``: fields first, each
of them as text, then the photo with its field's name for a file name and no content
type. Agent DVR is a .NET program: names without quotes, the boundary in quotes, a
content type for each text, and the file's name twice. Blue Iris is a Windows program
that sends the photo as a browser's form does, and asks for updates and models before.
"""

from typing import NamedTuple

EDGE = "d1a5b9c1f0b44c0aa0c4f0d1c3f1e2a7"
GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
DETECTION = "/v1/vision/detection"


class Asked(NamedTuple):
    """One request.

    Attributes:
        who: the program.
        head: all of it but the length, a line each.
    """

    who: str
    head: tuple[str, ...]
    body: bytes = b""

    def to(self, port):
        """Return the bytes for a server on this machine."""
        lines = [line.format(port=port) for line in self.head]
        if self.head[0].startswith("POST"):
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join([*lines, "", ""]).encode() + self.body

    @property
    def name(self):
        """The program and the path."""
        return f"{self.who} {self.head[0].split()[1]}"


def by_requests(who, path, photo, **fields):
    """Write it as Python's ``requests`` does."""
    parts = [
        f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    file = f'--{EDGE}\r\nContent-Disposition: form-data; name="image"; filename="image"\r\n\r\n'
    body = "".join([*parts, file]).encode() + photo + f"\r\n--{EDGE}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1:{port}",
        "User-Agent: python-requests/2.32.3",
        "Accept-Encoding: gzip, deflate",
        "Accept: */*",
        "Connection: keep-alive",
        f"Content-Type: multipart/form-data; boundary={EDGE}",
    )
    return Asked(who, head, body)


def by_dotnet(who, path, photo=None, **fields):
    """Write it as .NET's ``HttpClient`` does."""
    if photo is None:
        return Asked(who, (f"POST {path} HTTP/1.1", "Host: 127.0.0.1:{port}"))
    file = "name=image; filename=image.jpg; filename*=utf-8''image.jpg"
    texts = [
        f"--{GUID}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Disposition: form-data; name={name}\r\n\r\n{value}\r\n"
        for name, value in fields.items()
    ]
    body = f"--{GUID}\r\nContent-Disposition: form-data; {file}\r\n\r\n".encode()
    body += photo + b"\r\n" + "".join(texts).encode() + f"--{GUID}--\r\n".encode()
    head = (
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1:{port}",
        f'Content-Type: multipart/form-data; boundary="{GUID}"',
    )
    return Asked(who, head, body)


def by_windows(who, verb, path, photo=None, **fields):
    """Write it as a Windows program does that builds its form by hand."""
    head = (
        f"{verb} {path} HTTP/1.1",
        "Connection: Keep-Alive",
        "User-Agent: Blue Iris",
        "Host: 127.0.0.1:{port}",
    )
    if photo is None:
        return Asked(who, head)
    edge = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
    body = (
        f'--{edge}\r\nContent-Disposition: form-data; name="image"; '
        'filename="image.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    ).encode()
    body += photo + b"\r\n"
    for name, value in fields.items():
        body += (
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            f"{value}\r\n"
        ).encode()
    body += f"--{edge}--\r\n".encode()
    return Asked(
        who, (*head, f"Content-Type: multipart/form-data; boundary={edge}"), body
    )


def photos(photo, model):
    """Give each program's requests with a photo, one by the name of a model at least."""
    custom = f"/v1/vision/custom/{model}"
    return [
        by_requests("Frigate", DETECTION, photo, api_key=""),
        by_requests("Viseron", DETECTION, photo, api_key="", min_confidence=0.6),
        by_requests("Viseron", custom, photo, api_key="", min_confidence=0.6),
        by_requests("Viseron (CodeProject.AI)", DETECTION, photo, min_confidence=0.6),
        by_requests("Viseron (CodeProject.AI)", custom, photo, min_confidence=0.6),
        by_dotnet("Agent DVR", DETECTION, photo, min_confidence="0.4"),
        by_dotnet("Agent DVR", custom, photo, min_confidence="0.4"),
        by_windows("Blue Iris", "POST", DETECTION, photo, min_confidence="0.5"),
        by_windows("Blue Iris", "POST", custom, photo, min_confidence="0.5"),
    ]


LISTS = [
    by_dotnet("Agent DVR", "/v1/vision/custom/list"),
    by_windows("Blue Iris", "POST", "/v1/vision/custom/list"),
]
"""How they ask for the models that there are."""

UPDATES = [by_windows("Blue Iris", "GET", "/v1/status/updateavailable")]
"""How they ask whether there is another version."""
