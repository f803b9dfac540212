"""The model folder while it is served: new, changed, removed and partial files."""

import threading

import pytest

from modelserver.engine import discovery
from modelserver.engine.catalogue.hot_folder import HotFolder
from modelserver.tasks import CLASSIFICATION, DETECTION

SECONDS = 20


class Sink:
    """Stands for the registry, and notes the calls that it gets."""

    def __init__(self):
        self.calls = []
        self.changed = threading.Condition()

    def put(self, files, stamp):
        assert files.stamp == stamp
        self._note(f"put {files.name}")

    def remove(self, name, kind):
        self._note(f"remove {name}")

    def hold(self, name, reason, kind):
        self._note(f"hold {name}: {reason}")

    def _note(self, words):
        with self.changed:
            self.calls.append(words)
            self.changed.notify_all()

    def wait(self, *words):
        """Wait until it has got these calls."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.calls == list(words), SECONDS)


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def hot(folder, sink):
    """Give a watched folder that is scanned when a test says so."""
    return HotFolder(
        lambda: discovery.discover(folder, CLASSIFICATION), sink, every_s=0
    )


def write(folder, name, text="1"):
    """Write a file anew, so that it differs from any before."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_text(text)


def test_models_of_the_first_scan_are_not_put_again(folder, hot, sink):
    """The server loads them at its start."""
    write(folder, "m.pb")
    assert [files.name for files in hot.scan_first()] == ["m"]
    assert not hot.poll()
    assert sink.calls == []


def test_a_new_model_is_put_once_two_scans_found_the_same(folder, hot, sink):
    """A copy under way changes between two scans."""
    hot.scan_first()
    write(folder, "m.pb", "1")
    assert hot.poll()
    write(folder, "m.pb", "12")
    assert hot.poll()
    assert sink.calls == []
    assert not hot.poll()
    assert not hot.poll()
    assert sink.calls == ["put m"]


@pytest.mark.parametrize(
    "name", ["m.pb", "m.pbtxt", "m.json", "m.test.jpg", "m.expected.json"]
)
def test_a_change_of_any_of_a_models_files_is_found(name, folder, hot, sink):
    """Graph, label map, sidecar, golden image and its answer all count."""
    for each in ("m.pb", "m.pbtxt", "m.json", "m.test.jpg", "m.expected.json", "n.pb"):
        write(folder, each)
    hot.scan_first()
    write(folder, name, "another")
    assert hot.poll()
    assert not hot.poll()
    assert sink.calls == ["put m"]


def test_a_file_that_joins_a_model_or_leaves_it_is_a_change(folder, hot, sink):
    """A label map may come after its graph."""
    write(folder, "m.pb")
    hot.scan_first()
    write(folder, "m.pbtxt")
    hot.poll()
    hot.poll()
    (folder / "m.pbtxt").unlink()
    hot.poll()
    hot.poll()
    assert sink.calls == ["put m", "put m"]


def test_a_model_that_is_gone_twice_is_removed(folder, hot, sink):
    """A model that is back at the next scan was only being replaced."""
    write(folder, "m.pb")
    hot.scan_first()
    away = folder.parent / "m.pb"
    (folder / "m.pb").rename(away)
    assert hot.poll()
    away.rename(folder / "m.pb")
    assert not hot.poll()
    assert sink.calls == []
    (folder / "m.pb").unlink()
    assert hot.poll()
    assert not hot.poll()
    assert not hot.poll()
    assert sink.calls == ["remove m"]


def test_a_folder_that_cannot_be_read_removes_nothing(folder, hot, sink, caplog):
    """A network drive may be away for a while; that is logged once."""
    write(folder, "m.pb")
    hot.scan_first()
    away = folder.parent / "away"
    folder.rename(away)
    for _ in range(3):
        assert not hot.poll()
    assert caplog.text.count("It is waited for") == 1
    away.rename(folder)
    assert not hot.poll()
    assert sink.calls == []


def test_a_warning_is_logged_once(folder, hot, caplog):
    """It is not repeated at each scan, but again after the file was in order."""
    write(folder, "m.pb")
    hot.scan_first()
    hot.poll()
    assert caplog.text.count("has no label map") == 1
    write(folder, "m.pbtxt")
    hot.poll()
    (folder / "m.pbtxt").unlink()
    hot.poll()
    assert caplog.text.count("has no label map") == 2


def test_the_thread_scans_by_itself(folder, sink):
    """It scans each time that the interval has passed."""
    hot = HotFolder(
        lambda: discovery.discover(folder, CLASSIFICATION), sink, every_s=0.01
    )
    hot.scan_first()
    hot.start()
    write(folder, "m.pb")
    sink.wait("put m")
    hot.close()
    assert not hot._thread.is_alive()


def test_a_scan_that_was_asked_for_goes_on_until_all_lies_still(folder, sink):
    """Without an interval, a change that was asked for is not lost."""
    looks = threading.Semaphore(0)

    def look():
        looks.release()
        return discovery.discover(folder, CLASSIFICATION)

    hot = HotFolder(look, sink, every_s=0, again_s=0.01)
    hot.scan_first()
    hot.start()
    write(folder, "m.pb")
    assert looks.acquire(timeout=SECONDS)
    hot.rescan()
    sink.wait("put m")
    hot.close()
    looked = 0
    while looks.acquire(blocking=False):
        looked += 1
    assert looked == 2


