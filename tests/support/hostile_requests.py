"""Mutated HTTP requests over raw sockets, and what came of them.

Valid requests are the seeds. Bytes are flipped, put in, cut out and repeated, and
headers are played with; the same seed makes the same requests. Run it on a server:

    python tests/support/hostile_requests.py --port 5000 --count 100000
"""

import argparse
import contextlib
import json
import random
import re
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

SECONDS = 60
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")
ROUTES = (
    "/detect",
    "/classify",
    "/",
    "/models",
    "/livez",
    "/readyz",
    "/problems/bad-request",
    "/static/x",
    "/metrics",
    "/nowhere",
)
# What must be in no answer. No mutation makes any of it up.
LEAKS = re.compile(
    rb"Traceback|site-packages|[Tt]ensor[Ff]low|\.py\b|/proc/|runners\.child|0x7f[0-9a-f]{6}"
)
ALLOWED_5XX = {503, 507}
STATUS = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d) [^\r]*\r\n")
NASTY = (
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b"\xff", b"\xf0\x9f\x98\x80",
    b"%00", b"%2e%2e%2f", b"../", b"\\", b"//", b"\x1b[31m", b"{{7*7}}", b"<script>",
    b"-1", b"0", b"0x5", b"99999999999999999999", b"1e9", b";", b",", b'"', b"'", b"=",
    b"--", b"A" * 5000, b"form-data", b"chunked", b"gzip", b"HTTP/1.0", b"HTTP/2.0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
)  # fmt: skip
HEADERS = (
    b"Content-Length: 0", b"Content-Length: 5", b"Content-Length: -5",
    b"Content-Length: 99999999999", b"Content-Length: 1, 2", b"Content-Length: +7",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity", b"Transfer-Encoding : chunked", b"TE: trailers",
    b"Content-Encoding: gzip", b"Content-Encoding: br, gzip", b"Expect: 100-continue",
    b"Expect: 200-ok", b"Host: evil.example", b"Host:", b"Host: [::1", b"Host: a:b:c",
    b"Origin: null", b"Origin: https://evil.example", b"Sec-Fetch-Site: cross-site",
    b"Connection: keep-alive", b"Connection: upgrade", b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQ", b"X-Forwarded-For: 1.2.3.4", b"Forwarded: for=x",
    b"X-Forwarded-Proto: https", b"X-Api-Key: x", b"Authorization: Bearer x",
    b"Authorization: Basic Og==", b"X-Request-Id: \x1b[2J", b"Cookie: a=b; a=c",
    b"X-Request-Timeout-Ms: 1e9", b"X-Request-Timeout-Ms: -1", b"Range: bytes=0-0",
    b"X-Request-Timeout-Ms: nan", b"If-None-Match: *", b"Accept: image/png",
    b"Content-Type: application/json", b"Content-Type: multipart/form-data",
    b"Content-Type: multipart/form-data; boundary=", b"Content-Type: \xff",
    b"Content-Type: multipart/mixed; boundary=x", b" folded", b"NoColon", b": empty",
    b"Script-Name: /x", b"SCRIPT_NAME: /x", b"Path-Info: /models", b"X: " + b"y" * 4090,
)  # fmt: skip


@dataclass
class Outcome:
    """What came of many requests.

    Attributes:
        statuses: how often each first status came; 0 where none did.
        bad: (number of the request, what is wrong), of at most some dozens.
    """

    statuses: Counter = field(default_factory=Counter)
    bad: list = field(default_factory=list)


def seeds(body, edge):
    """Return valid requests: every method on every route, with and without a form.

    Args:
        body: a form that is answered.
        edge: its boundary.
    """
    half = len(body) // 2
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:half], body[half:])
    )
    kind = f"Content-Type: multipart/form-data; boundary={edge}\r\n"
    found = []
    for method in METHODS:
        for route in ROUTES:
            head = f"{method} {route} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            found.append(f"{head}\r\n".encode())
            found.append(
                f"{head}{kind}Content-Length: {len(body)}\r\n\r\n".encode() + body
            )
            framed = f"{head}{kind}Transfer-Encoding: chunked\r\n\r\n".encode()
            found.append(framed + chunks + b"0\r\n\r\n")
    # Half of all are what is really asked for.
    return found + [one for one in found if one.startswith(b"POST /detect ")] * 80


