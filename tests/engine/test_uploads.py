"""Uploads in the spool: written bytes come back, and nothing is left behind."""

import errno
import mmap
import os
import resource
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from werkzeug.formparser import FormDataParser

from modelserver.core.errors import StorageFull, StorageUnavailable
from modelserver.engine.uploads import HAS_UNNAMED, PREFIX, Spool, Upload

LEFTOVER = PREFIX + "0123456789abcdef" * 2


@pytest.fixture(params=[HAS_UNNAMED, False], ids=["system", "named"])
def spool(request, tmp_path):
    """Give a spool as this system has it, and as one without unnamed files."""
    return Spool(tmp_path / "pics", unnamed=request.param)


def refuse(monkeypatch, code, *, when=lambda flags: True):
    """Make ``os.open`` fail with an error code if ``when`` says so of its flags."""
    real = os.open

    def fake(path, flags, *args, **kwargs):
        if when(flags):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", fake)


def keep_names(monkeypatch):
    """Make the removal of an open file fail."""

    def fake(self, missing_ok=False):
        raise PermissionError(errno.EPERM, "busy", str(self))

    monkeypatch.setattr(Path, "unlink", fake)


def names(folder):
    """Return the names in a folder."""
    return sorted(entry.name for entry in folder.iterdir())


def test_written_bytes_come_back(spool):
    """The parser writes in pieces and rewinds; reading and mapping give all bytes."""
    with spool.open() as upload:
        assert upload.write(b"abc") == 3
        assert upload.write(memoryview(b"defg")) == 4
        assert upload.tell() == 7
        upload.seek(0)
        assert upload.read() == b"abcdefg"
        assert bytes(upload.data()[:]) == b"abcdefg"


def test_content_is_mapped_once_and_read_only(spool):
    """Content is the file itself, the same map each time, and nobody can change it."""
    with spool.open() as upload:
        upload.write(b"x" * 5000)
        content = upload.data()
        assert isinstance(content, mmap.mmap)
        assert upload.data() is content
        with pytest.raises(TypeError):
            content[0] = 0


def test_empty_upload_has_empty_content(spool):
    """An empty file part, which cannot be mapped, is just empty."""
    with spool.open() as upload:
        assert bytes(upload.data()) == b""


def test_open_upload_shows_nothing_in_the_folder(spool):
    """Even while an upload is under way there is no name to leave behind."""
    with spool.open() as upload:
        upload.write(b"x")
        assert names(spool.folder) == []
    assert names(spool.folder) == []


def test_only_the_server_may_read_uploads(spool):
    """Folder and files are for the server's user alone."""
    with spool.open() as upload:
        assert stat.S_IMODE(os.fstat(upload.fileno()).st_mode) == 0o600
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


def test_upload_is_not_inherited_by_child_processes(spool):
    """A model's process never holds an upload open."""
    with spool.open() as upload:
        assert not os.get_inheritable(upload.fileno())


def test_close_is_idempotent_and_final(spool):
    """Closing twice is harmless, and the content is gone after it."""
    upload = spool.open()
    upload.write(b"x")
    content = upload.data()
    upload.close()
    upload.close()
    assert upload.closed
    assert content.closed
    with pytest.raises(ValueError, match="closed"):
        upload.data()


def test_close_while_a_decoder_still_reads(spool):
    """A decoder that outlived its request keeps its memory; the upload closes."""
    upload = spool.open()
    upload.write(b"pixels")
    view = memoryview(upload.data())
    upload.close()
    assert upload.closed
    assert bytes(view) == b"pixels"