def test_a_scan_that_fails_is_logged_and_the_next_one_comes(folder, sink, caplog):
    """A bug must not end the watch."""
    found = [discovery.discover(folder, CLASSIFICATION)]

    def look():
        return found.pop() if found else 1 / 0

    hot = HotFolder(look, sink, every_s=0, again_s=0.01)
    hot.scan_first()
    hot.start()
    for _ in range(2):
        hot.rescan()
    hot.close()
    assert caplog.text.count("looking at the model folder failed") == 2


def test_a_folder_that_is_not_watched_closes(hot):
    """A process that never started the watch can close it."""
    hot.close()
    hot.close()


HELD = "hold m: 'm.pb' is skipped: it is not a regular file."


def test_a_model_whose_file_cannot_be_used_is_neither_replaced_nor_removed(
    folder, hot, sink
):
    """The registry is told the reason; good files are then put as changed ones."""
    write(folder, "m.pb")
    hot.scan_first()
    (folder / "m.pb").rename(folder / "kept")
    (folder / "m.pb").mkdir()
    for _ in range(3):
        assert not hot.poll()
    assert set(sink.calls) == {HELD}
    (folder / "m.pb").rmdir()
    (folder / "kept").rename(folder / "m.pb")
    sink.calls.clear()
    assert hot.poll()
    assert not hot.poll()
    assert sink.calls == ["put m"]


def test_a_model_is_not_replaced_by_itself_without_its_labels(folder, hot, sink):
    """It is kept though the graph next to them could be served."""
    write(folder, "m.pb")
    write(folder, "m.pbtxt")
    hot.scan_first()
    (folder / "m.pbtxt").unlink()
    (folder / "m.pbtxt").symlink_to("/dev/null")
    for _ in range(3):
        hot.poll()
    assert all(words.startswith("hold m: 'm.pbtxt' is skipped") for words in sink.calls)
    (folder / "m.pbtxt").unlink()
    sink.calls.clear()
    hot.poll()
    hot.poll()
    assert sink.calls == ["put m"]


def test_a_held_model_that_is_then_taken_away_is_removed(folder, hot, sink):
    """It is removed after two scans, as any other."""
    write(folder, "m.pb")
    hot.scan_first()
    (folder / "m.pb").unlink()
    (folder / "m.pb").mkdir()
    hot.poll()
    (folder / "m.pb").rmdir()
    sink.calls.clear()
    assert hot.poll()
    assert sink.calls == []
    hot.poll()
    assert sink.calls == ["remove m"]


def test_a_model_that_the_registry_could_not_take_is_put_again(
    folder, hot, sink, monkeypatch
):
    """This happens if there can be no thread for one model more."""
    hot.scan_first()
    write(folder, "m.pb")
    hot.poll()
    with monkeypatch.context() as broken:
        broken.setattr(sink, "put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hot.poll()
    hot.poll()
    assert sink.calls == ["put m"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_folder_comes_changes_and_goes_like_a_file(
    folder, hot, sink, tmp_path, linked
):
    """It may be an export's folder, or a link that is moved to another version."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        write(tmp_path / version, "model.pb", version)
        write(tmp_path / version, "labels.txt", version)
    hot.scan_first()
    folder_of_cats = folder / "cats"
    for version in ("v1", "v2"):
        if linked:
            (tmp_path / "new").symlink_to(tmp_path / version)
            (tmp_path / "new").replace(folder_of_cats)
        elif folder_of_cats.exists():
            write(folder_of_cats, "model.pb", version)
        else:
            (tmp_path / version).rename(folder_of_cats)
        assert hot.poll()
        assert not hot.poll()
    assert sink.calls == ["put cats", "put cats"]
    folder_of_cats.unlink() if linked else folder_of_cats.rename(tmp_path / "away")
    for _ in range(2):
        hot.poll()
    assert sink.calls == ["put cats", "put cats", "remove cats"]


def test_what_is_missing_is_told_while_there_is_no_model(folder, hot):
    hot.scan_first()
    assert hot.hint == discovery.hint(CLASSIFICATION)
    (folder / "pets").mkdir()
    write(folder / "pets", "frozen_inference_graph.pb")
    hot.poll()
    assert "'pets'; start 'python app.py'" in hot.hint


def test_models_of_one_name_and_two_kinds_are_told_apart(folder, sink):
    """One is removed and put again, and the other gets no call."""
    hot = HotFolder(
        lambda: discovery.discover(folder, DETECTION, CLASSIFICATION),
        sink,
        every_s=0,
    )
    write(folder, "m.pb")
    write(folder, "m.frozen.pb")
    assert [files.kind for files in hot.scan_first()] == ["classification", "detection"]
    (folder / "m.frozen.pb").unlink()
    hot.poll()
    hot.poll()
    write(folder, "m.frozen.pb", "2")
    hot.poll()
    hot.poll()
    assert sink.calls == ["remove m", "put m"]
