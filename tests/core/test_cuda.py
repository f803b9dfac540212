"""TensorFlow's needs for a card, read from files; there is no card and no CUDA here."""

import contextlib
import ctypes
import os
import re
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core import cuda
from modelserver.core.cuda.builds import Build
from modelserver.core.cuda.elf import read_dynamic

ROOT = Path(__file__).parents[2]
# What the pinned TensorFlow misses; the test below says when that is to be looked at.
PINNED, MISSED = "2.21.0", ("libcusolver.so.11",)
ABOVE = "$ORIGIN/../nvidia"
FOLDERS = {
    "libcudart.so.12": "cuda_runtime",
    "libnvJitLink.so.12": "nvjitlink",
    "libcublasLt.so.12": "cublas",
    "libcublas.so.12": "cublas",
    "libcufft.so.11": "cufft",
    "libcusparse.so.12": "cusparse",
    "libcusolver.so.11": "cusolver",
    "libcudnn.so.9": "cudnn",
}
INFO = """import collections
build_info = collections.OrderedDict([('cuda_compute_capabilities', ['sm_60', 'sm_80',
'compute_90']), ('cuda_version', '12.5.1'), ('is_cuda_build', True)])
"""


def library(soname="", needed=(), runpath="", rpath=""):
    """Return a library with a dynamic section only, which the loader takes."""
    strings, entries = b"\0", []

    def add(tag, text):
        nonlocal strings
        entries.append((tag, len(strings)))
        strings += text.encode() + b"\0"

    for name in needed:
        add(1, name)
    for tag, text in ((14, soname), (29, runpath), (15, rpath)):
        if text:
            add(tag, text)
    base, count = 64 + 2 * 56, len(entries) + 7
    symbols = base + 16 * count
    table = symbols + 24
    hashes = table + len(strings) + (-len(strings)) % 8
    entries += [(5, table), (10, len(strings)), (6, symbols), (11, 24), (4, hashes)]
    entries += [(0, 0), (0, 0)]
    end = hashes + 16
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    head += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, end, end, 4096)
    dynamic = struct.pack("<IIQQQQQQ", 2, 6, base, base, base, *[16 * count] * 2, 8)
    body = b"".join(struct.pack("<qQ", *entry) for entry in entries) + bytes(24)
    body += strings.ljust(hashes - table, b"\0") + struct.pack("<IIII", 1, 1, 0, 0)
    return head + load + dynamic + body


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """Yield the paths that are opened; the system has no library of CUDA."""
    paths = []
    real, close = ctypes.CDLL, ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]

    def cdll(name):
        if os.sep not in name:
            raise OSError(f"{name}: cannot open shared object file")
        close(real(name)._handle)
        paths.append(name)

    monkeypatch.setattr(ctypes, "CDLL", cdll)
    return paths


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Return a folder of packages with a complete CUDA build of TensorFlow."""
    runpath = ":".join(
        f"{ABOVE}/{entry}/lib" for entry in dict.fromkeys(FOLDERS.values())
    )
    write(tmp_path / "tensorflow" / "__init__.py", b"raise ImportError('imported')")
    write(tmp_path / "tensorflow/python/platform/build_info.py", INFO.encode())
    # The wheels have none, but then a CUDA build that is installed would be seen, too.
    write(tmp_path / "nvidia" / "__init__.py", b"")
    for name, folder in FOLDERS.items():
        write(tmp_path / "nvidia" / folder / "lib" / name, library(name))
    sparse = tmp_path / "nvidia/cusparse/lib/libcusparse.so.12"
    own = "$ORIGIN/../../nvjitlink/lib"
    write(sparse, library("libcusparse.so.12", ["libnvJitLink.so.12"], own))
    caller(tmp_path, runpath)
    for name in ("tensorflow", "nvidia"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return tmp_path


def write(path, data):
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def caller(site, runpath, **more):
    """Write the library of TensorFlow that opens the others."""
    made = library("libtensorflow_framework.so.2", runpath=runpath, **more)
    write(site / "tensorflow" / "libtensorflow_framework.so.2", made)


def without(*folders):
    """Return TensorFlow's RUNPATH, less some folders."""
    left = [entry for entry in dict.fromkeys(FOLDERS.values()) if entry not in folders]
    return ":".join(f"{ABOVE}/{entry}/lib" for entry in left)


def found(report):
    """Return how each of CUDA's libraries was found."""
    return {
        entry.name: entry.how for entry in report.libraries if entry.name in FOLDERS
    }


