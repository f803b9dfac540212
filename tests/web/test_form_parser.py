"""Forms as some clients write them, in any pieces, and what their boundary is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartError, ParserLimitReached

from modelserver.web.form_parser import FormParser, boundaries, choose, tidied

EDGE = b"edge"
HEADS = [
    b'Content-Disposition: form-data; name="file"; filename="a.jpg"',
    b"Content-Type: image/jpeg",
]
BODIES = st.one_of(
    st.binary(max_size=80).map(lambda data: data.rstrip(b"\r")),
    st.sampled_from(
        [b"", b"\n", b"\n\n", b"x\r\n-", b"\r\n--edg", b"--edge", b"a\n--e"]
    ),
)


def form(bodies, line_end=b"\r\n", heads=HEADS):
    """Return a form with a part for each body."""
    parts = [
        line_end.join([b"--" + EDGE, *heads, b"", body + line_end]) for body in bodies
    ]
    return b"".join([*parts, b"--" + EDGE + b"--", line_end])


def read(pieces, boundary=EDGE, **options):
    """Return the name of each part and its bytes."""
    pieces = iter(pieces)
    first = next(pieces)
    found = []
    with FormParser(boundary, 64, **options) as parser:
        for piece in tidied(pieces, boundary, first):
            for event in parser.parse(piece):
                if event is None:
                    continue
                if isinstance(event, bytes | bytearray):
                    found[-1][1] += event
                else:
                    found.append([event.name, bytearray()])
    return [(name, bytes(body)) for name, body in found]


@given(
    bodies=st.lists(BODIES, max_size=3),
    line_end=st.sampled_from([b"\n", b"\r\n"]),
    cuts=st.lists(st.integers(80, 600), max_size=8),
    before=st.sampled_from([b"", b"\n", b"\r\n", b" ", b"\xef\xbb\xbf"]),
)
def test_bytes_of_parts_stay_whatever_ends_the_lines(bodies, line_end, cuts, before):
    """A form of LF alone, in any pieces, has the parts of the usual one."""
    data = before + form(bodies, line_end)
    ends = [0, *sorted({cut for cut in cuts if cut < len(data) - 3}), len(data)]
    pieces = [data[at:end] for at, end in itertools.pairwise(ends)]
    assert read(pieces) == [("file", body) for body in bodies]


def test_the_usual_form_is_not_touched():
    """What is as the standard has it is passed on, the same objects."""
    pieces = [form([b"one", b"two"]), b"more"]
    assert list(tidied(iter(pieces[1:]), EDGE, pieces[0])) == pieces
    stranger = b"nothing of a form"
    assert list(tidied(iter(()), EDGE, stranger)) == [stranger]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_head_may_go_on_in_the_next_line(line_end):
    """As mail's libraries fold long ones."""
    folded = [b"Content-Disposition: form-data;", b' name="file";', b"\tfilename=x"]
    assert read([form([b"x"], line_end, folded)]) == [("file", b"x")]


@pytest.mark.parametrize("length", [b"", b"1", b"1 ", b"-1", b"99", b"x"])
def test_a_part_ends_at_its_boundary_whatever_length_it_claims(length):
    """Other servers pass over the length in a part's head."""
    heads = [*HEADS, b"content-length: " + length]
    assert read([form([b"abc"], heads=heads)]) == [("file", b"abc")]


def test_a_parts_name_counts_and_not_its_dispositions_word():
    """Mail's libraries write ``attachment``."""
    heads = [b'Content-Disposition: attachment; name="file"; filename="a.jpg"']
    assert read([form([b"x"], heads=heads)]) == [("file", b"x")]


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ([b"Content-Type: image/jpeg"], "Missing Content-Disposition"),
        ([b"Content-Disposition: form-data"], "Missing name"),
        ([b" folded at once"], "continuation"),
        ([b"no colon"], "Malformed"),
    ],
)
def test_a_part_without_a_name_is_refused(heads, words):
    """So is a head that is none."""
    with pytest.raises(MultipartError, match=words):
        read([form([b"x"], heads=heads)])


def test_a_line_without_an_end_is_not_kept_for_ever():
    """A head's line is bounded in a form of LF alone, too."""
    data = form([b"x"], b"\n", [b"X: " + b"y" * 20_000])
    with pytest.raises(ParserLimitReached):
        read([data[at : at + 1000] for at in range(0, len(data), 1000)])


@pytest.mark.parametrize("cut", [1, 5, 40, 90])
def test_a_form_of_lf_alone_that_is_cut_off_is_refused(cut):
    """As any other."""
    with pytest.raises(MultipartError, match="Unexpected end"):
        read([form([b"x" * 30], b"\n")[: -cut - 7]])


@pytest.mark.parametrize(
    ("written", "boundary"),
    [
        ("; boundary=edge", b"edge"),
        (";boundary=edge;", b"edge"),
        (';boundary="edge"', b"edge"),
        (";\tBoundary = edge ; charset=utf-8", b"edge"),
        ("; boundary='edge'", b"edge"),
        ("; boundary=----=_Part_1_2.3", b"----=_Part_1_2.3"),
        ("; boundary=a'()+_,-./:=?b", b"a'()+_,-./:=?b"),
        ("; boundary==_Next", b"=_Next"),
        ("; boundary={1-2}", b"{1-2}"),
        ("; boundary=two words", b"two words"),
        ("; boundary=edge more", b"edge"),
        ("; boundary=edge, multipart/form-data; boundary=edge", b"edge"),
        ('; boundary="a;b"', b"a;b"),
        ("; boundary=\xe9", b"\xe9"),
    ],
)
def test_a_boundary_is_the_one_that_the_form_has(written, boundary):
    """With the quotes that it needs, other ones, or none."""
    found = boundaries("multipart/form-data" + written)
    for start in (b"--" + boundary + b"\r\n", b"x\n--" + boundary + b" \n"):
        assert choose(found, start) == boundary


@pytest.mark.parametrize("written", ["", "; boundary", "; boundary=", '; boundary=""'])
def test_a_boundary_may_be_missing(written):
    """Then there is none to choose."""
    assert boundaries("multipart/form-data" + written) == []


def test_few_boundaries_of_many_are_looked_for():
    """Each costs a search, and no client has more than one."""
    many = "".join(f"; boundary='{number}'" for number in range(300))
    assert len(boundaries("multipart/form-data" + many)) < 10


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("; filename*=UTF-8''%E7%8C%AB.jpg", "\N{CJK UNIFIED IDEOGRAPH-732B}.jpg"),
        ("; filename*=iso-8859-1''caf%E9.jpg", "caf\u00e9.jpg"),
        ('; filename*0="long"; filename*1=".jpg"', "long.jpg"),
        ("; filename*=no-such''a.jpg", "a.jpg"),
        ("; filename=\"a.jpg\"; filename*=utf-8''b.jpg", "a.jpg"),
        ("; note=*", None),
        (";" * 3000 + "; filename*=a.jpg", None),
    ],
)
def test_a_files_name_may_be_written_at_length(written, name):
    """With its encoding, or in pieces; a plain one goes first."""
    line = b"Content-Disposition: form-data; name=file" + written.encode()
    with FormParser(EDGE, 64) as parser:
        part, *_ = parser.parse(form([b"x"], heads=[line]))
    found = part.filename and part.filename.encode("latin-1").decode()
    assert found == name
