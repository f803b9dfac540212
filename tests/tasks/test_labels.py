"""Reading label maps, and where a classifier's outputs stand in them."""

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelserver.core.errors import LabelMapError
from modelserver.tasks.labels import LabelMap, align, numbered, read_labels

ROOT = Path(__file__).parents[2]
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
        ("\ufeff\n[1]", None, "no list of class names: '1' is no name"),
        ('{"1": "cat",\n "2" "dog"}', 2, "no list of class names"),
        ('{"1": "a",\n"1": "b"}', 2, "'1' is there twice"),
        ('{"cat": 1,\n"dog": 1}', 2, "the id 1 is already that of 'cat'"),
        ('["a",\n " "]', 2, "has an empty name"),
        ("{}", None, "holds no class name"),
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
        (GOOD.encode("utf-16")[:-1], 1, "this is broken UTF-16 text"),
        (GOOD + " " * 1024 * 1024, None, "the file is larger than 1 MiB"),
        ("item { }\n" * 10_001, 10_001, "there are more than 10000 items"),
        (GOOD + "x:1\n" * 10_001, 10_002, "there are more than 10000 unknown fields"),
        (GOOD + "x {" + "y:1\n" * 10_001, 10_001, "there are more than 10000 unknown fields"),
        (GOOD + ", " * 200_000, 2, "there are more than 200000 words"),
        ("item { id: 1 name: " + "'a' " * 66_667, 1, "there are more than 200000 words"),
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
            read_labels(path)


def test_the_largest_allowed_map_is_read(read):
    """10,000 items of three fields stay below every limit."""
    text = "".join(
        f"item {{ id: {n} name: 'n' display_name: 'd' }}\n" for n in range(10_000)
    )
    assert len(read(text).names) == 10_000


def test_plain_names_count_from_zero(read):
    """Each line is a name; blank lines at the end and space around names are dropped."""
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
        ("\nitem {\n", 2, "not valid protobuf text"),
        ("0 a\n1 b\n1 c", 3, "the id 1 is already that of line 2"),
        ("a\n" * 10_001, 10_001, "there are more than 10000 names"),
    ],
)
def test_what_is_no_list_of_names_is_refused(read, text, line, reason):
    """A labels.txt of another format is an error with its line where there is one."""
    with pytest.raises(LabelMapError, match=reason) as caught:
        read(text, "x.labels.txt")
    assert caught.value.line == line


CAT_DOG = {0: "cat", 1: "dog"}
NUMBERED = {
    "space": ("0 cat\n1 dog", CAT_DOG),
    "spaces": ("0  cat\n1   dog", CAT_DOG),
    "colon": ("0:cat\n1:dog", CAT_DOG),
    "colon and space": ("0: cat\n1: dog\n\n", CAT_DOG),
    "comma": ("0,cat\n1,dog", CAT_DOG),
    "tab": ("0\tcat\n1\tdog", CAT_DOG),
    "dot": ("0. cat\n1. dog", CAT_DOG),
    "bracket": ("0) cat\n1) dog", CAT_DOG),
    "dash": ("0 - cat\n1 - dog", CAT_DOG),
    "equals": ("0=cat\n1=dog", CAT_DOG),
    "from 1": ("1 cat\n2 dog", {1: "cat", 2: "dog"}),
    "gaps": ("1 cat\n2 dog\n4 cow", {1: "cat", 2: "dog", 4: "cow"}),
    "blank lines": ("0 cat\n\n1 dog", CAT_DOG),
    "numbers in names": ("0 Class 1\n1 Class 2", {0: "Class 1", 1: "Class 2"}),
    "digits": ("0 0\n1 1\n2 2", {0: "0", 1: "1", 2: "2"}),
    "commas in names": (
        "0:tench, Tinca tinca\n1:goldfish",
        {0: "tench, Tinca tinca", 1: "goldfish"},
    ),
    "quoted names": ('0,"cat"\n1,"dog"', CAT_DOG),
    "zeros before": ("000 cat\n001 dog", CAT_DOG),
    "at the end": ("cat,0\ndog,1", CAT_DOG),
    "at the end, tab": ("cat\t0\ndog\t1", CAT_DOG),
    "header": ("id,name\n0,cat\n1,dog", CAT_DOG),
    "header, tab": ("class id \t name\n0\tcat\n1\tdog", CAT_DOG),
    "header, at the end": ("label,index\ncat,0\ndog,1", CAT_DOG),
    "comments": ("# our labels\n0 cat\n1 dog", CAT_DOG),
    "another order": ("0 a\n1 b\n10 k\n2 c\n3 d\n4 e\n5 f\n6 g\n7 h\n8 i\n9 j",
                      {n: "abcdefghijk"[n] for n in range(11)}),
    "one": ("0 cat", {0: "cat"}),
    "UTF-16": ("0 cat\r\n1 dog\r\n".encode("utf-16"), CAT_DOG),
}  # fmt: skip


