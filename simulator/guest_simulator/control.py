"""Steers a server from another process: faults, counters, knobs, on `/_simulator/...`.

For benches and demos that run `guest-simulator up`; loopback only, no credentials.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Final

from guest_simulator.encoding import EncodingError, compact_json, parse_object
from guest_simulator.faults import Fault, Faults, Lie
from guest_simulator.reply import Reply
from guest_simulator.request_log import RequestLog
from guest_simulator.service import CONTROL_PREFIX, Incoming

BODY_LIMIT: Final = 1024 * 1024
JSON: Final = "application/json"


class Control:
    """The steering of one server.

    `GET stats` gives counters; `GET requests` the log; `DELETE requests` empties it;
    `POST faults` arms one (the fields of `Fault` as JSON, `body` as text); `DELETE faults`
    disarms all; `POST knobs` turns knobs (`{"token_seconds": 5}`).
    """

    def __init__(
        self,
        faults: Faults,
        requests: RequestLog,
        counters: Callable[[], Mapping[str, int]],
        knobs: Mapping[str, Callable[[float], None]],
    ) -> None:
        self._faults = faults
        self._requests = requests
        self._counters = counters
        self._knobs = knobs

    async def answer(self, request: Incoming) -> Reply:
        """Answer a request below `/_simulator/`."""
        body = await request.read(BODY_LIMIT)
        match request.method, request.path.removeprefix(CONTROL_PREFIX):
            case "GET", "stats":
                return _json({**self._counters(), "requests": len(self._requests)})
            case "GET", "requests":
                return _json([asdict(record) for record in self._requests])
            case "DELETE", "requests":
                self._requests.clear()
                return Reply()
            case "POST", "faults":
                return self._arm(body)
            case "DELETE", "faults":
                self._faults.clear()
                return Reply()
            case "POST", "knobs":
                return self._turn(body)
        return Reply(status=404)

    def _arm(self, body: bytes) -> Reply:
        try:
            fields = parse_object(body)
            if isinstance(fields.get("body"), str):
                fields["body"] = str(fields["body"]).encode()
            if "lie" in fields:
                fields["lie"] = Lie(str(fields["lie"]))
            self._faults.add(Fault(**fields))  # type: ignore[arg-type]  # a person's JSON
        except (EncodingError, TypeError, ValueError, re.error) as error:
            return _refusal(str(error))
        return Reply()

    def _turn(self, body: bytes) -> Reply:
        try:
            wanted = parse_object(body)
        except EncodingError as error:
            return _refusal(str(error))
        for name, value in wanted.items():
            if name not in self._knobs or not isinstance(value, int | float):
                return _refusal(f"no knob {name} for {json.dumps(value)}")
        for name, value in wanted.items():
            self._knobs[name](value)  # type: ignore[arg-type]  # checked above
        return Reply()


def _json(value: object) -> Reply:
    return Reply(headers={"Content-Type": JSON}, body=compact_json(value))


def _refusal(reason: str) -> Reply:
    return Reply(status=400, headers={"Content-Type": "text/plain"}, body=reason.encode())