def mutated(dice, data):
    """Return a request with one to four changes.

    Args:
        dice: a ``random.Random``.
        data: the request.
    """
    for _ in range(dice.choice((1, 1, 2, 4))):
        data = dice.choice(CHANGES)(dice, data)
    return data


def _place(dice, data):
    """Return where to change something: mostly in the first few hundred bytes."""
    end = len(data) if dice.random() < 0.3 else min(len(data), 400)
    return dice.randrange(end + 1)


def _flip(dice, data):
    at = _place(dice, data)
    return data[:at] + bytes([dice.randrange(256)]) + data[at + 1 :]


def _insert(dice, data):
    at = _place(dice, data)
    return data[:at] + dice.choice(NASTY) + data[at:]


def _overwrite(dice, data):
    at = _place(dice, data)
    new = dice.choice(NASTY)
    return data[:at] + new + data[at + len(new) :]


def _cut(dice, data):
    at = _place(dice, data)
    return data[:at] + data[at + dice.randint(1, 60) :]


def _end(dice, data):
    return data[: _place(dice, data)]


def _repeat(dice, data):
    at = _place(dice, data)
    piece = data[at : at + dice.randint(1, 200)]
    return data[:at] + piece * dice.choice((2, 3, 50)) + data[at:]


def _header(dice, data):
    first, line_end, rest = data.partition(b"\r\n")
    return first + line_end + dice.choice(HEADERS) + b"\r\n" + rest


def _no_header(dice, data):
    head, empty, body = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    del lines[dice.randrange(len(lines))]
    return b"\r\n".join(lines) + empty + body


def _pipeline(dice, data):
    return data + dice.choice((data, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"))


CHANGES = (
    _flip, _flip, _insert, _insert, _overwrite, _cut, _end, _repeat, _header, _header,
    _header, _no_header, _pipeline,
)  # fmt: skip


def talk(port, data, *, half=True):
    """Send bytes and return all that comes back.

    Args:
        port: of a server on this machine.
        data: one or more requests, whole or not.
        half: close our side when all is sent, so that no server waits for more; a
            client that does so may be taken for one that has gone.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        # A server that has answered and closed is not sent the rest.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        try:
            if half:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            pass  # cut off in the middle of what nobody need read to the end
        except TimeoutError:
            answer += b"HTTP/1.1 599 no answer\r\n"
    return answer


def judge(answer):
    """Return an answer's first final status, 0 for none, and what is wrong with it."""
    found = [int(status) for status in STATUS.findall(answer)]
    final = [status for status in found if status >= 200]
    if wrong := [s for s in final if s >= 500 and s not in ALLOWED_5XX]:
        return final[0], f"status {wrong[0]}: {answer[-300:]!r}"
    if leak := LEAKS.search(answer):
        return final[0] if final else 0, f"leak: {leak[0]!r} in {answer[:2000]!r}"
    return final[0] if final else 0, None


def run(port, requests, *, count, seed=0, clients=4):
    """Send mutated requests, a few at a time.

    Args:
        port: of a server on this machine.
        requests: the seeds.
        count: how many to send.
        seed: of the dice; request ``n`` is made of ``seed + n``.
        clients: how many are sent side by side.
    """
    outcome = Outcome()

    def one(number):
        dice = random.Random(seed + number)  # noqa: S311 - to be the same each time
        return number, *judge(talk(port, mutated(dice, dice.choice(requests))))

    with ThreadPoolExecutor(clients) as pool:
        for number, status, wrong in pool.map(one, range(count)):
            outcome.statuses[status] += 1
            if wrong and len(outcome.bad) < 50:
                outcome.bad.append((number, wrong))
    return outcome


def main():
    """Run against a server and print the outcome as JSON; 1 where anything is wrong."""
    from support.app_client import EDGE, form, photo

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="m")
    given = parser.parse_args()
    requests = seeds(form({"modelname": given.model}, photo()), EDGE)
    outcome = run(given.port, requests, count=given.count, seed=given.seed)
    statuses = {str(s): n for s, n in sorted(outcome.statuses.items())}
    print(json.dumps({"statuses": statuses, "bad": outcome.bad}, indent=1))
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