def test_a_row_of_spaces_that_is_no_header_is_read_in_no_time(read):
    """A pattern that parts spaces in many ways would try them all for hours."""
    text = "id" + "\t" * 40_000 + " " * 40_000 + "!\ncat"
    assert read(text, "x.labels.txt").names[1] == "cat"


@pytest.mark.parametrize("case", NUMBERED)
def test_numbers_before_names_are_ids(read, case):
    """Any separator parts a number from its name, and "0 cat" is never a name."""
    text, names = NUMBERED[case]
    assert read(text, "x.labels.txt").names == names


@pytest.mark.parametrize(
    "text",
    [
        "10 rupees\n20 rupees\n50 rupees",
        "1 rupee\n2 rupees\n5 rupees",
        "1 person\n2 people\n3 people",
        "1 class\n2 classes",
        "1 euro\n2 euro\n1 cent\n2 cent",
        "2 door\n4 wheel",
        "0 cat\n1 dog\nfish",
        "0 cat\n1 dog\n100 fish",
        "1 cat",
        "7 segments",
        "Boeing 737\nBoeing 747",
        "Type 1\nType 2",
        "1.5 mm\n2.5 mm",
        "0\n1\n2",
    ],
)
def test_numbers_that_are_no_ids_are_part_of_the_names(read, text):
    """Coins, counts and types keep their whole name."""
    names = read(text, "x.labels.txt").names
    assert names == dict(enumerate(text.split("\n")))


def test_cocos_numbered_names_keep_their_gaps(read):
    """COCO has 80 of 90 ids, and ImageNet some names twice; all keep their ids."""
    gone = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    names = {n: f"thing {n}x" for n in range(1, 91) if n not in gone}
    text = "\n".join(f"{n} {name}" for n, name in names.items())
    assert read(text, "x.labels.txt").names == names
    names = {n: f"thing {n % 990}x" for n in range(1000)}
    text = "\n".join(f"{n}: {name}" for n, name in names.items())
    assert read(text, "x.labels.txt").names == names


PLAIN = {
    "quotes": ('"cat"\n"dog"', CAT_DOG),
    "commas and quotes": ('"cat",\n"dog",\n', CAT_DOG),
    "commas": ("cat,\ndog,\n", CAT_DOG),
    "single quotes": ("'cat'\n'dog'", CAT_DOG),
    "WordNet": ("n02123045 cat\nn02084071 dog", CAT_DOG),
    "comment": ("// our labels\ncat\ndog", CAT_DOG),
    "not all quoted": ('"cat"\ndog', {0: '"cat"', 1: "dog"}),
    "signs": ("#\n!\n//", {0: "#", 1: "!", 2: "//"}),
}


@pytest.mark.parametrize("case", PLAIN)
def test_what_stands_around_every_name_is_dropped(read, case):
    """Marks around only some of the names are kept."""
    text, names = PLAIN[case]
    assert read(text, "x.labels.txt").names == names


JSON = {
    "list": '["cat", "dog"]',
    "by id": '{"0": "cat", "1": "dog"}',
    "by name": '{"cat": 0, "dog": 1}',
    "by name, as text": '{"cat": "0", "dog": "1"}',
    "Keras": '{"0": ["n02123045", "cat"], "1": ["n02084071", "dog"]}',
    "Teachable Machine": '{"labels": ["cat", "dog"], "imageSize": 224}',
    "Hugging Face": '{"id2label": {"0": "cat", "1": "dog"}}',
    "COCO": '{"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}',
    "objects": '[{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]',
    "many lines": '{\n  "0": "cat",\n  "1": "dog"\n}\n',
    "mark": '\ufeff["cat", "dog"]',
    "Python's dict": "{0: 'cat', 1: 'dog'}",
    "Python's dict, by name": "{'cat': 0, 'dog': 1}",
    "Python's list": "['cat', 'dog']",
    "comma too many": '["cat", "dog",]',
}


@pytest.mark.parametrize("name", ["x.labels.txt", "x.pbtxt", "x.json", "labels.txt"])
@pytest.mark.parametrize("case", JSON)
def test_json_is_read_both_ways_round(read, case, name):
    """The file's name does not matter."""
    assert read(JSON[case], name).names == CAT_DOG


def test_a_list_without_numbers_counts_as_its_model_does(read, tmp_path):
    """A detector's 0 is the background."""
    assert read('["cat", "dog"]', "x.label_map.pbtxt").names == {1: "cat", 2: "dog"}
    path = tmp_path / "labels.txt"
    path.write_text("cat\ndog")
    assert read_labels(path, 1).names == {1: "cat", 2: "dog"}


def test_digits_by_their_names_are_no_ids(read):
    """Keras's class_indices of folders named by numbers keep those names."""
    assert read('{"1": 0, "2": 1}', "x.json").names == {0: "1", 1: "2"}


