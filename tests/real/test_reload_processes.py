"""Models that change under load, with real servers and real processes."""

import shutil
import signal
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from support import tiny_graphs
from support.app_client import photo
from support.repeating import Repeating
from support.servers import alive, started, wait_for

pytestmark = pytest.mark.real

PHOTO = photo((200, 100, 50))


def constant(class_id):
    """A detector that finds one class in everything."""
    return tiny_graphs.echo_detector(classes=lambda classes: classes * 0 + class_id)


class Load(Repeating):
    """Clients that ask all the time, and what they were answered."""

    def __init__(self, server, threads=3):
        super().__init__(threads)
        self._server = server
        self.answers = Counter()
        self.failures = []

    def repeat(self, number):
        """Ask on connections of its own, and note the classes or the failure."""
        del number
        with httpx.Client(timeout=120) as client:
            while not self.over.is_set():
                try:
                    response = client.post(
                        f"{self._server.url}/detect",
                        data={"modelname": "m"},
                        files={"file": ("photo.png", PHOTO)},
                    )
                    response.raise_for_status()
                    classes = tuple(one["class"] for one in response.json())
                except httpx.HTTPError as error:
                    self.failures.append(error)
                else:
                    self.answers[classes] += 1

    def wait_for(self, class_id):
        """Wait until an answer is of this class."""
        self.answers.clear()
        wait_for(lambda: self.answers[(class_id,)], f"class {class_id} serves")


@pytest.fixture
def server(folder, uploads, tmp_path):
    """A server with one detector that always answers class 1."""
    put(folder, constant(1))
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, RELOAD_S=0.2
    ) as server:
        server.wait()
        yield server


def put(folder, graph):
    """Copy a graph as the documentation says: under another name, then renamed."""
    tiny_graphs.write(folder / "m.frozen.pb.tmp", graph)
    (folder / "m.frozen.pb.tmp").rename(folder / "m.frozen.pb")


def model(server, name="m"):
    """What ``/models`` says of a model, ``None`` where there is none."""
    models = httpx.get(server.url + "/models", timeout=60).json()["models"]
    return next((one for one in models if one["name"] == name), None)


