"""Logging to standard error: one line per event, as text or as JSON.

Levels follow the filter syntax of `RUST_LOG`: `level` or `target=level`, separated by commas.

Source: docs/spec/attestation-agent.md 1.5 and 1.6, docs/spec/confidential-data-hub.md 2.6.
"""

import logging
import os
import re
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, TextIO

import msgspec

from guest import correlation
from guest.errors import ConfigError, DecodeError

TRACE: Final = 5
OFF: Final = logging.CRITICAL + 10

LEVELS: Final = {
    "off": OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
    "0": OFF,
    "1": logging.ERROR,
    "2": logging.WARNING,
    "3": logging.INFO,
    "4": logging.DEBUG,
    "5": TRACE,
}

TARGETS: Final = {
    "attester": "attestation_agent.attesters",
    "confidential_data_hub": "cdh",
    "grpc_aa": "attestation_agent",
    "grpc_cdh": "cdh",
    "image_rs": "image_pull",
    "kbs_protocol": "guest.kbs",
    "ttrpc": "guest.ttrpc",
    "ttrpc_aa": "attestation_agent",
    "ttrpc_cdh": "cdh",
}
"""Upstream's module names to ours; a target that is not here names a logger as it is."""

QUIET: Final = ("asyncio", "aiohttp", "grpc", "urllib3", "botocore")
"""Libraries that speak at warning and above, unless a directive names them."""

MAX_VALUE_LENGTH: Final = 4096
"""Longest value of one `extra` in a line, in characters; a traceback is cut at its start."""

_TARGET: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_:.\-]*", re.ASCII)
_PLAIN: Final = re.compile(r"[!#-<>-~]+", re.ASCII)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_PRIORITY: Final = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class LogFormat(StrEnum):
    """What a line looks like."""

    TEXT = "text"
    JSON = "json"


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The `[log]` table of a configuration file.

    Attributes:
        level: filter directives; `RUST_LOG` beats them.
        format: `text` or `json`.
    """

    level: str = "info"
    format: LogFormat = LogFormat.TEXT


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What a filter text says.

    Attributes:
        level: for every logger that no target names.
        targets: logger names with their levels, in the order given.
    """

    level: int
    targets: tuple[tuple[str, int], ...] = ()


def parse_filter(text: str) -> Filter:
    """Read filter directives; an empty text means errors only, as in the original.

    Raises:
        DecodeError: a directive is neither a level nor `target=level` nor a target.
    """
    level: int | None = None
    targets: list[tuple[str, int]] = []
    for directive in (part.strip() for part in text.split(",")):
        if not directive:
            continue
        target, mark, word = directive.partition("=")
        if not mark and target.lower() in LEVELS:
            level = LEVELS[target.lower()]
            continue
        if not _TARGET.fullmatch(target) or (mark and word.lower() not in LEVELS):
            raise DecodeError(f"no log directive: {directive[:80]!r}")
        targets.append((_logger_name(target), LEVELS[word.lower()] if mark else TRACE))
    return Filter(level=logging.ERROR if level is None else level, targets=tuple(targets))


def _logger_name(target: str) -> str:
    crate, mark, rest = target.partition("::")
    return TARGETS.get(crate, crate) + (f".{rest.replace('::', '.')}" if mark else "")


class ServiceHandler(logging.StreamHandler[TextIO]):
    """Writes lines, and knows the filter that was set up with it.

    Attributes:
        chosen: the filter in force.
    """

    def __init__(self, stream: TextIO, chosen: Filter) -> None:
        super().__init__(stream)
        self.chosen = chosen


def is_journal(variable: str | None) -> bool:
    """Whether standard error leads to systemd's journal.

    Args:
        variable: `JOURNAL_STREAM`, `<device>:<inode>`; a child may have inherited it and write
            elsewhere.
    """
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return variable == f"{found.st_dev}:{found.st_ino}"


def configure(
    level: str,
    *,
    rust_log: str | None = None,
    json: bool | None = None,
    journal: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Set up the root logger; may be called again, and replaces what it set up.

    Args:
        level: filter directives of the configuration.
        rust_log: the environment's `RUST_LOG`; set, even if empty, it replaces `level`.
        json: JSON lines instead of text.
        journal: lines start with the `<n>` priority that systemd's journal reads.
        stream: where to; standard error by default.

    Raises:
        ConfigError: `RUST_LOG is present but invalid` or `Invalid log level: <text>`.
    """
    try:
        chosen = parse_filter(level if rust_log is None else rust_log)
    except DecodeError as error:
        text = f"Invalid log level: {level}" if rust_log is None else None
        raise ConfigError(text or "RUST_LOG is present but invalid") from error
    handler = ServiceHandler(stream or sys.stderr, chosen)
    handler.setFormatter(JsonFormatter() if json else TextFormatter(journal=journal))
    logging.raiseExceptions = False
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, ServiceHandler)]:
        root.removeHandler(old)
        for name, _ in old.chosen.targets:
            logging.getLogger(name).setLevel(logging.NOTSET)
    root.addHandler(handler)
    root.setLevel(chosen.level)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, chosen.level))
    for name, number in chosen.targets:
        logging.getLogger(name).setLevel(number)


def _level_word(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    if number >= logging.INFO:
        return "info"
    return "debug" if number >= logging.DEBUG else "trace"


def _extras(record: logging.LogRecord) -> dict[str, object]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    identity = correlation.current()
    if identity is not None:
        fields.setdefault("request", identity)
    return {name: _bounded(value) for name, value in fields.items()}


def _bounded(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    return str(value)[-MAX_VALUE_LENGTH:]


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds")[: -len("+00:00")] + "Z"


class TextFormatter(logging.Formatter):
    """`<time> <LEVEL> <logger>: <message> key=value ...`, one line whatever the values are."""

    def __init__(self, *, journal: bool = False) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        level = _level_word(record.levelno).upper()
        message = " ".join(record.getMessage().split())
        parts = [f"{level:<5} {record.name}: {message}"]
        parts += [f"{name}={_shown(value)}" for name, value in _extras(record).items()]
        line = " ".join(parts)
        if not self._journal:
            return f"{_moment(record)} {line}"
        number = next((n for at, n in _PRIORITY.items() if record.levelno >= at), 7)
        return f"<{number}>{line}"


class JsonFormatter(logging.Formatter):
    """One JSON object: `time`, `level`, `logger`, `message`, and the extras beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """One line without its end."""
        fields = _extras(record) | {
            "time": _moment(record),
            "level": _level_word(record.levelno),
            "logger": record.name,
            "message": record.getMessage(),
        }
        return msgspec.json.encode(fields).decode()


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) else msgspec.json.encode(text).decode()
