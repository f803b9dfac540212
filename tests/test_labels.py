"""Reading label maps, and where a classifier's outputs stand in them."""

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelserver.errors import LabelMapError
from modelserver.labels import (
    LabelMap,
    align,
    numbered,
    read_label_map,
    read_labels,
    read_labels_txt,
)

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "models.md").read_text()
SHARED = Path(
    os.environ.get("MODELSERVER_SHARED_DATA", ROOT.parent / "shared" / "data")
)


@pytest.fixture
def read(tmp_path):
    """Write text or bytes to x.pbtxt and read it as a label map."""

    def write_and_read(content, name="x.pbtxt"):
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return read_labels(tmp_path / name)

    return write_and_read


def test_a_class_has_its_name():
    """A class without one is told apart from every real label."""
    labels = LabelMap({1: "cat", 300: "dog"})
    assert [labels.name(n) for n in (1, 300, 2, -1)] == [
        *("cat", "dog", "unknown:2", "unknown:-1")
    ]


def test_without_a_label_map_the_id_is_the_name():
    """A model without a label map gives ids as labels."""
    assert read_labels(None) == numbered()
    assert numbered().name(17) == "17"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param('item { id: 1 name: "a" }', {1: "a"}, id="plain"),
        pytest.param('item: { id: 1, name: "a" };', {1: "a"}, id="colon and commas"),
        pytest.param("item < id: 1 name: 'a' >", {1: "a"}, id="angles, single quotes"),
        pytest.param("item{id:1name:'a'}", None, id="a number runs into a name"),
        pytest.param("item{name:'a'id:1}", {1: "a"}, id="no space at all"),
        pytest.param(
            "item [{id: 1 name: 'a'}, {id: 2 name: 'b'}]", {1: "a", 2: "b"}, id="a list"
        ),
        pytest.param("item{name:'a' 'b' \"c\" id:0x10}", {16: "abc"}, id="parts, hex"),
        pytest.param(
            r"item{id:1 name:'\\d\x41\101\u00e9\U0001F600'}",
            {1: "\\dAAé😀"},
            id="codes",
        ),
        pytest.param("item{id:1 name:'\\303\\251\\'\\n'}", {1: "é'\n"}, id="escapes"),
        pytest.param(
            "# item {\nitem { # }\nid: 1 name: '#}' }", {1: "#}"}, id="comments"
        ),
        pytest.param("item {\r\n id: 1\r\n name: 'a'\r\n}\r\n", {1: "a"}, id="CRLF"),
        pytest.param("# mac\ritem {\rid: 1\rname: 'a'\r}\r", {1: "a"}, id="CR"),
        pytest.param("\ufeffitem { id: 1 name: 'a' }", {1: "a"}, id="byte order mark"),
        pytest.param(
            "item{id:9 name:'i'} item{id:0 name:'o'}", {9: "i", 0: "o"}, id="gaps, id 0"
        ),
        pytest.param(
            "item{id:2147483647 name:'a'}", {2147483647: "a"}, id="largest id"
        ),
        pytest.param(
            "item{id:1 name:'a' display_name:'b'}", {1: "b"}, id="display name"
        ),
        pytest.param(
            "item{id:1 name:'a' display_name:''}", {1: "a"}, id="empty display name"
        ),
        pytest.param(
            "item{id:1 name:'a' display_name:' '}", {1: "a"}, id="blank display name"
        ),
        pytest.param(
            "item{id:1 name:'a'} item{id:2 name:'a'}",
            {1: "a", 2: "a"},
            id="a name twice",
        ),
        pytest.param(
            "item{id:1 name:'\x01\u2028'}", {1: "\x01\u2028"}, id="control characters"
        ),
    ],
)
def test_the_formats_spellings_are_read(read, text, names):
    """Everything that real files do in protobuf text gives the same names."""
    if names is None:
        with pytest.raises(LabelMapError):
            read(text)
        return
    labels = read(text)
    assert labels.names == names
    assert labels.warnings == ()


