"""The main flow over real HTTP, on real models, in real processes."""

import io
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from support import tiny_graphs
from support.app_client import photo
from support.servers import SECONDS, alive, started, wait_for

pytestmark = pytest.mark.real

DETECTOR = "ssdlite_mobilenet_v2_coco"
CLASSIFIER = "efficientnet_lite0"
TURNS = Image.Transpose.__members__
GONE_S = 5  # what operators are promised
ODD = Path(__file__).parents[3] / "shared" / "data" / "odd_images"


@pytest.fixture(scope="module")
def module_tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def pics(module_tmp):
    """An upload folder with a user's own files in it."""
    path = module_tmp / "pics"
    path.mkdir()
    for name in ("holiday.jpg", ".gitkeep"):
        (path / name).write_bytes(b"mine")
    return path


@pytest.fixture(scope="module")
def detection_server(zoo_folder, pics, module_tmp):
    with started(
        "app.py",
        folder=zoo_folder,
        uploads=pics,
        tmp_path=module_tmp,
        MIN_CONFIDENCE=0.5,
    ) as server:
        server.wait()
        yield server


@pytest.fixture(autouse=True)
def uploads_hold_what_they_held(pics):
    yield
    assert sorted(path.name for path in pics.iterdir()) == [".gitkeep", "holiday.jpg"]


def sample(zoo_folder, name):
    return (zoo_folder / "samples" / f"{name}.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "label"), [("astronaut", "person"), ("chelsea", "cat"), ("coffee", "cup")]
)
def test_a_photo_is_answered_with_what_is_on_it(
    name, label, detection_server, zoo_folder
):
    """The default detector on the sample photos."""
    response = detection_server.post("/detect", DETECTOR, sample(zoo_folder, name))
    assert response.status_code == 200
    assert response.json()[0]["label"] == label


def plain_run(graph, file):
    """Boxes, scores and classes of a plain TensorFlow run, without a server."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(graph.read_bytes())
    with tf.Graph().as_default() as imported:
        tf.compat.v1.import_graph_def(graph_def, name="")
    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    names = ["detection_boxes:0", "detection_scores:0", "detection_classes:0"]
    with tf.compat.v1.Session(graph=imported) as session:
        arrays = session.run(names, {"image_tensor:0": pixels[None]})
    return [array[0] for array in arrays]


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_boxes_equal_a_plain_tensorflow_run(name, detection_server, zoo_folder):
    """Within 1e-3, confidences too."""
    file = sample(zoo_folder, name)
    boxes, scores, classes = plain_run(zoo_folder / f"{DETECTOR}.frozen.pb", file)
    found = detection_server.post("/detect", DETECTOR, file).json()
    assert len(found) == (scores >= 0.5).sum() > 0
    for one, (y1, x1, y2, x2), score, class_id in zip(
        found, boxes, scores, classes, strict=False
    ):
        assert one["class"] == class_id
        assert one["confidence"] == pytest.approx(score, abs=1e-3)
        expected = np.clip([x1, y1, x2, y2], 0, 1)
        assert one["bounding_box"] == pytest.approx(expected, abs=1e-3)


def test_all_eight_orientations_give_the_same_boxes(detection_server, zoo_folder):
    """A photo that says how to turn it is seen upright."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = Image.open(io.BytesIO(sample(zoo_folder, "chelsea"))).convert("RGB")
    answers = []
    for orientation in range(1, 9):
        turned = image
        if orientation in turns:
            turned = image.transpose(turns[orientation])
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = io.BytesIO()
        turned.save(file, "PNG", exif=exif)
        (one,) = detection_server.post("/detect", DETECTOR, file.getvalue()).json()
        answers.append(one)
    assert all(one == answers[0] for one in answers)
    assert answers[0]["label"] == "cat"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_phone_photo_is_seen_upright(
    orientation, detection_server, zoo_folder
):
    """A large JPEG, which is decoded at a reduced size and then turned."""
    image = Image.open(io.BytesIO(sample(zoo_folder, "chelsea"))).convert("RGB")
    image = image.resize((image.width * 6, image.height * 6))
    turn = {3: "ROTATE_180", 6: "ROTATE_90", 8: "ROTATE_270"}[orientation]
    answers = []
    for number, photo_ in ((1, image), (orientation, image.transpose(TURNS[turn]))):
        exif = Image.Exif()
        exif[0x0112] = number
        file = io.BytesIO()
        photo_.save(file, "JPEG", quality=95, exif=exif)
        (one,) = detection_server.post("/detect", DETECTOR, file.getvalue()).json()
        answers.append(one)
    upright, turned = answers
    assert turned["label"] == upright["label"] == "cat"
    assert turned["confidence"] == pytest.approx(upright["confidence"], abs=0.02)
    assert turned["bounding_box"] == pytest.approx(upright["bounding_box"], abs=0.02)