class TestTheLibraries:
    """Each library is looked for as the loader would."""

    def test_a_wheel_whose_runpath_has_all_needs_no_preload(self, site):
        """Nothing is opened if the RUNPATH has all, as 2.20's had."""
        report = cuda.preload()
        assert set(found(report).values()) == {"runpath"}
        assert report.opened == ()

    @pytest.mark.parametrize("missed", sorted({*FOLDERS} - {"libnvJitLink.so.12"}))
    def test_whatever_the_runpath_misses_is_opened_from_its_wheel(
        self, missed, site, opened
    ):
        """Any library outside the RUNPATH is opened, and no other."""
        caller(site, without(FOLDERS[missed]))
        report = cuda.preload()
        assert found(report)[missed] == "opened"
        same = {name for name, entry in FOLDERS.items() if entry == FOLDERS[missed]}
        assert set(report.opened) == same
        folder = str(site / "nvidia" / FOLDERS[missed] / "lib")
        assert opened == [f"{folder}/{name}" for name in FOLDERS if name in same]

    def test_what_another_library_opens_is_looked_for_from_there(self, site):
        """The RUNPATH of cuSPARSE counts for NVIDIA's linker."""
        caller(site, without("nvjitlink"))
        assert found(cuda.survey())["libnvJitLink.so.12"] == "runpath"
        sparse = site / "nvidia/cusparse/lib/libcusparse.so.12"
        write(sparse, library("libcusparse.so.12", ["libnvJitLink.so.12"]))
        assert found(cuda.survey())["libnvJitLink.so.12"] == "wheel"

    def test_nothing_is_imported(self, site):
        """TensorFlow is not imported: this one would fail."""
        cuda.check()
        assert "tensorflow" not in sys.modules

    def test_a_missing_library_is_named_with_its_package(self, site):
        """The operator reads which library and package are missing."""
        (site / "nvidia/cufft/lib/libcufft.so.11").unlink()
        report = cuda.survey()
        assert found(report)["libcufft.so.11"] == "missing"
        assert "libcufft.so.11 is missing" in report.sentence
        assert "nvidia-cufft-cu12" in report.sentence

    def test_a_broken_library_is_told_with_the_loaders_words(self, site):
        """A library that cannot be opened has the loader's words."""
        needs = ["libnowhere.so.7"]
        write(site / "nvidia/cufft/lib/libcufft.so.11", library("x", needs))
        report = cuda.check()
        assert found(report)["libcufft.so.11"] == "broken"
        assert "libnowhere.so.7" in report.sentence

    def test_another_cuda_in_the_search_path_does_not_mix_in(
        self, site, monkeypatch, tmp_path_factory
    ):
        """The wheel's library is opened before LD_LIBRARY_PATH's."""
        system = tmp_path_factory.mktemp("cuda")
        write(system / "libcublas.so.12", library("libcublas.so.12"))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(system))
        report = cuda.preload()
        assert report.opened == ("libcublas.so.12",)
        (cublas,) = [
            entry for entry in report.libraries if entry.name == "libcublas.so.12"
        ]
        assert cublas.path.startswith(str(site))
        assert str(system) in cublas.detail

    def test_the_search_path_does_where_no_wheel_has_it(
        self, site, monkeypatch, tmp_path_factory
    ):
        """A CUDA that was installed by hand is used."""
        system = tmp_path_factory.mktemp("cuda")
        (site / "nvidia/cufft/lib/libcufft.so.11").rename(system / "libcufft.so.11")
        monkeypatch.setenv("LD_LIBRARY_PATH", str(system))
        report = cuda.survey()
        assert found(report)["libcufft.so.11"] == "path"
        assert "libcufft" not in report.sentence

    def test_an_rpath_goes_before_the_search_path(self, site, monkeypatch):
        """An RPATH goes before LD_LIBRARY_PATH if there is no RUNPATH."""
        caller(site, "", rpath=without())
        monkeypatch.setenv("LD_LIBRARY_PATH", str(site / "nvidia/cufft/lib"))
        assert found(cuda.survey())["libcufft.so.11"] == "runpath"

    def test_a_build_for_the_cpu_is_told_as_such(self, site):
        """A build for the CPU is named, on a machine with a card."""
        info = site / "tensorflow/python/platform/build_info.py"
        info.write_text(INFO.replace("True", "False"))
        report = cuda.preload()
        assert report.libraries == ()
        assert "built for the CPU" in report.sentence
        assert "requirements.txt" in report.sentence

    def test_no_tensorflow_is_told_as_such(self, monkeypatch):
        """Nothing is opened if TensorFlow is not installed."""
        monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
        assert "not installed" in cuda.preload().sentence

    @pytest.mark.parametrize("info", ["", "build_info = 3", "build_info = f(g())", "("])
    def test_a_build_that_does_not_tell_is_looked_at_all_the_same(self, info, site):
        """Names are the wheels' if the build does not say."""
        (site / "tensorflow/python/platform/build_info.py").write_text(info)
        report = cuda.survey()
        assert not report.build.told
        assert found(report)["libcusolver.so.11"] == "runpath"


