"""Bytes on the REST shim's socket, cut in two wherever chance has it."""

import asyncio
from typing import Any, cast

from aiohttp.base_protocol import BaseProtocol

from api_server_rest.app import MALFORMED, MAX_FIELDS, MAX_HEAD_LENGTH, MAX_TARGET_LENGTH, _Parser

SEEDS = (
    b"GET /cdh/resource/default/key/1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\n\r\nHEAD http://e/info HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"POST /aa/aael HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello" * 2,
    b"POST /aa/aael HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nUpgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)

_LOOP = cast("asyncio.AbstractEventLoop", object())


def _parse(*pieces: bytes) -> list[tuple[str, str]]:
    protocol = BaseProtocol(_LOOP)
    parser = _Parser(
        protocol,
        _LOOP,
        1 << 16,
        max_line_size=MAX_TARGET_LENGTH + 64,
        max_field_size=MAX_HEAD_LENGTH,
        max_headers=10 * MAX_FIELDS,
        auto_decompress=False,
    )
    protocol._parser = parser
    found: list[tuple[str, str]] = []
    for piece in pieces:
        messages: list[tuple[Any, Any]]
        messages, _, _ = parser.feed_data(piece)
        found += [(message.method, message.path) for message, _ in messages]
    return found


def one_input(data: bytes) -> None:
    """Nothing escapes, and the requests before the first malformed one do not depend on cuts."""
    whole = _parse(data)
    at = len(data) // 2
    cut = _parse(data[:at], data[at:])
    for found in (whole, cut):
        for _, path in found:
            assert path.startswith(MALFORMED) or "\0" not in path
    first = next((n for n, (_, path) in enumerate(whole) if path.startswith(MALFORMED)), len(whole))
    assert whole[:first] == cut[:first]
