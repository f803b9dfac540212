"""The few entries of an ELF file that say where it looks for libraries."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# From elf.h; 64-bit, little-endian, as TensorFlow's wheels for Linux are.
_IDENT = b"\x7fELF\x02\x01"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_NEEDED, _STRTAB, _STRSZ, _SONAME, _RPATH, _RUNPATH = 1, 5, 10, 14, 15, 29
_HEADER = struct.Struct("<32xQ14xHH")  # e_phoff, e_phentsize, e_phnum
_SEGMENT = struct.Struct("<I4xQQ8xQ16x")  # type, offset, vaddr, size in the file
_ENTRY = struct.Struct("<qQ")
# A dynamic section has some fifty entries; TensorFlow's string table has 13 MB.
_MOST_SEGMENTS, _MOST_DYNAMIC, _MOST_STRINGS = 256, 1 << 20, 1 << 28


class Dynamic(NamedTuple):
    """The dynamic section of a library.

    Attributes:
        soname: the library's own name; empty for none.
        needed: the libraries that are loaded with it.
        rpath: folders that go before ``LD_LIBRARY_PATH``; none if there is a
            ``runpath``, as the loader has it.
        runpath: folders that go after it.
    """

    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]


def read_dynamic(path: Path) -> Dynamic:
    """Read a library's dynamic section; ``$ORIGIN`` is replaced by its folder.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not a 64-bit little-endian ELF file, or broken.
    """
    with path.open("rb") as file:
        try:
            words = list(_words(file))
        except (struct.error, OverflowError, OSError) as error:
            raise ValueError(f"{path.name} is cut off or broken") from error
    named = {
        tag: [text for kind, text in words if kind == tag]
        for tag in (_NEEDED, _SONAME, _RPATH, _RUNPATH)
    }
    origin = str(path.parent)
    runpath = _folders(named[_RUNPATH], origin)
    return Dynamic(
        soname="".join(named[_SONAME][:1]),
        needed=tuple(named[_NEEDED]),
        rpath=() if runpath else _folders(named[_RPATH], origin),
        runpath=runpath,
    )


def _folders(texts: list[str], origin: str) -> tuple[str, ...]:
    """Split search paths; TensorFlow's has each folder a hundred times."""
    folders = (folder for text in texts for folder in text.split(":") if folder)
    expanded = (
        folder.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
        for folder in folders
    )
    return tuple(dict.fromkeys(expanded))


def _words(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield the dynamic section's tags that name a string, with that string."""
    segments = list(_segments(file))
    entries = list(_entries(file, segments))
    values = dict(reversed(entries))
    if _STRTAB not in values:
        return
    start = _offset(values[_STRTAB], segments)
    size = min(values.get(_STRSZ, 0), _MOST_STRINGS)
    for tag, value in entries:
        if tag in {_NEEDED, _SONAME, _RPATH, _RUNPATH} and value < size:
            yield tag, _string(file, start + value, size - value)


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int, int]]:
    """Yield each segment's type, offset, address and size in the file."""
    head = file.read(64)
    if not head.startswith(_IDENT):
        raise ValueError("this is no 64-bit little-endian ELF file")
    start, step, count = _HEADER.unpack_from(head)
    if step < _SEGMENT.size or count > _MOST_SEGMENTS:
        raise ValueError("its program headers make no sense")
    file.seek(start)
    table = file.read(step * count)
    for number in range(count):
        kind, offset, address, size = _SEGMENT.unpack_from(table, number * step)
        yield kind, offset, address, size


def _entries(
    file: BinaryIO, segments: list[tuple[int, int, int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the dynamic section's entries up to the one that ends it."""
    for kind, offset, _, size in segments:
        if kind == _PT_DYNAMIC:
            file.seek(offset)
            data = file.read(min(size, _MOST_DYNAMIC))
            whole = len(data) // _ENTRY.size * _ENTRY.size
            for tag, value in _ENTRY.iter_unpack(data[:whole]):
                if tag == 0:
                    return
                yield tag, value


def _offset(address: int, segments: list[tuple[int, int, int, int]]) -> int:
    for kind, offset, first, size in segments:
        if kind == _PT_LOAD and first <= address < first + size:
            return address - first + offset
    raise ValueError("its string table is in no segment")


def _string(file: BinaryIO, offset: int, limit: int) -> str:
    """Read up to a zero byte; a search path of TensorFlow's has 30 kB."""
    file.seek(offset)
    data = b""
    while b"\0" not in data and len(data) < limit:
        chunk = file.read(min(1 << 16, limit - len(data)))
        if not chunk:
            break
        data += chunk
    return data.partition(b"\0")[0].decode("utf-8", "replace")