def test_every_field_of_the_format_is_known(read):
    """The fields that the server has no use for raise no warning."""
    labels = read("""
        item {
          name: "n" id: 1 display_name: "d"
          keypoints { id: 0 label: "nose" } keypoints: [{ id: 1 label: "ear" }]
          ancestor_ids: 2 ancestor_ids: [3, 4] descendant_ids: 5
          frequency: COMMON instance_count: 12
        }""")
    assert labels == LabelMap({1: "d"})


def test_unknown_fields_are_skipped_with_a_warning(read):
    """Each kind is named once, with its first line and how often it occurs."""
    labels = read(
        'item {\n id: 1\n dispcaway_name: "a"\n name: "b"\n}\n'
        "item {\n id: 2 name: 'c'\n dispcaway_name: item\n"
        " keypoints { x: [COMMON, 1] } \n}\n"
        "version { item { id: 9 more: 1 } list: [{}, <item{}>] }\n"
    )
    assert labels.names == {1: "b", 2: "c"}
    assert labels.warnings == (
        'x.pbtxt, line 3: the unknown field "dispcaway_name" of item is skipped (and 1 more such)',
        'x.pbtxt, line 9: the unknown field "x" of keypoints is skipped',
        'x.pbtxt, line 11: the unknown field "version" is skipped',
    )


def test_warnings_are_bounded(read):
    """A file full of odd things does not fill the log."""
    fields = " ".join(f"{'y' * 500}{n}: 1" for n in range(3))
    labels = read(
        f"item {{ id: 1 name: 'a' {' '.join(f'x{n}:1' for n in range(30))} }}"
    )
    assert len(labels.warnings) == 11
    assert labels.warnings[-1] == "x.pbtxt: and 20 more kinds of warnings"
    assert max(map(len, read(f"item {{ id: 1 name: 'a' {fields} }}").warnings)) < 200


def test_a_class_without_a_name_is_shown_by_its_id(read):
    """Neither name nor display_name: the id stands in, and the file is named."""
    labels = read("item { id: 7 }\nitem {\n id: 8 name: ' ' }")
    assert labels.names == {7: "7", 8: "8"}
    assert labels.warnings == (
        "x.pbtxt, line 1: no name is given, so the id is shown (and 1 more such)",
    )


def test_long_names_are_cut(read):
    """A name has at most 200 characters, and a cut one says so."""
    labels = read(
        f"item {{ id: 1 name: '{'é' * 200}' }}\nitem {{ id: 2 name: '{'x' * 9999}' }}"
    )
    assert labels.names == {1: "é" * 200, 2: "x" * 199 + "…"}
    assert labels.warnings == (
        "x.pbtxt, line 2: a name has more than 200 characters and is cut",
    )


GOOD = "item { id: 1 name: 'a' }\n"


