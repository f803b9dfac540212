"""Who is answered, by name, origin and token, and the headers of every answer."""

import hmac

import pytest
from flask import Response

from modelserver.core.errors import CrossSite, LoopbackOnly, UntrustedHost
from modelserver.web import access
from modelserver.web.origins import Hosts, Origins
from support import tiny_graphs
from support.app_client import form, make_settings, photo, post, post_form

TOKEN = "s3cret-token"
EVIL = "https://evil.example"


def hosts(**environ):
    """Return a function that checks a Host header under some settings."""
    checked = Hosts(make_settings(**environ))

    def answers(host, path="/detect", **more):
        request = {"HTTP_HOST": host, "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1"}
        try:
            checked.check({**request, **more})
        except UntrustedHost:
            return False
        return True

    return answers


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:5000", "localhost.", "a.localhost:80", "127.0.0.1:5000",
        "127.0.0.1", "[::1]:5000", "[::1]", "192.0.2.7", "[2001:db8::1]:1",
    ],
)  # fmt: skip
def test_this_machine_has_names_that_no_page_can_have(host):
    """Loopback names and addresses are answered without any setting."""
    assert hosts()(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost",
        "evil.example:5000", "localhost:5000:x", "[::1", "0x7f.1", "\xff", ":", ":80", "@",
        "localhost@evil.example", "127.0.0.1/evil", "2130706433",
    ],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(host):
    """Without a token a foreign name (DNS rebinding) is refused."""
    assert not hosts()(host)


def test_a_server_for_others_has_any_name():
    """With a token or ALLOW_ANONYMOUS any name is answered."""
    assert hosts(API_TOKEN=TOKEN)("evil.example")
    assert hosts(ALLOW_ANONYMOUS=True)("evil.example")


def test_trusted_hosts_are_the_only_ones():
    """Only trusted hosts are answered; probes may use any address."""
    answers = hosts(
        TRUSTED_HOSTS="Vision.example.org, .lab.example, ::1", API_TOKEN=TOKEN
    )
    for host in (
        "vision.EXAMPLE.org:443",
        "lab.example",
        "a.b.lab.example",
        "[::1]:80",
    ):
        assert answers(host)
    for host in ("example.org", "x.vision.example.org", "xlab.example", "localhost"):
        assert not answers(host)
        assert not answers(host, REMOTE_ADDR="")
        assert answers(host, "/livez")
        assert answers(host, "/readyz")


def test_a_missing_host_is_refused_where_http_demands_one():
    """HTTP/1.1 needs a Host header, and HTTP/1.0 does not."""
    answers = hosts(API_TOKEN=TOKEN)
    assert not answers("")
    assert not answers("", "/livez", SERVER_PROTOCOL="HTTP/1.1")
    assert answers("", SERVER_PROTOCOL="HTTP/1.0")


def test_a_unix_socket_has_no_name():
    """Clients of a Unix socket may send any Host header."""
    assert hosts()("whatever", REMOTE_ADDR="")


def origin_check(allowed=(), method="POST", **headers):
    """Return whether a request from some site is let in."""
    environ = {"REQUEST_METHOD": method, "HTTP_HOST": "here.example:5000"}
    try:
        Origins(allowed).check({**environ, **headers})
    except CrossSite:
        return False
    return True


def test_programs_are_not_asked_where_they_are_from():
    """A request with neither header, such as curl's, is let in."""
    assert origin_check()


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "nonsense"])
def test_another_sites_page_is_refused(site):
    """A page of another site is refused, a neighbour on the host too."""
    assert not origin_check(HTTP_SEC_FETCH_SITE=site)
    assert not origin_check(HTTP_SEC_FETCH_SITE=site, HTTP_ORIGIN=EVIL)
    assert not origin_check(method="DELETE", HTTP_SEC_FETCH_SITE=site)


@pytest.mark.parametrize("origin", [EVIL, "null", "", "http://here.example", "file://"])
def test_another_origin_is_refused_where_browsers_say_no_more(origin):
    """Another origin is refused, and another port is another one."""
    assert not origin_check(HTTP_ORIGIN=origin)


