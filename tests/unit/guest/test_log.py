"""Log filters and lines."""

import io
import json
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guest.errors import ConfigError, DecodeError
from guest.log import OFF, TRACE, Filter, configure, is_journal, parse_filter


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers, raising = root.level, root.handlers[:], logging.raiseExceptions
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
    logging.raiseExceptions = raising
    for name in ("probe", "asyncio", "aiohttp", "grpc", "urllib3", "botocore"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(level: str, *, as_json: bool = False, journal: bool = False) -> list[str]:
    stream = io.StringIO()
    configure(level, json=as_json, journal=journal, stream=stream)
    log = logging.getLogger("probe")
    log.debug("too fine")
    log.info("two\nlines %s", "here", extra={"uri": "kbs:///a/b/c", "text": 'a "b"\nc', "n": 0.5})
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    return stream.getvalue().splitlines()


def test_an_event_is_one_line_of_text_whatever_its_values() -> None:
    first, second = lines("info")
    assert first.endswith(
        ' INFO  probe: two lines here uri=kbs:///a/b/c text="a \\"b\\"\\nc" n=0.5'
    )
    assert ' ERROR probe: failed traceback="Traceback' in second
    assert first[10] == "T"
    assert first.split()[0].endswith("Z")


def test_an_event_is_one_json_object_when_asked() -> None:
    first, second = (json.loads(line) for line in lines("info", as_json=True))
    assert first["message"] == "two\nlines here"
    assert (first["level"], first["logger"], first["n"]) == ("info", "probe", 0.5)
    assert "ValueError: broken" in second["traceback"]


def test_the_journal_gets_priorities_and_no_time() -> None:
    first, second = lines("info", journal=True)
    assert first.startswith("<6>INFO  probe: two")
    assert second.startswith("<3>ERROR probe: failed")


def test_the_journal_is_told_from_what_merely_inherited_its_name() -> None:
    found = os.fstat(2)
    assert is_journal(f"{found.st_dev}:{found.st_ino}")
    assert not is_journal("1:2")
    assert not is_journal(None)


def test_a_target_has_a_level_of_its_own() -> None:
    assert next(line.split()[2:4] for line in lines("error,probe=debug")) == ["probe:", "too"]
    assert lines("off") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("info", Filter(level=logging.INFO)),
        ("WARN", Filter(level=logging.WARNING)),
        ("4", Filter(level=logging.DEBUG)),
        ("", Filter(level=logging.ERROR)),
        ("off", Filter(level=OFF)),
        ("debug,image_rs::pull=off", Filter(level=10, targets=(("image_pull.pull", OFF),))),
        ("cdh", Filter(level=logging.ERROR, targets=(("cdh", TRACE),))),
        ("unknown_crate::x=trace", Filter(level=40, targets=(("unknown_crate.x", TRACE),))),
    ],
)
def test_filters_are_read_as_the_original_reads_them(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["=info", "a=loud", "a b", "a=b=c", "info,="])
def test_a_filter_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"^Invalid log level: {text}$"):
        configure(text)
    with pytest.raises(ConfigError, match=r"^RUST_LOG is present but invalid$"):
        configure("info", rust_log=text)


def test_the_environment_beats_the_configuration_even_when_it_is_empty() -> None:
    configure("debug", rust_log="", stream=io.StringIO())
    assert logging.getLogger().level == logging.ERROR


@given(st.text(max_size=60))
def test_any_text_gives_a_filter_or_a_decode_error(text: str) -> None:
    try:
        assert parse_filter(text).level in range(OFF + 1)
    except DecodeError:
        pass
