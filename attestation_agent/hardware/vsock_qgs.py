"""A quote from the quoting service on the host, over vsock.

Milliseconds where configfs takes a second or two. A Unix socket may stand in for vsock.

Source: docs/spec/attesters.md 3.5; docs/ARCHITECTURE.md, decision 13.
"""

import socket
from typing import Final

from attestation_agent.hardware.steps import Steps
from attestation_agent.reports import qgs
from guest.deadline import Deadline
from guest.errors import DecodeError, PlatformError
from guest.rpc.address import Address, UnixAddress, VsockAddress

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 30.0
"""Most seconds until the whole answer is there."""


class QuotingService:
    """The service at one address; each quote has a connection of its own."""

    def __init__(self, address: Address) -> None:
        """Connect to nothing yet; `address` is vsock or a Unix socket."""
        self._address = address

    def quote(self, td_report: bytes, steps: Steps, deadline: Deadline) -> bytes:
        """A quote over a TDREPORT.

        Raises:
            PlatformError: no connection, no answer in time, or not the answer to this.
        """
        where = str(self._address)
        connecting = deadline.within(CONNECT_SECONDS)
        with steps.at(where, "socket"):
            connection = self._open()
        with connection:
            with steps.at(where, "connect"):
                connection.settimeout(_left(connecting))
                connection.connect(self._target())
            answering = deadline.within(ANSWER_SECONDS)
            with steps.at(where, "send"):
                connection.settimeout(_left(answering))
                connection.sendall(qgs.encode_request(td_report))
            try:
                header = _receive(connection, qgs.FRAME_HEADER_BYTES, where, steps, answering)
                length = qgs.decode_length(header)
                return qgs.decode_response(_receive(connection, length, where, steps, answering))
            except DecodeError as error:
                raise PlatformError(f"{where}: receive: EBADMSG ({error})") from error

    def _open(self) -> socket.socket:
        if isinstance(self._address, UnixAddress):
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)

    def _target(self) -> str | bytes | tuple[int, int]:
        if isinstance(self._address, UnixAddress):
            path = self._address.path
            return b"\0" + path.encode() if self._address.abstract else path
        assert isinstance(self._address, VsockAddress)
        return (self._address.cid, self._address.port)


def _left(deadline: Deadline) -> float:
    """Seconds for a socket's next call; never the zero that would mean `do not wait`."""
    left = deadline.remaining()
    if left <= 0:
        raise TimeoutError
    return left


def _receive(
    connection: socket.socket, length: int, where: str, steps: Steps, deadline: Deadline
) -> bytes:
    data = bytearray()
    with steps.at(where, "receive"):
        while len(data) < length:
            connection.settimeout(_left(deadline))
            chunk = connection.recv(min(length - len(data), 64 * 1024))
            if not chunk:
                raise PlatformError(
                    f"{where}: receive: EPIPE (closed after {len(data)} of {length} bytes)"
                )
            data += chunk
    return bytes(data)