def test_the_preload_is_looked_at_again_with_each_tensorflow():
    """A release may have the whole RUNPATH again: then the preload goes.

    With this CUDA build installed the list is measured; else the pin tells. For a new
    release: `python -m modelserver doctor gpu` on its CUDA build lists what it misses.
    """
    (pinned,) = re.findall(
        r"^tensorflow\[and-cuda\]==([\w.]+)", (ROOT / "requirements-tensorflow-gpu.txt").read_text(),
        re.MULTILINE,
    )  # fmt: skip
    assert pinned == PINNED, "does the new release miss the same? then change PINNED"
    report = cuda.survey("")
    if report.build.cuda:
        missed = tuple(entry.name for entry in report.libraries if entry.how == "wheel")
        assert missed == MISSED, "if nothing is missed, the preload is to be dropped"


class TestTheBuild:
    """A build says which cards it has kernels for."""

    BUILD = Build(capabilities=("sm_60", "sm_70", "sm_80", "sm_89", "compute_90"))

    @pytest.mark.parametrize(
        ("capability", "kernels"),
        [
            ((3, 5), "none"),
            ((5, 2), "none"),
            ((6, 0), "ready"),
            ((6, 1), "ready"),
            ((7, 5), "ready"),
            ((8, 6), "ready"),
            ((9, 0), "compiled"),
            ((10, 0), "compiled"),
            ((12, 1), "compiled"),
        ],
    )
    def test_kernels_are_there_compiled_or_not(self, capability, kernels):
        """Machine code runs on its own generation, source on newer ones."""
        assert self.BUILD.kernels_for(capability) == kernels

    def test_a_build_that_tells_nothing_is_unknown(self):
        """No card is refused by a guess."""
        assert Build().kernels_for((5, 0)) == "unknown"

    def test_two_digits_before_the_last_are_a_generation(self):
        """Compute capability 12.0 is not 1.20."""
        assert Build(capabilities=("sm_120",)).kernels_for((12, 0)) == "ready"


class TestTheSearchPath:
    """Folders of a system's CUDA are taken out, and no others."""

    def test_a_toolkit_goes_and_the_rest_stays(self, tmp_path):
        """Other folders keep their order; an empty word is the current folder."""
        toolkit, mine = tmp_path / "cuda" / "lib64", tmp_path / "mine"
        write(toolkit / "libcudart.so.11.0", b"")
        write(mine / "libmine.so", b"")
        search = os.pathsep.join(map(str, (mine, toolkit, tmp_path / "none")))
        left, dropped = cuda.without_cuda(search)
        assert left == os.pathsep.join(map(str, (mine, tmp_path / "none")))
        assert dropped == [str(toolkit)]
        assert cuda.without_cuda("") == ("", [])

    def test_the_drivers_folder_stays(self, tmp_path):
        """The driver's folder stays, as WSL and containers need it."""
        write(tmp_path / "libcuda.so.1", b"")
        write(tmp_path / "libcudart.so.12", b"")
        assert cuda.without_cuda(str(tmp_path)) == (str(tmp_path), [])


class TestTheFiles:
    """Reading any file ends well."""

    def test_a_real_library_is_read(self):
        """A library of this Python is read."""
        import numpy as np

        path = next(Path(np.__file__).parent.rglob("_multiarray_umath*.so"))
        assert "libc.so.6" in read_dynamic(path).needed

    def test_each_folder_is_given_once(self, tmp_path):
        """Each folder comes once, though TensorFlow's RUNPATH repeats some."""
        path = tmp_path / "a.so"
        path.write_bytes(library("a", runpath="$ORIGIN/x:${ORIGIN}/x:/y:$ORIGIN/x"))
        assert read_dynamic(path).runpath == (f"{tmp_path}/x", "/y")
        assert read_dynamic(path).soname == "a"

    @given(st.data())
    def test_a_broken_one_is_an_error_of_value(self, tmp_path_factory, data):
        """Changed or cut files raise ValueError, and never hang."""
        whole = bytearray(library("a", ["b", "c"], "$ORIGIN/x"))
        for _ in range(data.draw(st.integers(0, 4))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(
                st.integers(0, 255)
            )
        path = tmp_path_factory.getbasetemp() / "broken.so"
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        with contextlib.suppress(ValueError):
            assert isinstance(read_dynamic(path).soname, str)