@pytest.mark.parametrize(
    "text",
    [
        "item { id : 1, name : 'cat', }",
        "item: { id: 1; name: 'cat' }",
        'item{id:1 name:"cat"} # cat',
        "item {\r\n  name: 'c'\r\n  id: 1\r\n  display_name: 'cat'\r\n}\r\n",
        "item [{ id: 1 name: 'cat' }]",
    ],
)
def test_odd_forms_of_protobuf_text_are_read(read, text):
    """Single quotes, spaces before colons, commas and lists are read."""
    assert read(text).names == {1: "cat"}


def test_a_hostile_list_is_read_in_time(read):
    """Long runs of space and nested brackets neither hang nor kill the reader."""
    for text in (
        "0" + " " * 500_000 + "x",
        "x" + " " * 500_000 + "1",
        "[" + "0," * 400_000 + "]",
        "[" * 300_000 + "]",
        "[" + "-" * 300_000 + "1]",
        "{" + "'a':1," * 9_000 + "}",
        "\n".join(["0 " * 100] * 5000),
    ):
        with suppress(LabelMapError):
            assert read(text, "x.labels.txt").names


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
    """Without a warning, each id of the label map is some output's."""
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
        assert read_labels(path) == LabelMap(names)


words = """item item{ item: [ ] { } < > : , ; # id id:1 id:2 name: 'a' "b ' keypoints 1 - . +1
x x: x{ [a.b] [a.b/c] frequency:RARE é \u0661 \u0661item{ \\ \\x1 \\u005c \\N{ \\U00 \\7 77 \\? \\'"""
words = st.sampled_from([*words.split(), " ", "\n", "\r", "\x0b", "\x1c"])
likely = st.lists(words, max_size=30).map(lambda found: ("".join(found)).encode())
inside = likely.map(lambda data: b"item{id:7 " + data + b"}")
lines = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["0", "1", "2", "3", "10", "", "#", "n00000001", '"']),
        st.sampled_from([" ", ":", ",", "\t", ". ", ") ", "", " - "]),
        st.sampled_from(["cat", "cats", "dog", "0", "", '"', "cat,1", "é"]),
    ),
    max_size=8,
).map(lambda found: "\n".join(found).encode())
values = st.recursive(
    st.one_of(st.integers(-1, 4), st.text(max_size=3), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["0", "1", "cat", "id", "name", "labels"]), inner
        ),
    ),
)
documents = st.one_of(
    values.map(json.dumps), values.map(repr), values.map(lambda one: repr(one) + ",]")
).map(str.encode)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=200), likely, inside, lines, documents))
@example("x:\u0661item{id:2}item{id:3}".encode())
@example("x:éitem{id:2}".encode())
@example(b"item{id:1 x{[a.b]{item{id:2}}}}")
@example(b"item{id:1 name:'\\\n'}")
def test_any_bytes_are_read_or_refused(data):
    """Any file gives names or a LabelMapError."""
    with TemporaryDirectory() as folder:
        for name in ("x.pbtxt", "x.labels.txt", "x.json"):
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
    """Files from the wild, if there are any next to the repository, are read or refused."""
    refused = {"BAD_html": (7, "web page"), "imagenet_2012": (3, '"entry" is no field')}
    for start, (line, reason) in refused.items():
        if path.name.startswith(start):
            with pytest.raises(LabelMapError, match=reason) as caught:
                read_labels(path)
            assert caught.value.line == line
            return
    labels = read_labels(path)
    assert len(labels.names) == len(re.findall(rb"(?m)^\s*item\b", path.read_bytes()))
    odd = ["mscoco_complete_label_map.pbtxt"] if labels.warnings else []
    assert odd == [path.name] * len(labels.warnings)


def test_what_a_file_holds_says_how_it_is_read(tmp_path):
    """The content decides, but a .pbtxt is never plain text, so that a wrong one is reported."""
    path = tmp_path / "x.labels.txt"
    path.write_text("cat")
    assert read_labels(path).names == {0: "cat"}
    path.write_text("item { id: 7 name: 'cat' }")
    assert read_labels(path).names == {7: "cat"}
    path.write_text('["cat"]')
    assert read_labels(path).names == {0: "cat"}
    path = tmp_path / "x.pbtxt"
    path.write_text("cat")
    with pytest.raises(LabelMapError, match='"cat" is no field of a label map'):
        read_labels(path)


@pytest.mark.parametrize("text", [r'["cat", "\ud83d"]', r'{"0": "cat", "1": "\udc08"}'])
def test_half_a_character_is_no_name(read, text):
    """JSON can write it; an answer that holds the name could not be sent."""
    with pytest.raises(LabelMapError, match="the id 1 has a name with half a char"):
        read(text, "x.labels.txt")
    assert read(r'["\ud83d\udc08"]', "x.labels.txt").names == {0: "🐈"}
