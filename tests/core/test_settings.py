"""Settings: read once from the environment, checked, documented."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserver.core.errors import SettingError, StartError
from modelserver.core.settings import (
    SETTINGS,
    Flag,
    Number,
    Settings,
    is_loopback,
    markdown_table,
)

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"
WORDS = st.text(st.characters(blacklist_characters="\0"), max_size=30)


def read(**environ):
    """Settings from a few variables."""
    return Settings.from_environ(environ)


def test_the_contract_has_its_defaults():
    """An empty environment gives the five public defaults."""
    settings = read()
    assert settings.upload_folder == Path("pics")
    assert settings.model_folder == Path("models")
    assert (settings.debug, settings.port, settings.min_confidence) == (
        False,
        5000,
        0.8,
    )


def test_the_rest_is_safe_by_default():
    """By default only this machine gets in, and each model has its own process."""
    settings = read()
    assert (settings.host, settings.api_token) == ("127.0.0.1", "")
    assert (settings.allow_anonymous, settings.isolation) == (False, "process")
    assert (settings.slots, settings.max_batch, settings.threads) == (0, 0, 0)
    assert (settings.queue_length, settings.max_upload_mb) == (64, 32)
    assert settings.max_image_pixels == 25_000_000
    assert settings.max_header_pixels == 200_000_000
    assert (settings.score_floor, settings.log_format) == (0.01, "auto")


def test_every_field_has_a_variable():
    """The fields and the table name the same settings, in the same order."""
    assert [f.name for f in dataclasses.fields(Settings)] == [
        s.name.lower() for s in SETTINGS
    ]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_blank_means_default(setting):
    """A variable that is set to nothing, or to spaces, counts as unset."""
    assert read(**{setting.name: ""}) == read(**{setting.name: "  "}) == read()


def test_the_default_port_differs_by_app():
    """An app gives its own default port; PORT wins over it."""
    assert Settings.from_environ({}, port=5432).port == 5432
    assert Settings.from_environ({"PORT": " "}, port=5432).port == 5432
    assert Settings.from_environ({"PORT": "81"}, port=5432).port == 81


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes", "On", " on "])
def test_yes_in_many_words(word):
    """Yes may be said in the usual words, in any case."""
    assert read(DEBUG=word).debug is True


@pytest.mark.parametrize("word", ["false", "False", "0", "NO", "off"])
def test_no_in_many_words(word):
    """No may be said in the usual words, in any case."""
    assert read(FULL_DECODE=word).full_decode is False


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DEBUG", "maybe"),
        ("PORT", "-1"),
        ("PORT", "65536"),
        ("PORT", "50.5"),
        ("PORT", "http"),
        ("MIN_CONFIDENCE", "nan"),
        ("MIN_CONFIDENCE", "1.01"),
        ("MIN_CONFIDENCE", "-0.1"),
        ("MIN_CONFIDENCE", "80%"),
        ("SCORE_FLOOR", "inf"),
        ("ISOLATION", "thread"),
        ("LOG_FORMAT", "xml"),
        ("QUEUE_LENGTH", "0"),
        ("LOAD_TIMEOUT_S", "0"),
        ("HOST", "http://localhost"),
        ("HOST", "localhost:5000"),
        ("HOST", "two words"),
        ("HOST", "-.-"),
        ("HOST", "1:2"),
        ("TRUSTED_MODELS", "0123abcd"),
        ("TRUSTED_MODELS", "g" * 64),
        ("TRUSTED_MODELS", "a" * 64 + "b" * 64),
        ("TRUSTED_MODELS", "model.frozen.pb"),
    ],
)
def test_a_bad_value_stops_the_start(name, value):
    """The error names the variable, its value and the allowed ones."""
    with pytest.raises(SettingError) as caught:
        read(**{name: value})
    allowed = next(s.converter.allowed for s in SETTINGS if s.name == name)
    assert str(caught.value) == f"{name}={value!r} is not allowed: {allowed}"
    assert caught.value.name == name


def test_trusted_models_are_parted_by_commas_or_spaces():
    """Sums in small letters or capitals are read; each counts once."""
    first, second = "ab" * 32, "01" * 32
    trusted = read(
        TRUSTED_MODELS=f" {first.upper()}, {second},,{first} {second} "
    ).trusted_models
    assert trusted == (first, second)
    assert read().trusted_models == ()


@pytest.mark.parametrize("token", ["two words", "naïve", "line\nbreak", "tab\tbed"])
def test_a_bad_token_is_not_shown(token):
    """A token that no header can carry is refused without repeating it."""
    with pytest.raises(SettingError) as caught:
        read(API_TOKEN=token)
    assert token not in str(caught.value)
    assert "API_TOKEN='***'" in str(caught.value)


def test_the_token_is_not_in_the_repr():
    """Settings can be logged: their repr leaves the token out."""
    settings = read(API_TOKEN="s3cret")
    assert settings.api_token == "s3cret"
    assert "s3cret" not in repr(settings)


@given(environ=st.dictionaries(st.sampled_from([s.name for s in SETTINGS]), WORDS))
def test_any_text_is_read_or_refused_by_name(environ):
    """Any variables give settings or an error that names one."""
    try:
        settings = Settings.from_environ(environ)
    except SettingError as error:
        assert error.name in environ  # noqa: PT017 - both outcomes are right
    else:
        assert 0 <= settings.min_confidence <= 1
        assert 0 <= settings.port <= 65535


@given(number=st.integers())
def test_a_number_keeps_its_bounds(number):
    """A number is taken exactly when it lies between its bounds, both included."""
    convert = Number(int, -5, 5)
    if -5 <= number <= 5:
        assert convert(str(number)) == number
    else:
        with pytest.raises(ValueError):
            convert(str(number))


def test_numbers_may_be_grouped():
    """Long numbers may be written with underscores."""
    assert read(MAX_IMAGE_PIXELS="30_000_000").max_image_pixels == 30_000_000


def test_a_home_folder_is_found(monkeypatch):
    """A tilde means the home folder, also if no shell replaced it."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert read(MODEL_FOLDER="~/models").model_folder == Path("/home/ada/models")


