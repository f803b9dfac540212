"""The shipped unit and the shipped proxy: what they say, and short trials of them."""

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from modelserver.core.settings import Settings
from modelserver.tasks import TASKS
from modelserver.web.server.config import START_FAILED, options
from support import tiny_graphs
from support.app_client import photo
from support.nginx import CONF, NGINX, conf, nginx
from support.servers import SECONDS, started, wait_for

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "modelserver.service"
GPU = ROOT / "deploy" / "modelserver.service.d" / "gpu.conf"
MIB = 1024 * 1024

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def directives(name):
    """The values of a directive of the shipped nginx.conf."""
    return re.findall(rf"^\s*{name} +([^;]+);", CONF.read_text(), re.MULTILINE)


def unit():
    """The unit's settings, each with all of its values."""
    found = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_proxy_takes_what_the_server_takes():
    """The same largest body, the apps' ports, and never longer than the server waits."""
    settings = Settings.from_environ({})
    assert directives("client_max_body_size") == [f"{settings.max_upload_mb}m"]
    assert (
        f'"detail":"The request\\\'s body may have {settings.max_upload_mb} MiB.'
        in (CONF.read_text())
    )
    ports = [port.rpartition(":")[2] for port in directives("server")[:2]]
    assert ports == [str(task.endpoint.port) for task in TASKS.values()]
    (wait,) = directives("proxy_read_timeout")
    assert int(wait.removesuffix("s")) > settings.request_timeout_s


def test_the_proxy_ends_kept_connections_before_the_server_does():
    """A POST on a connection that is being closed could not be sent again."""
    ours = options(Settings.from_environ({}))["keepalive"]
    values = [int(value.removesuffix("s")) for value in directives("keepalive_timeout")]
    assert sorted(values)[:2] == [3, 3]
    assert sorted(values)[1] < ours


def test_every_answer_of_the_proxys_own_is_a_problem():
    """JSON of one form, with the status that it is sent with."""
    answers = re.findall(r"return (\d+) '(.*)';", CONF.read_text())
    assert {int(status) for status, _ in answers} >= {400, 413, 429, 502, 503, 504}
    for status, text in answers:
        body = json.loads(text.replace("\\'", "'"))
        assert body["status"] == int(status)
        assert body["error"] == body["detail"]
    pages = directives("error_page")
    assert len(pages) == len(answers)
    assert {page.split("/-/")[1] for page in pages} == {status for status, _ in answers}


@pytest.mark.process
@needs_nginx
def test_the_shipped_file_is_one_that_nginx_takes(tmp_path):
    """``nginx -t``, on the file as it is but for its ports and paths."""
    file = tmp_path / "nginx.conf"
    file.write_text(conf(tmp_path, 20080, 20081, 20082))
    command = [NGINX, "-t", "-p", tmp_path, "-c", file]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "warn" not in said.stderr


def test_a_changed_file_cannot_be_tested_by_mistake(tmp_path):
    """Words that are to be changed and are not there are an error."""
    with pytest.raises(ValueError, match="no such words"):
        conf(tmp_path, 1, 2, 3, {"no such words": ""})


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """Both apps, and nginx before them."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    folder = tmp_path_factory.mktemp("models")
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    tiny_graphs.write(folder / "colour.pb", tiny_graphs.classifier())
    names = "\n".join(tiny_graphs.COLOURS)
    (folder / "colour.labels.txt").write_text(names)

    def app(name):
        return started(
            name,
            folder=folder,
            uploads=tmp_path_factory.mktemp("pics"),
            tmp_path=tmp_path_factory.mktemp("server"),
        )

    with (
        app("app.py") as one,
        app("app_classify.py") as two,
        nginx(tmp_path_factory.mktemp("nginx"), one.port, two.port) as proxy,
    ):
        one.wait()
        two.wait()
        yield proxy


def upload(proxy, path="/detect", model="echo", file=None, **options_):
    """POST a photo through the proxy."""
    return httpx.post(
        proxy.url + path,
        data={"modelname": model},
        files={"file": ("photo.jpg", photo() if file is None else file)},
        timeout=SECONDS,
        **options_,
    )


@pytest.mark.real
def test_both_apps_answer_behind_one_port(behind):
    """/detect and /classify as without the proxy; /readyz of each."""
    assert upload(behind).json()[0]["class"] == tiny_graphs.echoed(200, 100, 50)[0]
    red = upload(behind, "/classify", "colour", photo((255, 0, 0)))
    assert red.json() == {"class": tiny_graphs.COLOURS[0]}
    for path, name in (("/readyz", "echo"), ("/classification/readyz", "colour")):
        answer = httpx.get(behind.url + path)
        assert answer.status_code == 200
        assert list(answer.json()["models"]) == [name]
    assert httpx.get(behind.url + "/classification/problems/x").status_code == 404


@pytest.mark.real
def test_an_id_goes_through_the_proxy_and_back(behind):
    """The client's where it is one; else one that the proxy makes."""
    for given, same in (("mine-1", True), ("no id at all", False), ("x" * 65, False)):
        answer = upload(behind, headers={"X-Request-Id": given})
        assert (answer.headers["X-Request-Id"] == given) is same
        number = answer.headers["X-Request-Id"]
        wait_for(lambda number=number: number in behind.log, "it is in the log")
        assert answer.headers["Server"] == "nginx"


