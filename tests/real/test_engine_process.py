"""The engine's process: how it starts, ends, and what it never holds."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelserver.core.errors import START_FAILED, ModelNotReady, RunnerDied
from modelserver.core.messages.control import RESCAN
from modelserver.web import socket_link
from modelserver.web.server.process_keeper import make_environ
from support import tiny_graphs
from support.engine_processes import (
    SECONDS,
    arbiter,
    evaluate,
    eventually,
    states,
)

FORBIDDEN = ("PIL", "simplejpeg", "pillow_heif", "flask", "gunicorn", "tensorflow")

pytestmark = pytest.mark.process

__all__ = ["arbiter"]  # a fixture


def test_it_imports_neither_images_nor_a_web_framework():
    """Nor TensorFlow: none of them may be in the process that holds all models."""
    code = "import sys, modelserver.engine.process; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    tops = {name.partition(".")[0] for name in out.stdout.split()}
    assert tops & set(FORBIDDEN) == set()
    assert "msgspec" in tops


def test_it_answers_doors_and_goes_after_the_last(arbiter, folder, tmp_path):
    """A photo's answer comes; without an arbiter it serves until its doors have gone."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }')
    made = arbiter()
    process, control = made.start()
    one, other = made.link(), made.link()
    eventually(lambda: states(one) == {"m": "READY"})
    for link in (one, other):
        assert b'"label":"red"' in evaluate(link, tmp_path).answer
    assert b"JFIF" in evaluate(one, tmp_path, picture="JPEG").picture
    mapped = Path(f"/proc/{process.pid}/maps").read_text()
    assert [name for name in (*FORBIDDEN, "jpeg") if f"/{name}" in mapped] == []
    assert "msgspec" in mapped
    control.close()
    one.close()
    assert states(other) == {"m": "READY"}
    assert process.poll() is None
    other.close()
    assert process.wait(SECONDS) == 0


def test_signals_of_a_terminal_do_not_end_it(arbiter, folder):
    """SIGINT and SIGTERM do nothing; SIGHUP and the arbiter's word show new models."""
    made = arbiter()
    process, control = made.start()
    link = made.link()
    for number in (signal.SIGINT, signal.SIGTERM):
        process.send_signal(number)
    assert states(link) == {}
    for name, tell in (
        ("one", lambda: process.send_signal(signal.SIGHUP)),
        ("two", lambda: control.send(RESCAN)),
    ):
        (folder / f"{name}.frozen.pb").write_bytes(b"no graph")
        (folder / f"{name}.label_map.pbtxt").write_text("item { id: 1 name: 'x' }")

        def there(name=name, tell=tell):
            tell()
            return name in states(link)

        eventually(there)
    assert process.poll() is None


def test_a_wrong_setting_is_a_sentence_and_a_code(arbiter):
    """It says once what is wrong, and the arbiter knows not to start another."""
    made = arbiter(MIN_CONFIDENCE="x")
    process, control = made.start(ready=False, stderr=subprocess.PIPE, text=True)
    _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == START_FAILED
    assert said.startswith("modelserver: MIN_CONFIDENCE='x' is not allowed")
    assert said.count("\n") == 1
    assert control.recv(100) == b""


def test_a_gpu_that_is_required_and_missing_is_one_too(arbiter):
    """So is a task that nobody knows."""
    made = arbiter(REQUIRE_GPU="true", CUDA_VISIBLE_DEVICES="-1")
    for tasks, what in ((["detection"], "REQUIRE_GPU"), (["painting"], "painting")):
        process, _ = made.start(*tasks, ready=False, stderr=subprocess.PIPE, text=True)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == START_FAILED
        assert what in said


def test_a_task_from_outside_is_imported(arbiter):
    """Its module registers it, as in the app."""
    made = arbiter(PYTHONPATH=str(Path(__file__).parents[1]))
    made.start("brightness", "--import", "support.brightness")
    assert states(made.link()) == {}


def test_it_ends_with_a_killed_arbiter(arbiter, tmp_path):
    """The kernel kills it with the process that started it, with doors connected."""
    code = (
        "import sys; sys.path[:0] = [{tests!r}]\n"
        "from pathlib import Path\n"
        "from support.engine_processes import Arbiter\n"
        "made = Arbiter(Path({tmp!r}), {tmp!r})\n"
        "process, control = made.start()\n"
        "print(process.pid, flush=True)\n"
        "sys.stdin.read()\n"
    ).format(tests=str(Path(__file__).parents[1]), tmp=str(tmp_path))
    starter = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=make_environ(os.environ),
    )
    with starter:
        pid = int(starter.stdout.readline())
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.settimeout(SECONDS)
            door.connect(str(tmp_path / "engine"))
            assert door.recv(100)
            starter.kill()
            assert door.recv(100) == b""
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_its_death_refuses_what_it_had_and_the_next_serves(
    arbiter, folder, tmp_path, monkeypatch
):
    """SIGKILL with a request in flight: 503 for that, then all is well again."""
    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    (folder / "m.label_map.pbtxt").write_text('item { id: 21 name: "red" }')
    made = arbiter()
    process, _ = made.start()
    link = made.link()
    eventually(lambda: states(link) == {"m": "READY"})
    eventually(lambda: link._page.load_s > 0)
    process.kill()
    process.wait()
    with pytest.raises(ModelNotReady) as refused:
        evaluate(link, tmp_path)
    assert refused.value.retry_after_s == pytest.approx(max(1.0, link._page.load_s))
    process, _ = made.start()
    eventually(lambda: states(link) == {"m": "READY"})
    os.kill(process.pid, signal.SIGSTOP)
    # Who asks is slower than that on a busy machine.
    monkeypatch.setattr(socket_link, "_AWAY_S", SECONDS)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(evaluate, link, tmp_path)
        eventually(lambda: link._waiting)
        process.kill()
        with pytest.raises(RunnerDied):
            asked.result(SECONDS)