@pytest.mark.skipif(not ODD.is_dir(), reason="the odd images are not here")
def test_odd_images_are_answered_or_refused_in_words(detection_server):
    """A 200 or a documented 4xx, never a 5xx."""
    for path in sorted(ODD.iterdir()):
        response = detection_server.post("/detect", DETECTOR, path.read_bytes())
        assert response.status_code in (200, 413, 415, 422), path.name
        if response.status_code != 200:
            body = response.json()
            assert body["status"] == response.status_code
            assert "Traceback" not in response.text
            assert "PIL" not in response.text


def test_only_the_runner_holds_tensorflow_and_the_server_listens_on_loopback_only(
    detection_server,
):
    """TensorFlow is mapped by the runner alone; no other address answers."""
    (runner,) = detection_server.runners()
    for pid in {detection_server.process.pid, *detection_server.descendants()}:
        mapped = "tensorflow" in Path(f"/proc/{pid}/maps").read_text()
        assert mapped == (pid == runner)
    with socket.socket() as probe:
        probe.settimeout(5)
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            assert probe.connect_ex((own, detection_server.port)) != 0


def test_classify_names_the_sample_photos(zoo_folder, pics, tmp_path):
    """Chelsea is an Egyptian cat or a tabby, to the default classifier."""
    with started(
        "app_classify.py", folder=zoo_folder, uploads=pics, tmp_path=tmp_path
    ) as server:
        server.wait()
        file = sample(zoo_folder, "chelsea")
        answer = server.post("/classify", CLASSIFIER, file).json()
        assert answer["class"] in ("Egyptian cat", "tabby")
        assert server.end() == 0


def test_gunicorn_app_serves_by_itself_on_loopback(zoo_folder, pics, tmp_path):
    """``PORT=n gunicorn app:app`` is the same server."""
    with started(
        "-m", "gunicorn", "app:app", folder=zoo_folder, uploads=pics, tmp_path=tmp_path
    ) as server:
        server.wait()
        file = sample(zoo_folder, "chelsea")
        assert server.post("/detect", DETECTOR, file).json()[0]["label"] == "cat"
        assert server.end() == 0


@pytest.fixture
def tiny(folder, monkeypatch):
    """A model folder with an echoing detector and one that white light kills."""
    tiny_graphs.write(folder / "echo.frozen.pb", tiny_graphs.echo_detector())
    white = tiny_graphs.crashes_when_white()
    tiny_graphs.write(folder / "white.frozen.pb", white)
    monkeypatch.setenv("TRUSTED_MODELS", *tiny_graphs.trusted(white))
    return folder


