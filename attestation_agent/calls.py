"""`ttrpc-aa-client`: one call to a running attestation agent.

Source: docs/spec/attestation-agent.md 1.3.
"""

import argparse
import math
from typing import Final, TypeVar

from google.protobuf.message import Message

from attestation_agent.config import DEFAULT_SOCKET
from guest import wire
from guest.deadline import Deadline
from guest.errors import DecodeError, InvalidInputError, PeerError, UnsupportedError
from guest.protos import aa_pb2
from guest.protos.methods import (
    BIND_INIT_DATA,
    EXTEND_RUNTIME_MEASUREMENT,
    GET_ADDITIONAL_EVIDENCE,
    GET_ADDITIONAL_TEES,
    GET_EVIDENCE,
    GET_TEE_TYPE,
    GET_TOKEN,
)
from guest.rpc.method import Channel, Method

PROGRAM: Final = "ttrpc-aa-client"

DEFAULT_SECONDS: Final = 60.0
MAX_SECONDS: Final = 1e9
TOKEN_TYPES: Final = ("kbs", "coco_as")
MAX_REGISTER: Final = (1 << 64) - 1

RESULTS: Final = {
    aa_pb2.OK: "Extended.",
    aa_pb2.NOT_SUPPORTED: "Current platform does not support runtime measurement.",
    aa_pb2.NOT_ENABLED: ("Runtime measurement is not enabled in Attestation Agent configuration."),
}
"""What is said of a measurement; scripts match these."""

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Make one ttRPC call to an attestation agent; its result is printed.",
        epilog="exit status: 0 done, 1 failed, 2 wrong command line",
    )
    parser.add_argument(
        "-a", "--attestation_sock", default=DEFAULT_SOCKET, metavar="URI",
        help="where the agent listens (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--attestation-sock", dest="attestation_sock", default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )  # fmt: skip
    add_timeout(parser)
    commands = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    commands.add_parser("get-tee", help="print the TEE of this guest")
    commands.add_parser("get-additional-tees", help="print its attested devices, one a line")
    for name, what in (("get-evidence", "evidence"), ("get-additional-evidence", "the devices'")):
        evidence = commands.add_parser(name, help=f"print {what} as JSON")
        evidence.add_argument(
            "-r", "--runtime-data", required=True, metavar="BASE64", help="what it binds"
        )
    token = commands.add_parser("get-token", help="attest, and print the token")
    token.add_argument("-t", "--token-type", required=True, choices=TOKEN_TYPES)
    extend = commands.add_parser("extend-runtime-measurement", help="record an event")
    for short, name in (("-d", "--domain"), ("-o", "--operation"), ("-c", "--content")):
        extend.add_argument(short, name, required=True, dest=f"event_{name[2:]}", metavar="TEXT")
    extend.add_argument(
        "-p", "--pcr", type=_register, metavar="N", help="register (default: the agent's)"
    )
    bind = commands.add_parser(
        "bind-init-data", help="tie the guest to init data; gRPC agents only"
    )
    bind.add_argument("-d", "--digest", required=True, metavar="BASE64", help="of the document")
    return parser


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """The option `--timeout`, which the tools have in common."""
    parser.add_argument(
        "--timeout", type=_seconds, default=DEFAULT_SECONDS, metavar="SECONDS",
        help=f"for all of it, 0 for no limit (default: {DEFAULT_SECONDS:g})",
    )  # fmt: skip


def deadline_of(arguments: argparse.Namespace) -> Deadline:
    """What `--timeout` asks for."""
    if arguments.timeout == 0:
        return Deadline.unlimited()
    return Deadline.after(arguments.timeout)


def _seconds(text: str) -> float:
    value = float(text)
    if math.isnan(value) or not 0 <= value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError("must be a number of seconds, not negative")
    return value


def _register(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > MAX_REGISTER:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to {MAX_REGISTER}")
    return int(text)


async def run(arguments: argparse.Namespace) -> str:
    """Do what was parsed; gives the text for standard output.

    Raises:
        GuestError: an argument or the address is wrong, or the call failed.
    """
    from guest.ttrpc.channel import TtrpcChannel

    channel = TtrpcChannel(arguments.attestation_sock)
    try:
        return await Calls(channel, deadline_of(arguments)).run(arguments)
    finally:
        await channel.close()


class Calls:
    """The calls, as their subcommands make them.

    Args:
        channel: leads to the agent.
        deadline: for the call.
    """

    def __init__(self, channel: Channel, deadline: Deadline) -> None:
        self._channel = channel
        self._deadline = deadline

    async def run(self, arguments: argparse.Namespace) -> str:
        """Do what was parsed; gives the text for standard output.

        Raises:
            GuestError: an argument is wrong, or the call failed.
        """
        match arguments.operation:
            case "get-tee":
                return (await self._call(GET_TEE_TYPE, aa_pb2.GetTeeTypeRequest())).tee
            case "get-additional-tees":
                request = aa_pb2.GetAdditionalTeesRequest()
                try:
                    found = await self._call(GET_ADDITIONAL_TEES, request)
                except UnsupportedError:  # an agent from before there were any
                    return ""
                return "\n".join(found.additional_tees)
            case "get-evidence":
                data = _decode(arguments.runtime_data, "runtime data")
                evidence = aa_pb2.GetEvidenceRequest(RuntimeData=data)
                return _text((await self._call(GET_EVIDENCE, evidence)).Evidence)
            case "get-additional-evidence":
                data = _decode(arguments.runtime_data, "runtime data")
                devices = aa_pb2.GetAdditionalEvidenceRequest(RuntimeData=data)
                return _text((await self._call(GET_ADDITIONAL_EVIDENCE, devices)).Evidence)
            case "get-token":
                token = aa_pb2.GetTokenRequest(TokenType=arguments.token_type)
                return _text((await self._call(GET_TOKEN, token)).Token)
            case "extend-runtime-measurement":
                return await self._extend(arguments)
            case _:
                digest = _decode(arguments.digest, "digest")
                await self._call(BIND_INIT_DATA, aa_pb2.BindInitDataRequest(Digest=digest))
                return "Bound."

    async def _call(self, method: Method[Q, R], request: Q) -> R:
        return await self._channel.call(method, request, deadline=self._deadline)

    async def _extend(self, arguments: argparse.Namespace) -> str:
        request = aa_pb2.ExtendRuntimeMeasurementRequest(
            Domain=arguments.event_domain,
            Operation=arguments.event_operation,
            Content=arguments.event_content,
        )
        if arguments.pcr is not None:
            request.RegisterIndex = arguments.pcr
        result = (await self._call(EXTEND_RUNTIME_MEASUREMENT, request)).Result
        if result not in RESULTS:
            raise PeerError(f"the agent gave the unknown result {result}")
        return RESULTS[result]


def _decode(text: str, what: str) -> bytes:
    try:
        return wire.decode_base64(text, what)
    except DecodeError as error:
        raise InvalidInputError(str(error)) from error


def _text(content: bytes) -> str:
    try:
        return wire.decode_utf8(content, "the agent's answer")
    except DecodeError as error:
        raise PeerError(str(error)) from error
