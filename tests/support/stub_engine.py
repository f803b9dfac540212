"""A stand-in for the engine's process: it answers doors with its process's id.

Started by the arbiter in place of the real one, with the same arguments. What happens
to it is reported on stdout. The variable ``ENGINE_FAULT`` names a file: if it says
``refuse``, the engine cannot start; if ``die``, it ends as soon as it has started.
"""

import contextlib
import os
import selectors
import signal
import socket
import sys
from pathlib import Path

from modelserver.core.errors import START_FAILED
from modelserver.core.messages.control import READY, RESCAN
from modelserver.core.process_limits import end_with_parent
from modelserver.core.refusals import Writer


def main(listening, page, control, *tasks):
    """Serve until the arbiter has closed its end, and the last door has gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    fault = Path(os.environ.get("ENGINE_FAULT", os.devnull))
    word = fault.read_text() if fault.exists() else ""
    if word == "refuse":
        sys.stderr.write("modelserver: The engine is broken.\n")
        raise SystemExit(START_FAILED)
    pulse = Writer(int(page))
    pulse.begin()
    report(f"engine {os.getpid()} {' '.join(tasks)}")
    if word == "die":
        raise SystemExit(1)
    listener = socket.socket(fileno=int(listening))
    with socket.socket(fileno=int(control)) as arbiter:
        arbiter.send(READY)
        serve(listener, arbiter, pulse)
    report("engine over")


def serve(listener, arbiter, pulse):
    """Answer every door that connects, and show life, until all have gone."""
    doors, over = 0, False
    with selectors.DefaultSelector() as poller:
        poller.register(listener, selectors.EVENT_READ)
        poller.register(arbiter, selectors.EVENT_READ)
        while doors or not over:
            pulse.beat()
            for key, _ in poller.select(1.0):
                if key.fileobj is listener:
                    door = listener.accept()[0]
                    with contextlib.suppress(BrokenPipeError):  # it died meanwhile
                        door.send(str(os.getpid()).encode())
                    poller.register(door, selectors.EVENT_READ)
                    doors += 1
                    continue
                said = b""
                with contextlib.suppress(ConnectionResetError):
                    said = key.fileobj.recv(100)
                if said == RESCAN:
                    report("rescan")
                elif not said:
                    poller.unregister(key.fileobj)
                    over |= key.fileobj is arbiter
                    doors -= key.fileobj is not arbiter
                    report(f"{doors} doors")


def report(line):
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