def test_each_of_32_clients_gets_its_own_answer(tiny, uploads, tmp_path):
    """At once, again and again, each with a photo of its own."""

    def ask(red):
        response = server.post("/detect", "echo", photo((red, 0, 0)))
        return response.json()[0]["class"]

    reds = [8 * (number % 32) for number in range(192)]
    with started("app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        with ThreadPoolExecutor(32) as clients:
            answers = list(clients.map(ask, reds))
    assert answers == [tiny_graphs.echoed(red, 0, 0)[0] for red in reds]


def test_a_killed_runner_comes_back_and_harms_nobody_else(tiny, uploads, tmp_path):
    """SIGKILL from outside, and SIGABRT from the graph itself."""
    with started("app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        first = server.runners()
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not (first & server.runners()), "they are gone")
        for name in ("echo", "white"):
            wait_for(lambda name=name: serves(server, name), "it is back")
        assert httpx.get(server.url + "/readyz").status_code == 200
        response = server.post("/detect", "white", photo((255, 255, 255)))
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/runner-died"
        assert int(response.headers["Retry-After"]) >= 1
        assert server.post("/detect", "echo", photo()).status_code == 200
        assert httpx.get(server.url + "/livez").status_code == 200
        wait_for(lambda: serves(server, "white"), "it is back")
        models = httpx.get(server.url + "/models").json()["models"]
        assert {one["name"]: one["restarts"] for one in models} == {
            "echo": 1,
            "white": 2,
        }


def serves(server, name):
    """Whether a model answers a photo."""
    return server.post("/detect", name, photo()).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_runner_outlives_its_server(number, tiny, uploads, tmp_path):
    """Asked, interrupted or killed, also while a model loads."""
    with started("app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        family = server.descendants()
        assert len(server.runners()) == 2
        server.end(number)
        wait_for(lambda: not any(map(alive, family)), "all are gone", GONE_S)
    with started("app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path) as server:
        wait_for(lambda: len(server.runners()) == 2, "they load")
        family = server.descendants()
        server.end(number)
        wait_for(lambda: not any(map(alive, family)), "all are gone", GONE_S)


def test_no_stopped_runner_outlives_a_killed_engine(tiny, uploads, tmp_path):
    """It cannot see that the engine is gone; the kernel ends it all the same."""
    with started("app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        engine, runners = server.engine(), server.runners()
        for pid in runners:
            os.kill(pid, signal.SIGSTOP)
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, runners)), "all are gone", GONE_S)
        assert server.end() == 0


def test_sigterm_answers_what_is_under_way(folder, uploads, tmp_path):
    """A request that was taken is answered; then the server ends with 0."""
    tiny_graphs.write(folder / "slow.frozen.pb", tiny_graphs.slow_detector(2.0))
    answers = []
    with started("app.py", folder=folder, uploads=uploads, tmp_path=tmp_path) as server:
        server.wait()
        client = threading.Thread(
            target=lambda: answers.append(
                server.post("/detect", "slow", photo()).status_code
            )
        )
        client.start()
        wait_for(server.uploads, "the request is under way")
        assert server.end() == 0
        client.join(SECONDS)
    assert answers == [200]


@pytest.mark.parametrize("debug", [False, True])
def test_stdout_is_what_the_operator_was_promised(debug, tiny, uploads, tmp_path):
    """A line an evaluation; with DEBUG every detection, without a wait for more."""
    with started(
        "app.py", folder=tiny, uploads=uploads, tmp_path=tmp_path, DEBUG=debug
    ) as server:
        server.wait()
        server.post("/detect", "echo", photo())
        wait_for(lambda: " ms (" in server.stdout, "the line has come")
        lines = server.stdout.splitlines()
    assert lines[-1].startswith("echo ")
    assert " ms (" in lines[-1]
    assert len(lines) == (4 if debug else 1)


def test_a_bad_setting_stops_the_start_with_a_sentence(tmp_path, folder, uploads):
    """Its name, its value, what is allowed; no traceback, nothing listening."""
    with (
        pytest.raises(AssertionError, match="MIN_CONFIDENCE='2'"),
        started(
            "app.py",
            folder=folder,
            uploads=uploads,
            tmp_path=tmp_path,
            MIN_CONFIDENCE=2,
        ),
    ):
        pass
    assert "Traceback" not in (tmp_path / "stderr").read_text()
