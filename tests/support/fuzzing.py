"""What the fuzz targets of the key management services have in common."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from guest.errors import DecodeError, GuestError

Parser = Callable[[Mapping[str, object]], object]


def decode_answers(
    answers: Iterable[Callable[..., object]], statuses: Iterable[int], data: bytes, *more: str
) -> None:
    """Decode bytes as each answer: a value, or an error that is one printable line."""
    for answer in answers:
        for status in statuses:
            text = ""
            try:
                answer(status, data, *more)
            except GuestError as error:
                text = str(error)
            assert text.isprintable()
            assert len(text) < 1000


def parse_members(parsers: Iterable[Parser], data: bytes) -> None:
    """Parse bytes that are a JSON object: a value, or `DecodeError`."""
    try:
        members = json.loads(data)
    except (ValueError, RecursionError):
        return
    for parse in parsers if isinstance(members, dict) else ():
        with suppress(DecodeError):
            parse(members)