@pytest.mark.real
def test_what_the_proxy_refuses_is_a_problem_too(behind):
    """Too large, too long, unreadable: the same form, and no version of nginx's."""
    head = b"POST /detect HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    for data, status in (
        (head + b"Content-Length: %d\r\n\r\n" % (33 * MIB), 413),
        (b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n", 414),
        (head + b"X: " + b"x" * 5000 + b"\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
        (
            head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET /-/502 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", 404),
    ):
        with behind.connect() as client:
            client.sendall(data)
            response = http.client.HTTPResponse(client)
            response.begin()
            top, body = response.headers, response.read()
        assert response.status == status
        assert top["Content-Type"] == "application/problem+json"
        assert top["X-Request-Id"]
        assert top["Server"] == "nginx"
        assert json.loads(body)["status"] == status


@pytest.mark.real
def test_a_large_upload_is_the_servers_to_refuse(behind):
    """What nginx lets through to the last byte, the server judges."""
    answer = upload(behind, file=bytes(31 * MIB))
    assert answer.status_code == 415


@pytest.mark.process
@needs_nginx
def test_a_server_that_is_away_is_told_so(tmp_path):
    """502 with when to try again, in the form of all errors."""
    with nginx(tmp_path, 1) as proxy:
        answer = httpx.get(proxy.url + "/livez")
    assert answer.status_code == 502
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_unit_waits_longer_than_requests_may_take():
    """SIGTERM lets them finish; systemd must not kill the server before."""
    gunicorn = options(Settings.from_environ({}))
    (stop,) = unit()["TimeoutStopSec"]
    assert int(stop) > gunicorn["graceful_timeout"]
    assert unit()["RestartPreventExitStatus"] == [str(START_FAILED)]
    assert unit()["KillMode"] == ["mixed"]
    assert unit()["OOMPolicy"] == ["continue"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("environ", "code"),
    [({}, 3), ({"API_TOKEN": "x"}, 0), ({"ALLOW_ANONYMOUS": "true"}, 0)],
    ids=["neither", "token", "anonymous"],
)
def test_the_unit_refuses_to_serve_strangers_by_accident(environ, code):
    """Behind a proxy on the same machine all the world is loopback."""
    (line,) = unit()["ExecStartPre"]
    shell, option, script = re.fullmatch(r"(\S+) (\S+) '(.*)'", line).groups()
    command = [shell, option, script]
    done = subprocess.run(command, env=environ, capture_output=True, check=False)
    assert done.returncode == code
    assert bool(done.stderr) == bool(code)


def verified(folder, *, drop_in="", name=UNIT.name):
    """Have systemd look at the unit, with a drop-in; gives its code and what it said."""
    text = UNIT.read_text()
    text = text.replace("/opt/modelserver/.venv/bin/python", sys.executable)
    file = folder / name
    file.write_text(text.replace("/opt/modelserver", str(ROOT)))
    if drop_in:
        (folder / f"{name}.d").mkdir()
        (folder / f"{name}.d" / GPU.name).write_text(drop_in)
    verify = ["systemd-analyze", "verify", "--man=no", file]
    said = subprocess.run(verify, capture_output=True, text=True, check=False)
    lines = [
        line
        for line in said.stderr.splitlines()
        if UNIT.name.partition(".")[0] in line or GPU.name in line
    ]
    return said.returncode, lines


@pytest.mark.process
@needs_systemd
def test_the_unit_is_one_that_systemd_takes(tmp_path):
    """``systemd-analyze verify``, and ``security`` has little to add."""
    assert verified(tmp_path) == (0, [])
    file = tmp_path / UNIT.name
    help_ = subprocess.run(
        ["systemd-analyze", "--help"], capture_output=True, text=True, check=False
    )
    if "--threshold" in help_.stdout:
        score = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", file]
        assert subprocess.run(score, capture_output=True, check=False).returncode == 0


@pytest.mark.process
@needs_systemd
@pytest.mark.parametrize("name", [UNIT.name, "modelserver-classify.service"])
def test_the_unit_with_a_gpu_is_one_that_systemd_takes(tmp_path, name):
    """The drop-in is read with the unit of either app, and is found to be in order."""
    assert verified(tmp_path, drop_in=GPU.read_text(), name=name) == (0, [])


@pytest.mark.process
@needs_systemd
@pytest.mark.parametrize(
    "line", ["DeviceAllow=char-nvidia sometimes", "DevicePolicy=shut", "Dvices=1"]
)
def test_a_wrong_line_in_the_drop_in_would_be_seen(tmp_path, line):
    """So the test above looks at what it says that it looks at."""
    _, said = verified(tmp_path, drop_in=GPU.read_text() + line + "\n")
    assert any("gpu.conf" in one for one in said), said


def test_a_gpu_is_let_in_by_the_names_of_all_drivers():
    """Before and after 545, uvm and MIG; and no other device, as without a GPU."""
    lines = [line for line in GPU.read_text().splitlines() if line[:1] != "#"]
    allowed_ = [
        line.split("=")[1].split()[0] for line in lines if "DeviceAllow" in line
    ]
    assert sorted(allowed_) == [
        "char-nvidia",
        "char-nvidia-caps",
        "char-nvidia-frontend",
        "char-nvidia-uvm",
        "char-nvidiactl",
    ]
    assert "DevicePolicy=closed" in lines
    assert "PrivateDevices=no" in lines
    assert unit()["PrivateDevices"] == ["yes"]


def test_a_gpus_nodes_are_made_before_the_server_by_root():
    """By a line that may fail, besides the unit's own, which stays."""
    lines = GPU.read_text().splitlines()
    (made,) = [line for line in lines if line.startswith("ExecStartPre=")]
    assert made.split()[0] == "ExecStartPre=-+/usr/bin/nvidia-modprobe"
    assert "After=nvidia-persistenced.service" in GPU.read_text()
    assert "nvidia-uvm" in (ROOT / "deploy" / "README.md").read_text()


@pytest.mark.real
def test_the_server_tells_systemd_when_it_listens(folder, uploads, tmp_path):
    """``Type=notify``: READY=1 comes, and an end is announced."""
    assert unit()["Type"] == ["notify"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(SECONDS)
        with started(
            "app.py",
            folder=folder,
            uploads=uploads,
            tmp_path=tmp_path,
            NOTIFY_SOCKET=tmp_path / "notify",
        ):
            assert b"READY=1" in told.recv(4096)


def test_the_units_environment_is_the_servers(tmp_path):
    """Every variable is a setting of ours or known to Python or CUDA."""
    names = set()
    for line in unit()["Environment"]:
        names |= {word.partition("=")[0] for word in line.split()}
    ours = {name.upper() for name in Settings.__dataclass_fields__}
    assert names - ours == {"PYTHONDONTWRITEBYTECODE", "CUDA_CACHE_PATH"}


@needs_systemd
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_the_unit_allows_every_system_call_of_a_servers_life(folder, tmp_path):
    """From its start over a photo to its end, TensorFlow's included."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    counts = tmp_path / "counts"
    environ = {"MODEL_FOLDER": str(folder), "UPLOAD_FOLDER": str(tmp_path / "pics")}
    said = tmp_path / "said"
    command = ["strace", "-f", "-c", "-U", "name", "-o", counts, sys.executable]
    with said.open("wb") as file:
        process = subprocess.Popen(
            [*command, "app.py"],
            cwd=ROOT,
            env={**os.environ, **environ, "PORT": "0"},
            stderr=file,
            stdout=subprocess.DEVNULL,
        )
    try:
        listening = r"Listening at: (http://[\d.]+:\d+)"
        wait_for(lambda: re.search(listening, said.read_text()), "it listens")
        url = re.search(listening, said.read_text())[1]
        wait_for(lambda: httpx.get(url + "/readyz").status_code == 200, "it is ready")
        photos = {"file": photo()}
        answer = httpx.post(url + "/detect", data={"modelname": "echo"}, files=photos)
        assert answer.status_code == 200
    finally:
        arbiter = int(
            Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        )
        os.kill(arbiter, 15)
        process.wait(SECONDS)
    names = set(re.findall(r"^(\w+)$", counts.read_text(), re.MULTILINE))
    used = names - {"syscall", "total"}
    assert "mmap" in used
    assert used - allowed() == set()


def allowed():
    """The system calls that the unit's filter lets through."""
    command = ["systemd-analyze", "syscall-filter", "--no-pager"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    groups, name = {}, ""
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif line.strip() and not line.strip().startswith("#"):
            groups.setdefault(name, []).append(line.strip())
    found, todo = set(), unit()["SystemCallFilter"][0].split()
    while todo:
        one = todo.pop()
        (todo.extend if one.startswith("@") else found.update)(groups.get(one, [one]))
    return found
