"""Links in the model folder, to files and to folders."""

import os

import pytest

from modelserver.core.errors import ModelError
from modelserver.engine.discovery import discover, links
from modelserver.tasks import CLASSIFICATION, by_kind


@pytest.fixture(autouse=True)
def folder(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def write(path, content=b"graph"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def volume(folder, version, data):
    """Lay a version as Kubernetes does, and move its link at once."""
    for name in ("m.pb", "m.pbtxt"):
        write(folder / f"..{version}" / name, data)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    (folder / "..new").symlink_to(f"..{version}")
    (folder / "..new").replace(folder / "..data")


def only(folder):
    (files,) = discover(folder, CLASSIFICATION).models
    return files


def read(path):
    with path.open("rb") as file:
        return file.read()


def contents(files):
    with files.open_all() as opened:
        return [read(path) for path in (opened.graph, opened.labels)]


def test_a_volume_of_kubernetes_is_served_and_a_new_version_seen(folder):
    volume(folder, "v1", b"one")
    before = only(folder)
    assert contents(before) == [b"one", b"one"]
    stamp, digest = before.stamp, before.digest()
    volume(folder, "v2", b"two")
    after = only(folder)
    assert contents(after) == [b"two", b"two"]
    assert after == before
    assert (after.stamp != stamp, after.digest() != digest) == (True, True)


def test_a_swap_while_files_are_opened_gives_all_old_or_all_new(folder, monkeypatch):
    volume(folder, "v1", b"one")
    files = only(folder)
    really, opened = links.open_file, []

    def swapping(root, name):
        opened.append(name)
        descriptor = really(root, name)
        if len(opened) == 1:
            volume(folder, "v2", b"two")
        return descriptor

    monkeypatch.setattr("modelserver.engine.discovery.files.open_file", swapping)
    assert contents(files) == [b"two", b"two"]
    assert len(opened) == 4


def test_what_was_opened_is_read_whatever_the_names_lead_to_later(folder):
    volume(folder, "v1", b"one")
    with only(folder).open_all() as opened:
        digest = opened.digest()
        volume(folder, "v2", b"two")
        assert read(opened.graph) == b"one"
        assert opened.digest() == digest


def test_files_that_never_stand_still_are_given_up(folder, monkeypatch):
    volume(folder, "v1", b"one")
    files = only(folder)
    monkeypatch.setattr(type(files), "_leads_to", lambda *_: False)
    with pytest.raises(ModelError, match="keep changing"), files.open_all():
        pass


def test_a_snapshot_of_a_cache_is_served(folder, tmp_path):
    """Hugging Face's cache has a link to a folder of links to blobs."""
    cache = tmp_path / "hub" / "models--a--b"
    for name in ("model.pb", "labels.txt"):
        write(cache / "blobs" / f"blob-{name}", name.encode())
        link = cache / "snapshots" / "abc" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/blob-{name}")
    (folder / "cats").symlink_to(cache / "snapshots" / "abc")
    files = only(folder)
    assert (files.name, files.graph.name) == ("cats", "model.pb")
    assert contents(files) == [b"model.pb", b"labels.txt"]


def test_a_folders_link_may_be_moved_to_another_version(folder, tmp_path):
    for version in ("v1", "v2"):
        for name in ("model.pb", "labels.txt"):
            write(tmp_path / version / name, version.encode())
    (folder / "cats").symlink_to(tmp_path / "v1")
    before = only(folder).stamp
    (folder / "new").symlink_to(tmp_path / "v2")
    (folder / "new").replace(folder / "cats")
    assert only(folder).stamp != before
    assert contents(only(folder)) == [b"v2", b"v2"]


def chown(path, uid):
    """Give a file or link to another user; without the right, pretend the reverse."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(path, uid, uid, follow_symlinks=False)


@pytest.mark.parametrize("whose", ["link", "target", "folder link"])
def test_links_and_files_of_another_user_are_not_followed(folder, tmp_path, whose):
    """Neither their link nor their file behind a link is read."""
    target = write(tmp_path / "real" / "model.pb")
    link = folder / ("m" if whose == "folder link" else "m.pb")
    link.symlink_to(target.parent if whose == "folder link" else target)
    chown(target if whose == "target" else link, 12345)
    found = discover(folder, CLASSIFICATION)
    assert found.models == ()
    if whose != "folder link":
        (warning,) = (line for line in found.warnings if "refused" in line)
        assert warning.startswith("'m.pb' is refused: it is a link")
        assert found.held == {("classification", "m"): warning}


def test_a_plain_file_may_belong_to_anybody(folder):
    chown(write(folder / "m.pb"), 12345)
    assert only(folder).name == "m"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/dev/zero", "not a regular file"),
        ("/proc/self/fd/0", ""),
        ("pipe", "not a regular file"),
        ("b.pb", "link"),
        ("gone", "a link to nothing"),
        (".", "not a regular file"),
        ("a/" * 10, ""),
    ],
)
def test_whatever_a_link_leads_to_a_look_ends(folder, target, why):
    os.mkfifo(folder / "pipe")
    (folder / "b.pb").symlink_to("m.pb")
    (folder / "m.pb").symlink_to(target)
    found = discover(folder, CLASSIFICATION)
    assert found.models == ()
    assert any("'m.pb' is" in line and why in line for line in found.warnings)


def test_a_target_that_changes_after_the_look_is_refused_when_it_is_opened(folder):
    target = write(folder / "..real.pb")
    (folder / "m.pb").symlink_to(target)
    files = only(folder)
    target.unlink()
    os.mkfifo(target)
    with pytest.raises(ModelError, match="not a regular file"), files.open_all():
        pass


def test_links_that_go_on_for_ever_are_left(folder):
    write(folder / "real")
    for number in range(60):
        (folder / f"l{number}").symlink_to(f"l{number - 1}" if number else "real")
    (folder / "m.pb").symlink_to("l59")
    found = discover(folder, CLASSIFICATION)
    assert found.models == ()
    assert any("symbolic links" in line for line in found.warnings)


@pytest.mark.parametrize("name", ["link", "m/link"])
@pytest.mark.parametrize("kind", ["classification", "detection"])
def test_a_link_that_the_system_refuses_to_follow_ends_no_scan(folder, kind, name):
    """Names too long and folders without access raise nothing."""
    write(folder / "good.pb")
    write(folder / "good.frozen.pb")
    (folder / "m").mkdir()
    (folder / name).symlink_to("x" * 300)
    found = discover(folder, by_kind(kind))
    assert [files.name for files in found.models] == ["good"]
