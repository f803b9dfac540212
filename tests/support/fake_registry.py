"""Stand-ins for pip and npm, and archives as they would download them."""

import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

# Notes how it was called, then copies the archives to the folder after --dest or
# --pack-destination; or says what it is told to and fails.
CLIENT = """#!/bin/sh
echo "$@" >> "{here}/calls"
if [ -e "{here}/stderr" ]; then cat "{here}/stderr" >&2; exit 1; fi
while [ "$1" != --dest ] && [ "$1" != --pack-destination ]; do shift; done
cp "{here}"/archives/* "$2"
"""


class FakeRegistry:
    """One fake client for everything; ``folder`` holds it and its archives.

    The same program is pip (as the Python that runs ``-m pip``), npm, and node.
    """

    def __init__(self, folder):
        self.folder = folder
        (folder / "archives").mkdir(parents=True)
        self.program = folder / "npm"
        self.write_client(self.program)

    def write_client(self, path):
        """Write the program to ``path``."""
        path.write_text(CLIENT.format(here=self.folder))
        path.chmod(0o755)

    def patch(self, monkeypatch, *, npm=True):
        """Become the machine's pip and, unless it shall have none, npm."""
        monkeypatch.setattr(sys, "executable", str(self.program))
        tools = self.folder / "tools"
        tools.mkdir()
        for tool in ("cp", "cat", "sh"):
            (tools / tool).symlink_to(f"/bin/{tool}")
        path = [str(self.folder)] if npm else []
        monkeypatch.setenv("PATH", os.pathsep.join([*path, str(tools)]))

    def fail(self, stderr):
        """Fail from now on, with those words."""
        (self.folder / "stderr").write_text(stderr)

    def offer(self, name, data):
        """Have the client download an archive of that name."""
        (self.folder / "archives" / name).write_bytes(data)

    @property
    def calls(self):
        """The arguments of each call, in one line."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def wheel(files):
    """Return a zip of path to bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def tarball(files):
    """Return a gzipped tar of path to bytes; ``None`` makes a folder."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data or b"")
            entry.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            archive.addfile(entry, io.BytesIO(data or b""))
    return stream.getvalue()


def names(folder):
    """Return every file below ``folder``, by its path in it."""
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)
