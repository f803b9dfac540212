"""What a request may ask for beyond the contract."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import BadRequest, UnknownLabel
from modelserver.tasks.options import NAMES, Options, read_options


def test_a_request_that_asks_for_nothing_gets_the_contract():
    """No field, and blank fields, leave everything as it is."""
    assert read_options({}) == Options()
    assert read_options({name: ["", " "] for name in NAMES}) == Options()


def test_each_option_is_read():
    """As form fields come: text, labels repeated or in one list."""
    options = read_options(
        {
            "min_confidence": ["0.25"],
            "labels": ["Dog, cat", "Bird"],
            "max_results": ["7"],
            "coordinates": ["Pixel"],
            "top_k": ["3"],
            "other": ["passed over"],
        }
    )
    assert options == Options(0.25, frozenset({"dog", "cat", "bird"}), 7, True, 3)
    assert options.wants("DOG")
    assert not options.wants("horse")


def test_without_labels_every_label_is_wanted():
    """A list of nothing but commas is no list."""
    assert read_options({"labels": [" , ,"]}).wants("anything")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_confidence", "1.5"),
        ("min_confidence", "-0.1"),
        ("min_confidence", "nan"),
        ("min_confidence", "half"),
        ("max_results", "0"),
        ("max_results", "-1"),
        ("max_results", "1.5"),
        ("max_results", "10001"),
        ("max_results", "9" * 5000),
        ("max_results", "10000" * 2),
        ("max_results", "0000001000000"),
        ("max_results", "0" * 9),
        ("top_k", "٣"),
        ("top_k", "all"),
        ("coordinates", "pixels, please"),
    ],
)
def test_a_value_that_is_not_allowed_is_named(name, value):
    """The sentence says which field, what it was and what is allowed."""
    with pytest.raises(BadRequest) as caught:
        read_options({name: [value]})
    assert str(caught.value).startswith(f"{name} must be ")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["10000", "007", "0000000000000007"])
def test_zeros_before_a_number_say_nothing(text):
    """However many there are."""
    assert read_options({"top_k": [text]}).top_k == int(text)


def test_a_field_with_two_values_is_refused_and_with_two_equal_ones_is_not():
    """Which of the two was meant, nobody can tell."""
    assert read_options({"top_k": ["2", " 2"]}).top_k == 2
    with pytest.raises(BadRequest, match="more than once"):
        read_options({"top_k": ["2", "3"]})


@given(
    st.dictionaries(st.sampled_from(NAMES), st.lists(st.text(max_size=20), max_size=3))
)
def test_whatever_is_sent_is_read_or_refused_in_words(fields):
    """Nothing but a BadRequest leaves."""
    try:
        options = read_options(fields)
    except BadRequest:
        return
    assert options.min_confidence is None or 0 <= options.min_confidence <= 1
    assert options.max_results is None or options.max_results >= 1


KNOWN = ("tench, Tinca tinca", "Dog", "cat", "a", "a, b", "b,c ,d")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (["tench, Tinca tinca"], {"tench, tinca tinca"}),
        (["TENCH,tinca  tinca"], None),
        (["TENCH,tinca tinca"], {"tench, tinca tinca"}),
        (["dog,cat"], {"dog", "cat"}),
        (["dog, tench, Tinca tinca , cat"], {"dog", "tench, tinca tinca", "cat"}),
        (["dog", "tench, Tinca tinca"], {"dog", "tench, tinca tinca"}),
        (["a, b"], {"a, b"}),
        (["a, b, c, d"], None),
        (["a", "b, c, d"], {"a", "b,c ,d"}),
        (["a,,dog,"], {"a", "dog"}),
        (["horse"], None),
    ],
)
def test_labels_may_hold_commas(values, wanted):
    """The longest that is a label wins; what is none is an error."""
    options = read_options({"labels": values})
    if wanted is None:
        with pytest.raises(UnknownLabel):
            options.among(KNOWN)
        return
    found = options.among(KNOWN)
    assert found.labels == wanted
    for label in KNOWN:
        assert found.wants(label) == (label.casefold() in wanted)


@pytest.mark.parametrize("known", ["Caf\u00e9", "Cafe\u0301"])
@pytest.mark.parametrize("asked", ["caf\u00e9", "CAFE\u0301"])
def test_an_accent_may_be_a_character_of_its_own(known, asked):
    """In the label map as in the request: both look the same."""
    found = read_options({"labels": [asked]}).among([known, "cafe"])
    assert found.wants(known)
    assert not found.wants("cafe")


def test_an_unknown_label_is_answered_with_the_nearest():
    """Also where there are very many, or the word is very long."""
    with pytest.raises(UnknownLabel, match=r"'dgo'.*nearest: Dog"):
        read_options({"labels": ["dgo"]}).among(KNOWN)
    with pytest.raises(UnknownLabel, match="/models/NAME/labels"):
        read_options({"labels": ["x" * 16_000]}).among(map(str, range(10_000)))


@given(
    st.lists(st.text(max_size=30), max_size=4),
    st.lists(st.text(min_size=1, max_size=9)),
)
def test_any_labels_can_be_asked_for(values, known):
    """They are found, or told to be unknown."""
    options = read_options({"labels": values})
    try:
        found = options.among(known).labels
    except UnknownLabel:
        return
    assert found is None or found <= {label.casefold() for label in known}


def test_each_label_can_be_asked_for_by_itself():
    """Whatever it holds."""
    for label in KNOWN:
        found = read_options({"labels": [label]}).among(KNOWN)
        assert [one for one in KNOWN if found.wants(one)] == [label]