@pytest.mark.parametrize(
    ("content", "line", "reason"),
    [
        ("\n\n <!DOCTYPE html>\n<html>item { id: 1 }", 3, "this is a web page"),
        ("<HTML>", 1, "this is a web page"),
        ("version https://git-lfs.github.com/spec/v1\noid", 1, "this is a git-LFS pointer"),
        ('{"1": "cat"}', 1, "this is JSON"),
        ("\ufeff\n[1]", 2, "this is JSON"),
        ('node {\n name: "x"\n}', 1, "this is a TensorFlow graph in text form"),
        ("# ids\nentry {\n target_class: 449\n}", 2, '"entry" is no field of a label map'),
        ("cat\ndog\n", 1, '"cat" is no field of a label map'),
        ("# nothing else", None, "there is no item"),
        ("items { item { id: 1 } }", 1, '"items" is no field of a label map'),
        ("", None, "the file is empty"),
        ("\ufeff\r\n ", None, "the file is empty"),
        (GOOD + "item {\n id: 2", 3, 'not valid protobuf text: Expected "}".'),
        (GOOD + "item { id: x }", 2, "not valid protobuf text: Couldn't parse integer: x"),
        (GOOD + "item { id: 1.5 }", 2, "not valid protobuf text"),
        (GOOD + "item { id: 2147483648 }", 2, "not valid protobuf text: Value out of range"),
        (GOOD + "item { id: 2 id: 3 }", 2, 'should not have multiple "id" fields'),
        (GOOD + "item { id: 2 name: 'a\n' }", 2, "String missing ending quote"),
        (GOOD + "item { id: 2 name: '\\xff' }", 2, "not valid protobuf text"),
        (GOOD + "item { id: 2 name: '\\ud800' }", 2, "not valid protobuf text"),
        (GOOD + "item { id: 2 name: 'C:\\\\cats\\dogs' }", 2, "the escape \\d is not known"),
        (GOOD + "item { id: 2 name: 'a\\u005Cd' }", 2, "the escape \\u005C is not known"),
        (GOOD + "item { id: 2 name: 'a\\400' }", 2, "the escape \\400 is not known"),
        (GOOD + "item { id: 2 frequency: DAILY }", 2, "not valid protobuf text"),
        (GOOD + "item { id: 2 x: @ }", None, "not valid protobuf text: Invalid field value"),
        (GOOD + "}", 2, "not valid protobuf text"),
        (GOOD + "item {\n name: 'b'\n}", 2, "this item has no id"),
        (GOOD + "\nitem {\n id: -1 }", 3, "the id -1 is below zero"),
        (GOOD + "\n" + GOOD, 3, "the id 1 is already that of the item in line 1"),
        (GOOD.encode() + b"# caf\xe9", 2, "this is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n", 1, "this is not UTF-8 text"),
        (GOOD.encode("utf-16"), 1, "this is UTF-16 text"),
        (GOOD + " " * 1024 * 1024, None, "the file is larger than 1 MiB"),
        ("item { }\n" * 10_001, 10_001, "there are more than 10000 items"),
        (GOOD + "x:1\n" * 10_001, 10_002, "there are more than 10000 unknown fields"),
        (GOOD + "x {" + "y:1\n" * 10_001, 10_001, "there are more than 10000 unknown fields"),
        (GOOD + ", " * 200_000, 2, "there are more than 200000 words"),
        (GOOD + "x {" * 5000, 2, "the brackets are nested too deep"),
        (GOOD + "\nx: " + "[" * 5000, 3, "the brackets are nested too deep"),
    ],
)  # fmt: skip
def test_what_is_no_label_map_is_refused(read, content, line, reason):
    """The error has the file, the line and a reason that docs/models.md explains."""
    with pytest.raises(LabelMapError) as caught:
        read(content)
    assert caught.value.line == line
    where = "x.pbtxt: " if line is None else f"x.pbtxt, line {line}: "
    assert str(caught.value).startswith(where)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400
    documented = re.findall(r"^\| (`.+?`) \|", DOCS, re.MULTILINE)
    phrases = re.findall(r"`(.+?)`", " ".join(documented))
    assert any(phrase in str(caught.value) for phrase in phrases)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    """A missing file, a folder and a FIFO give an error at once."""
    os.mkfifo(tmp_path / "fifo.pbtxt")
    for path, reason in [
        (tmp_path / "gone.pbtxt", "cannot be read: No such file"),
        (tmp_path, "this is not a file"),
        (tmp_path / "fifo.pbtxt", "this is not a file"),
    ]:
        with pytest.raises(LabelMapError, match=reason):
            read_label_map(path)


def test_the_largest_allowed_map_is_read(read):
    """10,000 items of three fields stay below every limit."""
    text = "".join(
        f"item {{ id: {n} name: 'n' display_name: 'd' }}\n" for n in range(10_000)
    )
    assert len(read(text).names) == 10_000