def resources(pid):
    """Memory of a process in MB, its descriptors, its threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    facts = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(facts["VmRSS"].split()[0]) / 1024, descriptors, int(facts["Threads"])


def test_good_bad_and_slow_reloads_fail_no_request(server, folder):
    """Each answer is the old version's or the new one's; the old process ends."""
    (old,) = server.runners()
    with Load(server) as load:
        load.wait_for(1)
        put(folder, constant(2))
        load.wait_for(2)
        wait_for(lambda: not alive(old), "the old process ends")
        put(folder, b"no graph at all")
        wait_for(lambda: model(server)["reload_error"], "the bad one is refused")
        assert model(server)["state"] == "READY"
        load.wait_for(2)
        slowly(folder / "m.frozen.pb", constant(3))
        load.wait_for(3)
        assert model(server)["reload_error"] is None
    assert load.failures == []
    wait_for(lambda: len(server.runners()) == 1, "the old process ends")


def test_a_file_that_cannot_be_used_leaves_the_old_version_serving(server, folder):
    """One that is far too large, until a good one comes."""
    (old,) = server.runners()
    with Load(server) as load:
        load.wait_for(1)
        with (folder / "m.frozen.pb.tmp").open("wb") as sparse:
            sparse.truncate(2001 << 20)
        (folder / "m.frozen.pb.tmp").rename(folder / "m.frozen.pb")
        wait_for(lambda: model(server)["reload_error"], "it is held")
        assert "larger than 2000 MiB" in model(server)["reload_error"]
        load.wait_for(1)
        assert server.runners() == {old}
        put(folder, constant(2))
        load.wait_for(2)
        assert model(server)["reload_error"] is None
    assert load.failures == []


def slowly(path, data, parts=15):
    """Write a file in place, a part every 0.1 s: slower than looks come."""
    pause = threading.Event()
    with path.open("wb", buffering=0) as file:
        size = len(data) // parts + 1
        for start in range(0, len(data), size):
            file.write(data[start : start + size])
            pause.wait(0.1)


def test_models_come_and_go_with_their_files(server, folder):
    """A new one serves, a removed one is not found, and the others do not notice."""
    with Load(server) as load:
        tiny_graphs.write(folder / "n.frozen.pb", constant(5))
        wait_for(lambda: (model(server, "n") or {}).get("state") == "READY", "n serves")
        assert server.post("/detect", "n", PHOTO).json()[0]["class"] == 5
        (folder / "n.frozen.pb").unlink()
        wait_for(lambda: model(server, "n") is None, "n is gone")
        assert server.post("/detect", "n", PHOTO).status_code == 404
        assert len(server.runners()) == 1
    assert load.failures == []


def hang_up(server):
    """Send SIGHUP to the arbiter."""
    server.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    "command",
    [("app.py",), ("-m", "gunicorn", "app:app")],
    ids=["python app.py", "gunicorn"],
)
def test_sighup_finds_a_new_version_and_the_worker_lives_on(
    command, folder, uploads, tmp_path
):
    """No request fails, whichever way the server was started."""
    put(folder, constant(1))
    with started(
        *command, folder=folder, uploads=uploads, tmp_path=tmp_path, RELOAD_S=0
    ) as server:
        server.wait()
        engine = server.engine()
        with Load(server) as load:
            for class_id in (2, 3):
                put(folder, constant(class_id))
                hang_up(server)
                hang_up(server)
                load.wait_for(class_id)
        assert load.failures == []
        assert server.engine() == engine
        assert server.end() == 0


def reload_often(server, folder, times):
    """Reload under load; gives the engine's resources before and after."""
    with Load(server, threads=2) as load:
        for round_ in range(5):
            put(folder, constant(10 + round_))
            load.wait_for(10 + round_)
        before = resources(server.engine())
        for round_ in range(times):
            put(folder, constant(20 + round_))
            load.wait_for(20 + round_)
        wait_for(lambda: len(server.runners()) == 1, "the last old process ends")
        after = resources(server.engine())
    assert load.failures == []
    return before, after


@pytest.mark.slow
@pytest.mark.parametrize("times", [20, 200])
def test_reloads_leave_nothing_behind(times, server, folder):
    """Memory within 50 MB; descriptors and threads as before."""
    before, after = reload_often(server, folder, times)
    assert after[0] - before[0] < 50
    # A request of the load may be there or not at the moment of counting.
    assert after[1] - before[1] <= 4
    assert after[2] - before[2] <= 2


def test_more_models_than_may_be_in_memory_are_loaded_on_demand(
    folder, uploads, tmp_path
):
    """A client that comes back when it was told to is answered."""
    for number, name in enumerate("ab", 1):
        tiny_graphs.write(folder / f"{name}.frozen.pb", constant(number))
    with started(
        "app.py", folder=folder, uploads=uploads, tmp_path=tmp_path, MAX_MODELS=1
    ) as server:
        server.wait()
        assert model(server, "b")["state"] == "UNLOADED"
        response = server.post("/detect", "b", PHOTO)
        assert response.status_code == 503
        assert int(response.headers["Retry-After"]) >= 1
        wait_for(
            lambda: server.post("/detect", "b", PHOTO).status_code == 200, "b serves"
        )
        server.wait()
        assert model(server, "a")["state"] == "UNLOADED"
        assert len(server.runners()) == 1


def test_a_folder_that_is_deleted_and_restored_disturbs_nobody(server, folder):
    """As when a network drive is away for a while."""
    with Load(server) as load:
        load.wait_for(1)
        away = shutil.move(folder, folder.parent / "away")
        wait_for(
            lambda: "waited for: make it" in (folder.parent / "stderr").read_text(),
            "it is noticed",
        )
        load.wait_for(1)
        shutil.move(away, folder)
        put(folder, constant(2))
        load.wait_for(2)
    assert load.failures == []