def test_the_page_of_this_server_may_send():
    """The server's own page may send, whatever scheme a proxy made of it."""
    for site in ("same-origin", "none"):
        assert origin_check(
            HTTP_SEC_FETCH_SITE=site, HTTP_ORIGIN="https://public.example"
        )
    for scheme in ("http", "https"):
        assert origin_check(HTTP_ORIGIN=f"{scheme}://HERE.example:5000")


def test_reading_is_not_sending():
    """A page of any site may link here, as it cannot read the answer."""
    for method in ("GET", "HEAD", "OPTIONS"):
        assert origin_check(method=method, HTTP_SEC_FETCH_SITE="cross-site")


def test_allowed_sites_may_send():
    """Pages of allowed sites may send, and no others."""
    friend = {
        "HTTP_ORIGIN": "https://friend.example",
        "HTTP_SEC_FETCH_SITE": "cross-site",
    }
    assert origin_check(("https://friend.example",), **friend)
    assert origin_check(("*",), **friend)
    assert not origin_check(("https://friend.example:444",), **friend)
    assert not origin_check(("http://friend.example",), **friend)


@pytest.fixture
def client(folder, serving):
    """Return a function that serves one echoing model under some settings."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    return serving


def test_refusals_have_problems_of_their_own(client):
    """A host is refused with 400 and a site with 403, before all else."""
    app = client()
    answer = post(app, "/detect", "m", photo(), headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json["type"]) == (
        400,
        "/problems/untrusted-host",
    )
    answer = post(app, "/detect", "m", photo(), headers={"Origin": EVIL})
    assert (answer.status_code, answer.json["type"]) == (403, "/problems/cross-site")
    assert "Access-Control-Allow-Origin" not in answer.headers
    app = client(API_TOKEN=TOKEN)
    headers = {"Origin": EVIL, "X-API-Key": TOKEN}
    assert post(app, "/detect", "m", photo(), headers=headers).status_code == 403


def preflight(client, origin, path="/detect"):
    """Ask as a browser asks before it sends."""
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return client.options(path, headers=headers)


def test_a_preflight_is_answered_without_a_token(client):
    """Allowed sites get an answer for known paths without a token."""
    app = client(CORS_ORIGINS="https://a.example, https://B.example", API_TOKEN=TOKEN)
    for origin in ("https://a.example", "https://b.example"):
        answer = preflight(app, origin)
        assert (answer.status_code, answer.data) == (204, b"")
        headers = answer.headers
        assert headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in headers["Access-Control-Allow-Methods"]
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        assert int(headers["Access-Control-Max-Age"]) > 0
        assert "Access-Control-Allow-Credentials" not in headers
        assert "Origin" in headers["Vary"]
    assert preflight(app, EVIL).status_code == 401
    assert "Access-Control-Allow-Origin" not in preflight(app, EVIL).headers
    assert preflight(app, "https://a.example", "/nowhere").status_code in {401, 404}
    assert (
        app.options("/detect", headers={"Origin": "https://a.example"}).status_code
        == 401
    )


def test_without_cors_nothing_is_told_to_other_sites(client):
    """Without CORS_ORIGINS there is no header, and OPTIONS is a 405."""
    app = client()
    for path in ("/detect", "/models", "/livez", "/"):
        answer = preflight(app, EVIL, path)
        assert answer.status_code == 405
        assert "OPTIONS" not in answer.headers["Allow"]
        answer = app.get(path, headers={"Origin": EVIL})
        assert not [name for name in dict(answer.headers) if name.startswith("Access-")]
        assert "Vary" not in answer.headers


def test_allowed_sites_can_read_the_answers(client):
    """Allowed sites can read answers and errors, never with cookies."""
    app = client(CORS_ORIGINS="https://a.example")
    for answer in (
        post(app, "/detect", "m", photo(), headers={"Origin": "https://a.example"}),
        app.get("/nowhere", headers={"Origin": "https://a.example"}),
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
    app = client(CORS_ORIGINS="*")
    answer = post(app, "/detect", "m", photo(), headers={"Origin": EVIL})
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    "method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "DELETE"]
)
def test_other_methods_are_405_with_allow(method, client):
    """Each route names its methods in Allow; HEAD comes with GET."""
    app = client()
    for rule in app.application.url_map.iter_rules():
        if method in rule.methods or rule.endpoint == "static":
            continue
        path = rule.rule.replace("<slug>", "bad-request").replace("<name>", "m")
        if method == "HEAD" and app.application.url_map.bind("").test(path, "HEAD"):
            continue  # another rule of the path has GET
        answer = app.open(path, method=method)
        assert answer.status_code == 405, (method, path)
        assert answer.headers["Allow"]
        assert "OPTIONS" not in answer.headers["Allow"]


def test_the_token_is_compared_in_constant_time(client, monkeypatch):
    """Any token is compared as bytes, by hmac."""
    app = client(API_TOKEN=TOKEN)
    compared = []
    real = hmac.compare_digest

    def compare(given, expected):
        compared.append((given, expected))
        return real(given, expected)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    for given in (TOKEN, "", "s3cret-toke", f"{TOKEN}, {TOKEN}", "\xff" * 3000):
        status = app.get("/models", headers={"X-API-Key": given}).status_code
        assert status == (200 if given == TOKEN else 401)
    assert all(isinstance(value, bytes) for pair in compared for value in pair)
    assert len(compared) == 5


def test_a_token_is_asked_for_before_anything_is_read(client):
    """A missing token is refused, also with a malformed body."""
    app = client(API_TOKEN=TOKEN)
    for body in (b"", b"x" * 100_000, form({"modelname": "m"}, photo())):
        assert post_form(app, "/detect", body).status_code == 401


def test_the_token_is_in_no_log_and_no_answer(client, caplog, capsys):
    """Neither the right token nor a wrong one is logged or answered."""
    caplog.set_level(0)
    app = client(API_TOKEN=TOKEN)
    texts = []
    for given in (TOKEN, "wr0ng-t0ken"):
        for path in ("/models", "/nowhere", "/readyz", "/detect"):
            answer = app.get(path, headers={"Authorization": f"Bearer {given}"})
            texts += [answer.text, str(answer.headers)]
    out, err = capsys.readouterr()
    for text in (*texts, out, err, caplog.text):
        assert TOKEN not in text
        assert "wr0ng" not in text


def test_every_answer_says_how_browsers_shall_take_it(client):
    """Every answer has the safety headers, and pages a policy too."""
    app = client()
    for answer in (app.get("/models"), app.get("/nowhere"), app.get("/detect")):
        headers = answer.headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
    policy = app.get("/").headers["Content-Security-Policy"].split("; ")
    for part in (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "frame-ancestors 'none'",
    ):
        assert part in policy
    assert "unsafe" not in " ".join(policy)


def test_files_of_the_package_may_be_kept(client):
    """Static files may be cached, as they change with the version only."""
    with client().application.test_request_context("/static/x"):
        from flask import g

        g.started, g.request_id = 0.0, "x"
        assert "Cache-Control" not in access.add_headers(Response("x")).headers


@pytest.mark.parametrize(
    ("address", "forwarded", "let_in"),
    [
        ("127.0.0.1", "", True),
        ("::1", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.1, 127.0.0.1", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "127.0.0.1, 192.0.2.1", False),
        ("127.0.0.1", "unknown", False),
        ("192.0.2.1", "127.0.0.1", False),
        (None, "", True),
    ],
)
def test_without_a_token_only_this_machine_is_answered(address, forwarded, let_in):
    """Clients elsewhere are refused, also behind a proxy here."""
    if let_in:
        access.check_loopback(address, forwarded)
    else:
        with pytest.raises(LoopbackOnly):
            access.check_loopback(address, forwarded)