@pytest.mark.parametrize("host", ["::", "[::]"])
def test_ipv6_with_and_without_brackets(host):
    """An IPv6 address may stand in brackets, which are not kept."""
    assert read(HOST=host, API_TOKEN="x").host == "::"


def test_pixel_limits_must_agree():
    """The limit by header may not be below the one after decoding; both are named."""
    with pytest.raises(SettingError, match=r"MAX_HEADER_PIXELS.*MAX_IMAGE_PIXELS"):
        read(MAX_HEADER_PIXELS="10", MAX_IMAGE_PIXELS="20")


def test_a_token_and_anonymous_clients_contradict():
    """A token and leave to do without are refused together; both are named."""
    with pytest.raises(SettingError, match=r"ALLOW_ANONYMOUS.*API_TOKEN"):
        read(API_TOKEN="x", ALLOW_ANONYMOUS="true")


LOCAL = ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"]
REMOTE = ["0.0.0.0", "::", "", "192.168.1.7", "box.lan", "::ffff:10.0.0.1", "127.1"]


def test_loopback_needs_no_token():
    """Addresses that only this machine reaches may be listened on as they are."""
    read().check_bind(LOCAL)
    read().check_bind([])


@pytest.mark.parametrize("host", REMOTE)
def test_other_addresses_need_leave(host):
    """Any other address is refused until there is a token or leave to do without."""
    with pytest.raises(StartError, match=r"API_TOKEN.*ALLOW_ANONYMOUS=true"):
        read().check_bind(["127.0.0.1", host])
    read(API_TOKEN="x").check_bind([host])
    read(ALLOW_ANONYMOUS="true").check_bind([host])


def test_loopback_is_told_from_the_rest():
    """is_loopback separates both lists."""
    assert all(map(is_loopback, LOCAL))
    assert not any(map(is_loopback, REMOTE))


def test_settings_cannot_be_changed():
    """Settings are frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().port = 1


def test_the_documentation_has_every_setting():
    """docs/settings.md holds the table that the code makes, word for word."""
    assert markdown_table() in DOCS.read_text(encoding="utf-8")


def test_the_table_says_name_default_allowed_and_sentence():
    """A row of the table has all an operator needs, the unit included."""
    row = next(r for r in markdown_table().splitlines() if "BATCH_DELAY_MS" in r)
    assert row == (
        "| `BATCH_DELAY_MS` | `0` | a number from 0 to 1000, in ms |"
        " How long a run waits for more images to join it. |"
    )


def test_what_a_flag_allows_is_what_it_takes():
    """Every word that the error offers is taken."""
    flag = Flag()
    words = flag.allowed.removeprefix("one of ").split(", ")
    assert {flag(word) for word in words} == {True, False}


def test_a_model_folder_of_odd_bytes_is_refused(tmp_path):
    """Its path goes through messages, which are text; spaces and signs are none."""
    for name in ("a b", "a\nb", "100%", "K\xe4se"):
        (tmp_path / name).mkdir()
        settings = Settings.from_environ({"MODEL_FOLDER": str(tmp_path / name)})
        settings.check_model_folder()
    settings = Settings.from_environ({"MODEL_FOLDER": f"{tmp_path}/a\udcff"})
    with pytest.raises(StartError, match=r"MODEL_FOLDER=.*no UTF-8: rename"):
        settings.check_model_folder()
