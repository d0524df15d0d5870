"""guest/proxies.py: which request goes where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import ConfigError
from guest.proxies import Proxies

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("", "http://a.example/", False),
        ("*", "http://a.example/", True),
        ("example", "http://a.example/", True),
        (".example", "http://a.example/", True),
        ("*.example", "http://a.example/", True),
        ("a.example", "http://A.Example./", True),
        ("ample", "http://a.example/", False),
        ("b.example, a.example", "http://a.example/", True),
        ("b.example a.example", "http://a.example/", True),
        ("a.example:80", "http://a.example/", True),
        ("a.example:8080", "http://a.example/", False),
        ("a.example:443", "https://a.example/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.1.2.3", "http://10.1.2.3:8080/", True),
        ("10.1.2.3:81", "http://10.1.2.3:8080/", False),
        ("::1", "http://[::1]:8080/", True),
        ("[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080/", True),
        ("[::1]:8081", "http://[::1]:8080/", False),
        ("fd00::/8", "http://[fd00::5]/", True),
        ("10.example", "http://10.1.2.3/", False),
        (",. ,", "http://a.example/", False),
    ],
)
def test_a_host_is_excepted_as_no_proxy_says(no_proxy: str, url: str, is_direct: bool) -> None:
    found = Proxies(https=PROXY, http=PROXY, no_proxy=no_proxy).for_url(url)
    assert found == (None if is_direct else PROXY)


def test_each_scheme_has_its_proxy() -> None:
    proxies = Proxies(https="http://s:1", http="h:2")
    assert proxies.for_url("https://x/") == "http://s:1"
    assert proxies.for_url("http://x/") == "http://h:2"
    assert Proxies().for_url("http://x/") is None


def test_the_usual_variables_are_read_lower_case_first() -> None:
    found = Proxies.from_variables(
        {"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1", "ALL_PROXY": "http://c:1"}
    )
    assert found == Proxies(https="http://b:1", http="http://c:1", no_proxy="")
    assert Proxies.from_variables({"NO_PROXY": "x", "http_proxy": ""}) == Proxies(no_proxy="x")


@pytest.mark.parametrize(
    "proxy", ["socks5://h:1", "http://", "http://h:x", "http://h:0", "http://["]
)
def test_a_proxy_that_could_never_be_used_is_a_configuration_error(proxy: str) -> None:
    with pytest.raises(ConfigError):
        Proxies(https=proxy).verify()
    with pytest.raises(ConfigError):
        Proxies.from_variables({"HTTP_PROXY": proxy})


@given(
    st.text(max_size=30), st.sampled_from(["http://a.b/", "https://[::1]:1/", "http://1.2.3.4/"])
)
def test_any_exception_list_gives_an_answer(no_proxy: str, url: str) -> None:
    assert Proxies(https=PROXY, http=PROXY, no_proxy=no_proxy).for_url(url) in {None, PROXY}