def test_plain_names_count_from_zero(read):
    """One name a line; blank lines at the end and space around names are dropped."""
    labels = read("\ufeffcat\r\n  dog, hound \r\n# fish\r\n\r\n\r\n", "x.labels.txt")
    assert labels == LabelMap({0: "cat", 1: "dog, hound", 2: "# fish"})


def test_blank_lines_between_plain_names_keep_their_number(read):
    """The names after a blank line stay right, and the line is named."""
    labels = read("\ncat\n\ndog", "x.labels.txt")
    assert labels.names == {0: "0", 1: "cat", 2: "2", 3: "dog"}
    assert labels.warnings == (
        "x.labels.txt, line 1: no name is given, so the id is shown (and 1 more such)",
    )


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", None, "the file is empty"),
        ("<!doctype html>", 1, "this is a web page"),
        ("version https://git-lfs.github.com/spec/v1", 1, "this is a git-LFS pointer"),
        ("\nitem {\n", 2, "this is protobuf text"),
        ("a\n" * 10_001, 10_001, "there are more than 10000 names"),
    ],
)
def test_what_is_no_list_of_names_is_refused(read, text, line, reason):
    """A labels.txt of another format is an error with its line where there is one."""
    with pytest.raises(LabelMapError, match=reason) as caught:
        read(text, "x.labels.txt")
    assert caught.value.line == line


def ids(*spans):
    """A label map with the ids of these spans, both ends in."""
    return LabelMap({n: str(n) for low, high in spans for n in range(low, high + 1)})


@pytest.mark.parametrize(
    ("labels", "outputs", "offset", "words"),
    [
        pytest.param(ids((0, 9)), 10, 0, "id 0", id="from 0"),
        pytest.param(ids((0, 1)), 10, 0, "8 of the 10 outputs", id="from 0, few"),
        pytest.param(ids((0, 0), (5, 8)), 10, 0, "5 of the 10", id="from 0, gaps"),
        pytest.param(ids((0, 0)), 1, 0, "id 0", id="one output"),
        pytest.param(ids((1, 10)), 10, 1, "output index +1", id="from 1"),
        pytest.param(ids((1, 3), (80, 90)), 90, 1, "76 of the 90", id="from 1, gaps"),
        pytest.param(ids((1, 1)), 1, 1, "count from 1", id="one output, from 1"),
        pytest.param(ids((1, 1000)), 1001, 0, "0 is a background class", id="background"),
        pytest.param(ids((5, 1000)), 1001, 0, "0 is a background", id="background, few"),
        pytest.param(ids((1, 1001)), 1001, 1, "count from 1", id="1001 from 1"),
        pytest.param(ids((1, 20)), 21, 0, "last output's index", id="highest is last"),
        pytest.param(numbered(), 5, 0, "no label map", id="no label map"),
    ],
)  # fmt: skip
def test_ids_tell_the_offset(labels, outputs, offset, words):
    """The rules for ids that fit the outputs are no guesses."""
    found = align(labels, outputs)
    assert found.offset == offset
    assert words in found.sentence
    assert not found.warning
    assert "label_offset" not in found.sentence


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        pytest.param(ids((1, 12)), 10, id="ids above the outputs"),
        pytest.param(ids((1, 8)), 10, id="too few ids"),
        pytest.param(ids((0, 10)), 10, id="from 0, one too many"),
        pytest.param(ids((0, 999)), 1001, id="all but the background"),
        pytest.param(ids((1000, 2000)), 10, id="none fits"),
    ],
)
def test_ids_that_do_not_fit_ask_for_the_sidecar(labels, outputs):
    """Without a rule the id is the output's index, which the warning calls a guess."""
    found = align(labels, outputs)
    assert (found.offset, found.warning) == (0, True)
    assert "a guess, set label_offset in the model's sidecar" in found.sentence


@pytest.mark.parametrize("override", [-1, 0, 1, 7])
def test_the_sidecars_offset_wins(override):
    """An offset that was given is never a guess, and its effect is told."""
    found = align(ids((0, 999)), 1001, override)
    assert (found.offset, found.warning) == (override, False)
    assert "label_offset in the sidecar" in found.sentence


