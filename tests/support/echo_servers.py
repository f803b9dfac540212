"""A real server with one echoing detector."""

from contextlib import contextmanager

from support import tiny_graphs
from support.servers import started


@contextmanager
def echoing(tmp_path_factory, model="m", labels=None, **environ):
    """Start it, and give it once it answers; it knows the folder of its uploads."""
    folder = tmp_path_factory.mktemp("models")
    uploads = tmp_path_factory.mktemp("pics")
    tiny_graphs.write(folder / f"{model}.frozen.pb", tiny_graphs.echo_detector())
    if labels is not None:
        (folder / f"{model}.label_map.pbtxt").write_text(labels)
    with started(
        "app.py",
        folder=folder,
        uploads=uploads,
        tmp_path=tmp_path_factory.mktemp("server"),
        **environ,
    ) as running:
        running.wait()
        running.uploads = uploads
        yield running