def test_dropped_upload_is_closed_with_a_warning(spool):
    """An upload that nobody closed goes with its last reference, and says so."""
    uploads = [spool.open()]
    descriptor = uploads[0].fileno()
    with pytest.warns(ResourceWarning, match="unclosed"):
        uploads.clear()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_at_creation(spool, monkeypatch, code):
    """No space, quota or inode for a new file is ``StorageFull``."""
    spool.sweep()
    refuse(monkeypatch, code)
    with pytest.raises(StorageFull):
        spool.open()


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_folder_that_cannot_be_written(spool, monkeypatch, code):
    """Any other refusal is ``StorageUnavailable``, in words without a path."""
    spool.sweep()
    refuse(monkeypatch, code)
    with pytest.raises(StorageUnavailable) as caught:
        spool.open()
    assert str(spool.folder) not in str(caught.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_disk_that_fills_up_while_writing():
    """A write without space left is ``StorageFull``."""
    upload = Upload(os.open("/dev/full", os.O_RDWR))
    with upload, pytest.raises(StorageFull):
        upload.write(b"x")


def test_write_that_is_cut_short_is_an_error(spool):
    """If the system takes only a part, no shorter file passes for the whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with spool.open() as upload:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(StorageUnavailable):
                upload.write(b"x" * 1500)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert upload.tell() == 1000


def test_file_that_cannot_be_mapped(spool, monkeypatch):
    """A mapping that the system refuses is ``StorageUnavailable``."""

    def refused(*args, **kwargs):
        raise OSError(errno.ENODEV, "no mapping here")

    with spool.open() as upload:
        upload.write(b"x")
        monkeypatch.setattr(mmap, "mmap", refused)
        with pytest.raises(StorageUnavailable):
            upload.data()


def test_deleted_folder_is_made_again(spool):
    """A folder deleted under the running server comes back with the next upload."""
    spool.sweep()
    shutil.rmtree(spool.folder)
    with spool.open() as upload:
        upload.write(b"x")
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


def test_folder_that_cannot_be_made(tmp_path):
    """A path through a file is ``StorageUnavailable``, at start and at each upload."""
    (tmp_path / "file").write_bytes(b"")
    spool = Spool(tmp_path / "file" / "pics")
    with pytest.raises(StorageUnavailable):
        spool.sweep()
    with pytest.raises(StorageUnavailable):
        spool.open()


@pytest.mark.skipif(not HAS_UNNAMED, reason="no unnamed files here")
@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_filesystem_without_unnamed_files(tmp_path, monkeypatch, code):
    """The first refusal is remembered, and uploads get names from then on."""
    tries = []

    def unnamed(flags):
        asked = flags & os.O_TMPFILE == os.O_TMPFILE
        tries.append(asked)
        return asked

    spool = Spool(tmp_path)
    refuse(monkeypatch, code, when=unnamed)
    for _ in range(2):
        with spool.open() as upload:
            upload.write(b"x")
            assert bytes(upload.data()[:]) == b"x"
    assert tries == [True, False, False]


def test_name_that_cannot_be_removed_goes_at_close(tmp_path, monkeypatch):
    """If an open file keeps its name, the name is ours and goes with the upload."""
    spool = Spool(tmp_path, unnamed=False)
    with monkeypatch.context() as patch:
        keep_names(patch)
        upload = spool.open()
    (name,) = names(tmp_path)
    assert name.startswith(PREFIX)
    assert Spool(tmp_path).sweep() == 0, "an upload under way was swept"
    upload.close()
    assert names(tmp_path) == []


def test_filesystem_without_locks(tmp_path, monkeypatch):
    """Uploads go on without locks, and a sweep then leaves everything alone."""

    def no_locks(*args):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", no_locks)
    (tmp_path / LEFTOVER).write_bytes(b"x")
    spool = Spool(tmp_path, unnamed=False)
    with spool.open() as upload:
        upload.write(b"x")
    assert spool.sweep() == 0
    assert names(tmp_path) == [LEFTOVER]


def test_sweep_makes_the_folder(tmp_path):
    """A missing folder is made at start, with the parents it needs."""
    spool = Spool(tmp_path / "a" / "b" / "pics")
    assert spool.sweep() == 0
    assert names(spool.folder) == []


def test_constructor_touches_nothing(tmp_path):
    """Making a spool makes no folder."""
    Spool(tmp_path / "pics")
    assert names(tmp_path) == []


def test_sweep_removes_leftovers_and_nothing_else(tmp_path):
    """Only our own naming goes: not a user's files, nor look-alikes."""
    (tmp_path / LEFTOVER).write_bytes(b"left by a crash")
    others = ["holiday.jpg", ".gitkeep", PREFIX + "notes.txt", "old-" + LEFTOVER]
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    assert Spool(tmp_path).sweep() == 1
    assert names(tmp_path) == sorted(others)


def test_sweep_follows_and_removes_no_odd_entries(tmp_path):
    """A link, a folder or a pipe of our naming is left alone, and nothing hangs."""
    target = tmp_path / "holiday.jpg"
    target.write_bytes(b"mine")
    odd = [PREFIX + digit * 32 for digit in "123"]
    (tmp_path / odd[0]).symlink_to(target)
    (tmp_path / odd[1]).mkdir()
    os.mkfifo(tmp_path / odd[2])
    assert Spool(tmp_path).sweep() == 0
    assert names(tmp_path) == sorted([target.name, *odd])
    assert target.read_bytes() == b"mine"


def test_sweep_survives_a_file_that_stays(tmp_path, monkeypatch):
    """A leftover that cannot be removed is not counted and stops nothing."""
    (tmp_path / LEFTOVER).write_bytes(b"x")
    keep_names(monkeypatch)
    assert Spool(tmp_path).sweep() == 0


def test_uploads_of_many_threads_do_not_mix(spool):
    """Each thread reads back its own bytes, even while the folder is being made."""

    def one(number):
        content = str(number).encode() * 1000
        with spool.open() as upload:
            upload.write(content)
            return bytes(upload.data()[:]) == content

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(64)))
    assert names(spool.folder) == []


def test_form_parser_writes_into_it(spool):
    """Werkzeug's parser takes an upload as the stream of a file part."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="../x.jpg"\r\n'
        b"\r\n" + b"\xff\xd8" * 100_000 + b"\r\n--b--\r\n"
    )
    parser = FormDataParser(stream_factory=lambda *a, **k: spool.open())
    _, _, files = parser.parse(
        BytesIO(body), "multipart/form-data", len(body), {"boundary": "b"}
    )
    with files["file"].stream as upload:
        assert isinstance(upload, Upload)
        assert upload.data()[:] == b"\xff\xd8" * 100_000
    assert names(spool.folder) == []