@given(st.sets(st.integers(0, 40), min_size=1), st.integers(1, 40))
def test_an_offset_that_is_no_guess_reaches_every_label(label_ids, outputs):
    """Where no warning is given, each id of the label map is some output's."""
    found = align(LabelMap(dict.fromkeys(label_ids, "x")), outputs)
    if not found.warning:
        assert all(0 <= n - found.offset < outputs for n in label_ids)


def quoted(name):
    """A name as a protobuf string with every byte escaped that may need it."""
    plain = [chr(byte) if 32 <= byte < 127 and byte not in b"\"'\\" else f"\\{byte:03o}"
             for byte in name.encode()]  # fmt: skip
    return '"' + "".join(plain) + '"'


some_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(
    str.strip
)
spaces = st.sampled_from([" ", "\n", "\r\n", "\t", " # }{'\n", "\n\n"])


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 2**31 - 1), some_names, min_size=1), st.data())
def test_maps_come_back_as_they_were_written(names, data):
    """Any names under any ids survive being written and read."""
    text = ""
    for class_id, name in names.items():
        words = ["item", "{", f"id: {class_id}", f"name: {quoted(name)}", "}"]
        text += "".join(word + data.draw(spaces) for word in words)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.pbtxt"
        path.write_bytes(text.encode())
        assert read_label_map(path) == LabelMap(names)


words = """item item{ item: [ ] { } < > : , ; # id id:1 id:2 name: 'a' "b ' keypoints 1 - . +1
x x: x{ [a.b] [a.b/c] frequency:RARE é \u0661 \u0661item{ \\ \\x1 \\u005c \\N{ \\U00 \\7 77 \\? \\'"""
words = st.sampled_from([*words.split(), " ", "\n", "\r", "\x0b", "\x1c"])
likely = st.lists(words, max_size=30).map(lambda found: ("".join(found)).encode())
inside = likely.map(lambda data: b"item{id:7 " + data + b"}")


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), likely, inside))
@example("x:\u0661item{id:2}item{id:3}".encode())
@example("x:éitem{id:2}".encode())
@example(b"item{id:1 x{[a.b]{item{id:2}}}}")
@example(b"item{id:1 name:'\\\n'}")
def test_any_bytes_are_read_or_refused(data):
    """Whatever a file holds, the answer is names or a LabelMapError."""
    with TemporaryDirectory() as folder:
        for name in ("x.pbtxt", "x.labels.txt"):
            path = Path(folder) / name
            path.write_bytes(data)
            try:
                labels = read_labels(path)
            except LabelMapError as err:
                said = [str(err)]
                assert name in said[0]
            else:
                said = [*labels.names.values(), *labels.warnings]
                assert all(labels.names.values())
            " ".join(said).encode()


REAL = sorted(SHARED.glob("**/*.pbtxt")) if SHARED.is_dir() else []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_real_label_maps_are_read_or_refused_rightly(path):
    """Files from the wild that are present beside the repository, if there are any."""
    refused = {"BAD_html": (7, "web page"), "imagenet_2012": (3, '"entry" is no field')}
    for start, (line, reason) in refused.items():
        if path.name.startswith(start):
            with pytest.raises(LabelMapError, match=reason) as caught:
                read_label_map(path)
            assert caught.value.line == line
            return
    labels = read_label_map(path)
    assert len(labels.names) == len(re.findall(rb"(?m)^\s*item\b", path.read_bytes()))
    odd = ["mscoco_complete_label_map.pbtxt"] if labels.warnings else []
    assert odd == [path.name] * len(labels.warnings)


def test_plain_reading_is_chosen_by_name(tmp_path):
    """Only *.labels.txt is read as plain text."""
    path = tmp_path / "x.labels.txt"
    path.write_text("cat")
    assert read_labels(path) == read_labels_txt(path)
    with pytest.raises(LabelMapError):
        read_label_map(path)
