"""Signs of NVIDIA cards on this system, found without the driver's libraries."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEV = Path("/dev")
_PROC = Path("/proc/driver/nvidia")
# WSL 2 shows the libraries of Windows's drivers there; NVIDIA's folder begins with nv.
_WSL_DRIVERS = Path("/usr/lib/wsl")
# Without these two no program reaches any card; WSL has one node for all.
_CONTROL, _UVM, _WSL = "nvidiactl", "nvidia-uvm", "dxg"
_CARD = re.compile(r"nvidia[0-9]+")


class Listed(NamedTuple):
    """A card that the driver lists in ``/proc``.

    Attributes:
        minor: the number of its node in ``/dev``.
        uuid: as ``CUDA_VISIBLE_DEVICES`` takes it; empty if the driver does not say.
        model: in words.
    """

    minor: int
    uuid: str
    model: str


def any_signs() -> bool:
    """Return whether an NVIDIA card shows: by a node in ``/dev``, or a driver.

    WSL 2 has its one node for cards of every make, so there the driver decides.
    """
    names = {path.name for path in device_nodes()}
    if names == {_WSL}:
        found = ("lib/libcuda.so.1", "drivers/nv*")
        return any(any(_WSL_DRIVERS.glob(name)) for name in found)
    return bool(names) or (_PROC / "version").exists()


def device_nodes() -> list[Path]:
    """Return the nodes by which programs reach cards."""
    try:
        names = sorted(path.name for path in _DEV.iterdir())
    except OSError:
        return []
    wanted = {_CONTROL, _UVM, _WSL}
    return [_DEV / name for name in names if name in wanted or _CARD.fullmatch(name)]


def list_cards() -> list[Listed]:
    """List the cards as the driver does in ``/proc``, in the order of their bus."""
    try:
        folders = sorted((_PROC / "gpus").iterdir())
    except OSError:
        return []
    return [card for folder in folders for card in _read_card(folder)]


def _read_card(folder: Path) -> Iterator[Listed]:
    try:
        text = (folder / "information").read_text("utf-8", "replace")
    except OSError:
        return
    facts = dict(re.findall(r"^([A-Za-z ]+?):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    minor, uuid = facts.get("Device Minor", ""), facts.get("GPU UUID", "")
    if re.fullmatch("[0-9]{1,4}", minor):
        known = uuid if re.fullmatch("GPU-[0-9a-f-]{36}", uuid) else ""
        yield Listed(int(minor), known, facts.get("Model", ""))


def hindrance() -> str:
    """Return why no program of this user reaches a card; empty if nothing is wrong.

    Each node is opened, as a device controller such as systemd's may refuse that in
    spite of the file's rights.
    """
    found = device_nodes()
    refused = [path.name for path in found if not opens(path)]
    if refused:
        return (
            f"/dev/{', /dev/'.join(refused)} cannot be opened by this user; under "
            "systemd the unit needs the drop-in for a GPU of deploy/, elsewhere the "
            "user needs the nodes' group (often video or render)."
        )
    names = {path.name for path in found}
    if _WSL in names:
        return ""
    if not found and (_PROC / "version").exists():
        return (
            "The NVIDIA driver is there, but no /dev/nvidia*: a container was not "
            "given its card (docker run --gpus all), or a unit hides it (deploy/)."
        )
    lost = [name for name in (_CONTROL, _UVM) if found and name not in names]
    if lost:
        return (
            f"/dev/{' and /dev/'.join(lost)} is not there; `nvidia-modprobe -c 0 -u`, "
            "as root, makes it, and nvidia-persistenced at each start."
        )
    return ""


def opens(path: Path) -> bool:
    """Return whether this process may open a node, which file rights do not tell."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        # A card that is busy or gone is another matter.
        return error.errno not in {errno.EACCES, errno.EPERM}
    return True
