"""Configuration files: formats, coercions, and errors that name file and key."""

import json
import logging
import os
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.config import decode_config, default_config, read_config, read_kernel_command_line
from guest.errors import ConfigError


class Colour(StrEnum):
    RED = "red"


class Mirror(msgspec.Struct, frozen=True, kw_only=True):
    location: str
    insecure: bool = False


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    count: int = 17
    on: bool = False
    share: float = 0.5
    colour: Colour = Colour.RED
    text: str | None = None
    where: Path = Path("/run")


class Outer(msgspec.Struct, frozen=True, kw_only=True):
    inner: Inner = Inner()
    optional: Inner | None = None
    names: tuple[str, ...] = ()
    mirrors: tuple[Mirror, ...] = ()
    named: dict[str, int] = {}
    search: tuple[str, ...] = msgspec.field(name="unqualified-search", default=("docker.io",))


def decode(text: str, name: str = "a.toml", *, strict: bool = False) -> Outer:
    return decode_config(text.encode(), name, Outer, strict=strict)


def test_an_empty_file_gives_the_defaults_in_every_format() -> None:
    assert {decode("", f"x.{end}") == Outer() for end in ("toml", "json", "yaml", "conf")} == {True}
    assert default_config(Outer) == Outer()


@pytest.mark.parametrize(
    ("written", "value"),
    [("'true'", True), ("'On'", True), ("'yes'", True), ("'1'", True), ("true", True),
     ("'false'", False), ("'OFF'", False), ("'no'", False), ("'0'", False)],
)  # fmt: skip
def test_a_string_is_taken_for_a_truth_value(written: str, value: bool) -> None:
    assert decode(f"[inner]\non = {written}").inner.on is value


def test_strings_are_taken_for_numbers_and_numbers_for_strings() -> None:
    text = "names = [1, true, 'x']\n[inner]\ncount = '16'\nshare = '0.25'\ntext = 5\n"
    outer = decode(text + "[named]\na = '-3'\n[[mirrors]]\nlocation = 9\ninsecure = 'yes'")
    assert outer.names == ("1", "true", "x")
    assert (outer.inner.count, outer.inner.share, outer.inner.text) == (16, 0.25, "5")
    assert outer.named == {"a": -3}
    assert outer.mirrors == (Mirror(location="9", insecure=True),)


def test_null_is_as_if_the_key_were_not_there() -> None:
    text = '{"optional": null, "inner": {"text": null, "count": null}, "mirrors": null}'
    assert decode(text, "a.json") == Outer()


