"""Whatever bytes a model's files hold, only the declared errors come out."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserver.core.errors import GraphError, LabelMapError, SidecarError
from modelserver.core.signatures import read_sidecar
from modelserver.runner.graphs import read_checked_graph
from modelserver.tasks.labels import read_labels
from support import hostile_functions, hostile_models, hostile_tensors, tiny_graphs

GRAPHS = (
    tiny_graphs.echo_detector(),
    tiny_graphs.map_resizing_detector(),
    tiny_graphs.tensorflow_2_detector(),
    hostile_functions.deep(3),
    hostile_functions.mutual(),
    hostile_tensors.in_calls(),
    hostile_tensors.in_argument(hostile_tensors.shapes_of(3, -1)),
    *(make() for make in tiny_graphs.LEFTOVERS.values()),
)
LABEL_MAPS = (
    b'item {\n  id: 1\n  name: "cat"\n  display_name: "Cat"\n}\nitem { id: 2 }\n',
    b"# comment\nitem: < id: 1 name: 'a\\n\\303\\251' keypoints { id: 1 label: 'x' } >",
    b'\xef\xbb\xbfitem { id: 0 name: "x" frequency: RARE }\r\nitem{id:1 unknown: [1]}',
    hostile_models.label_maps()["labels_truncated"].data,
)
NAMES = (b"cat\ndog\n\n  bird \n", "caf\u00e9\r\nna\u00efve".encode())
SIDECARS = (
    b'{"input": "image:0", "size": [224, 224], "mean": 127.5, "scale": [1, 2, 3]}',
    b'{"outputs": {"boxes": "b:0", "scores": "s:0"}, "label_offset": 1}',
)


@st.composite
def mutations(draw, seeds):
    """One of some seeds with bytes changed, cut out, put in, doubled or cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        kind = draw(st.sampled_from(["set", "delete", "insert", "double", "cut"]))
        length = draw(st.integers(1, 16))
        if kind == "set":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif kind == "delete":
            del data[place : place + length]
        elif kind == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "double":
            data[place:place] = data[place : place + 8 * length]
        elif draw(st.integers(0, 9)) == 0:
            del data[place:]
    return bytes(data)


def assert_declared(read, name, data, error):
    """Read a file; nothing but its error may come out, in a printable line."""
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_graphs.write(Path(folder) / name, data)
        try:
            read(path)
        except error as refused:
            reason = str(refused)
            assert "\n" not in reason
            assert "\x1b" not in reason
            assert "\0" not in reason
            assert folder not in reason
            assert len(reason) < 1000


def check(kind, data):
    """Read a file of a kind."""
    read, name, error = {
        "graph": (read_checked_graph, "m.frozen.pb", GraphError),
        "labels": (read_labels, "m.label_map.pbtxt", LabelMapError),
        "names": (read_labels, "m.labels.txt", LabelMapError),
        "sidecar": (read_sidecar, "m.json", SidecarError),
    }[kind]
    assert_declared(read, name, data, error)


SEEDS = {"graph": GRAPHS, "labels": LABEL_MAPS, "names": NAMES, "sidecar": SIDECARS}
FILES = st.sampled_from(sorted(SEEDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), mutations(SEEDS[kind]))
)


@settings(deadline=None, max_examples=300, derandomize=True)
@given(FILES)
def test_a_changed_file_is_read_or_refused(file):
    """A little of what ``--slow`` does, the same in each run."""
    check(*file)


@pytest.mark.parametrize("kind", SEEDS)
def test_the_seeds_are_worth_changing(kind):
    """The first of each kind is sound, so its changes reach deep."""
    with tempfile.TemporaryDirectory() as folder:
        name = {"graph": "m.pb", "sidecar": "m.json", "names": "m.labels.txt"}
        path = Path(folder) / name.get(kind, "m.pbtxt")
        tiny_graphs.write(path, SEEDS[kind][0])
        if kind == "graph":
            assert read_checked_graph(path)
        elif kind == "sidecar":
            assert read_sidecar(path)
        else:
            assert len(read_labels(path).names) > 1


@pytest.mark.slow
@settings(deadline=None, max_examples=20_000)
@given(FILES)
def test_many_changed_files_are_read_or_refused(file):
    """Others in each run; Hypothesis keeps and prints what fails."""
    check(*file)
