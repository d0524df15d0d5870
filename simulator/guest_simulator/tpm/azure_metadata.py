"""Azure's metadata service, as far as attestation asks it.

Source: docs/spec/attesters.md 7.2 and 8.
"""

import base64
import json
from collections.abc import Callable
from typing import Final

from guest_simulator.reply import Reply
from guest_simulator.service import HttpService, Incoming

BODY_LIMIT: Final = 64 * 1024
QUOTE_PATH: Final = "/acc/tdquote"
CERTIFICATION_PATH: Final = "/metadata/THIM/amd/certification"


class AzureMetadata(HttpService):
    """The service of one machine.

    Attributes:
        quote: makes a TD quote of a TDREPORT; None where there is no such path.
        certificate: PEM of the chip's; None where there is no such path.
        url_alphabet: TDREPORTs are taken in the URL alphabet only.
    """

    def __init__(
        self,
        *,
        quote: Callable[[bytes], bytes] | None = None,
        certificate: bytes | None = None,
        url_alphabet: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.quote = quote
        self.certificate = certificate
        self.url_alphabet = url_alphabet
        super().__init__(self._handle_request, host=host, port=port)

    async def _handle_request(self, request: Incoming) -> Reply:
        if request.header("Metadata").lower() != "true" or request.header("X-Forwarded-For"):
            return Reply(status=400)
        where = (request.method, request.path)
        if where == ("POST", QUOTE_PATH) and self.quote is not None:
            return self._quote(await request.read(BODY_LIMIT))
        if where == ("GET", CERTIFICATION_PATH) and self.certificate is not None:
            return _json({"vcekCert": self.certificate.decode(), "certificateChain": ""})
        return Reply(status=404)

    def _quote(self, body: bytes) -> Reply:
        text = json.loads(body)["report"]
        is_url = "=" not in text and "+" not in text and "/" not in text
        if is_url is not self.url_alphabet or self.quote is None:
            return Reply(status=400)
        padded = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
        quote = self.quote(base64.b64decode(padded, validate=True))
        return _json({"quote": base64.urlsafe_b64encode(quote).rstrip(b"=").decode()})


def _json(value: object) -> Reply:
    headers = {"Content-Type": "application/json"}
    return Reply(headers=headers, body=json.dumps(value).encode())