def test_json_toml_and_yaml_give_the_same() -> None:
    toml = "unqualified-search = ['q']\n[optional]\nwhere = '/x'\ncount = 3\n"
    tree = {"unqualified-search": ["q"], "optional": {"where": "/x", "count": 3}}
    yaml = "unqualified-search: [q]\noptional:\n  where: /x\n  count: 3\n"
    documents = [decode(toml), decode(json.dumps(tree), "a.json"), decode(yaml, "a.yml")]
    assert documents == [Outer(optional=Inner(count=3, where=Path("/x")), search=("q",))] * 3


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.toml", "[inner]\ncount = 'many'", ["a.toml", "inner.count", "int"]),
        ("a.toml", "[inner]\ncount = true", ["a.toml", "inner.count", "int"]),
        ("a.toml", "[inner]\non = 1", ["a.toml", "inner.on"]),
        ("a.toml", "[inner]\non = 'maybe'", ["a.toml", "inner.on"]),
        ("a.toml", "[inner]\ncolour = 'blue'", ["a.toml", "inner.colour", "blue"]),
        ("a.toml", "[[mirrors]]\nlocation = ['x']", ["a.toml", "mirrors[0].location"]),
        ("a.toml", "[[mirrors]]\n", ['a.toml: missing configuration field "mirrors[0].location"']),
        ("a.toml", "inner = 3", ["a.toml", "inner"]),
        ("a.toml", "x = 1\ncount = = 3", ["a.toml", "line 2", "count"]),
        ("a.toml", "x = 1\nx = 2", ["a.toml", "line 2", "key x"]),
        ("a.toml", "x = '''", ["a.toml", "line 1"]),
        ("a.json", '{"a": 1,\n "b": }', ["a.json", "line 2"]),
        ("a.json", '{"inner": 1, "inner": 2}', ["a.json", "inner is given twice"]),
        ("a.json", '{"inner": NaN}', ["a.json", "NaN"]),
        ("a.json", "[1]", ["a.json", "not a table"]),
        ("a.json", "[" * 100_000, ["a.json", "nested too deeply"]),
        ("a.yaml", "a: 1\na: 2", ["a.yaml", "a is given twice"]),
        ("a.yaml", "a: &x [1]\nb: *x", ["a.yaml", "line", "aliases"]),
        ("a.yaml", "a: [\nb", ["a.yaml", "line 2"]),
        ("a.yaml", "a: !!python/object:os.system x", ["a.yaml"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(name: str, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text, name)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_text_that_is_not_utf8_names_the_line() -> None:
    with pytest.raises(ConfigError, match=r"a.toml: line 2: not UTF-8"):
        decode_config(b"x = 1\ny = '\xff'", "a.toml", Outer)


def test_an_unknown_key_is_one_warning_with_the_nearest_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert decode("[inner]\ncont = 3\n[nothing_like_it]\na = 1") == Outer()
    seen = [(vars(r)["key"], vars(r).get("nearest")) for r in caplog.records]
    assert seen == [("inner.cont", "inner.count"), ("nothing_like_it", None)]


def test_countless_unknown_keys_are_a_bounded_number_of_warnings(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        decode("\n".join(f"k{number} = 1" for number in range(1000)))
    assert len(caplog.records) == 21
    assert vars(caplog.records[-1])["count"] == 980


def test_an_unknown_key_is_refused_when_strict() -> None:
    with pytest.raises(ConfigError, match=r"a.toml: inner.cont: .*nearest known is inner.count"):
        decode("[inner]\ncont = 3", strict=True)


def test_the_extension_gives_the_format_and_others_are_sniffed(short_tmp: Path) -> None:
    (short_tmp / "a.conf").write_text("[inner]\ncount = 1")
    (short_tmp / "b").write_text('\ufeff \n {"inner": {"count": 2}}')
    assert read_config(short_tmp / "a.conf", Outer).inner.count == 1
    assert read_config(short_tmp / "b", Outer).inner.count == 2


def test_an_extension_is_appended_to_a_name_that_is_no_file(short_tmp: Path) -> None:
    (short_tmp / "a.json").write_text('{"inner": {"count": 1}}')
    assert read_config(short_tmp / "a", Outer).inner.count == 1
    (short_tmp / "a.toml").write_text("[inner]\ncount = 2")
    assert read_config(short_tmp / "a", Outer).inner.count == 2


def test_a_file_that_is_not_there_is_an_error_that_names_it(short_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=f'configuration file "{short_tmp}/none" not found'):
        read_config(short_tmp / "none", Outer)


def test_a_file_that_cannot_be_read_is_an_error_that_names_it(short_tmp: Path) -> None:
    path = short_tmp / "loop.toml"
    path.symlink_to(path)
    with pytest.raises(ConfigError, match=f"{path}: cannot be read"):
        read_config(path, Outer)


def test_a_huge_file_is_refused(short_tmp: Path) -> None:
    path = short_tmp / "a.toml"
    path.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="longer than"):
        read_config(path, Outer)


def test_the_kernel_command_line_is_empty_where_there_is_none(short_tmp: Path) -> None:
    assert read_kernel_command_line(short_tmp / "none") == ""
    (short_tmp / "cmdline").write_bytes(b"quiet a=\xff\n")
    assert read_kernel_command_line(short_tmp / "cmdline") == "quiet a=\ufffd\n"
    with pytest.raises(ConfigError, match="read kernel cmdline failed"):
        read_kernel_command_line(os.fspath(short_tmp))


@given(st.binary(max_size=200), st.sampled_from(["a.toml", "a.json", "a.yaml", "a"]))
def test_any_bytes_give_a_configuration_or_a_config_error(content: bytes, name: str) -> None:
    message = ""
    try:
        decode_config(content, name, Outer)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message
