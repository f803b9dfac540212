"""Lists of host names and of origins, as operators write them."""

import pytest

from modelserver.core.errors import SettingError
from support.app_client import make_settings


def test_nothing_is_listed_by_default():
    """Empty lists mean the careful default."""
    settings = make_settings()
    assert (settings.trusted_hosts, settings.cors_origins) == ((), ())


def test_lists_are_parted_by_commas():
    """Lists are read in any case and with any spaces."""
    settings = make_settings(
        TRUSTED_HOSTS=" A.example, .Lab.example ,[::1],10.0.0.1,",
        CORS_ORIGINS="https://A.example , http://localhost:3000,http://[::1]:80",
    )
    assert settings.trusted_hosts == ("a.example", ".lab.example", "::1", "10.0.0.1")
    assert settings.cors_origins == (
        "https://a.example",
        "http://localhost:3000",
        "http://[::1]:80",
    )
    assert make_settings(CORS_ORIGINS="*").cors_origins == ("*",)


@pytest.mark.parametrize("text", ["a:5000", "http://a", "*", "a b", "a,b/c", "."])
def test_what_is_no_host_stops_the_start(text):
    """An invalid host stops the start with the allowed form."""
    with pytest.raises(SettingError, match="without ports"):
        make_settings(TRUSTED_HOSTS=text)


@pytest.mark.parametrize(
    "text",
    ["a.example", "https://a/", "*,https://a", "https://*.a", "null", "https://a b"],
)
def test_what_is_no_origin_stops_the_start(text):
    """An invalid origin, with a final slash too, stops the start."""
    with pytest.raises(SettingError, match="origins such as"):
        make_settings(CORS_ORIGINS=text)
