"""The kernel's command line and `aa_kbc_params`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.cmdline import OFFLINE, CommandLine, KbcParams, find_kbc_params
from guest.errors import DecodeError


def test_tokens_are_split_at_white_space_and_the_first_equals_sign() -> None:
    line = CommandLine.parse("quiet a=1 b=x=y\tc=\na=2\n")
    assert line.pairs == (("a", "1"), ("b", "x=y"), ("c", ""), ("a", "2"))
    assert (line.first("a"), line.last("a"), line.first("quiet")) == ("1", "2", None)


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("cc_kbc::http://10.0.0.1:8080", "cc_kbc", "http://10.0.0.1:8080"),
        ("offline_fs_kbc::null", "offline_fs_kbc", "null"),
        ("cc_kbc::http://[::1]:8080", "cc_kbc", "http://[::1]:8080"),
        ("cc_kbc::", "cc_kbc", ""),
    ],
)
def test_parameters_are_split_at_the_first_double_colon(text: str, name: str, url: str) -> None:
    assert KbcParams.parse(text) == KbcParams(name=name, url=url)


@pytest.mark.parametrize("text", ["cc_kbc", "", "cc_kbc:http"])
def test_parameters_without_a_double_colon_are_refused(text: str) -> None:
    with pytest.raises(DecodeError, match=f"^illegal aa_kbc_params format: {text}$"):
        KbcParams.parse(text)


def test_the_environment_beats_the_command_line_and_offline_is_the_last_resort() -> None:
    line = CommandLine.parse("agent.aa_kbc_params=cc_kbc::http://a agent.aa_kbc_params=x::y")
    assert find_kbc_params(None, line).url == "http://a"
    assert find_kbc_params("cc_kbc::http://b", line).url == "http://b"
    assert find_kbc_params(None, CommandLine.parse("")) == OFFLINE
    with pytest.raises(DecodeError):
        find_kbc_params("", line)


@given(st.text(max_size=100))
def test_any_text_is_a_command_line(text: str) -> None:
    for key, value in CommandLine.parse(text).pairs:
        assert CommandLine.parse(f"{key}={value}").first(key) == value
