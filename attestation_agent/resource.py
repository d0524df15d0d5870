"""`trustee-attester`: attest to a KBS with this machine's attesters and fetch one resource.

Source: docs/spec/attestation-agent.md 1.4a; docs/spec/kbs-protocol.md 11.
"""

import argparse
from pathlib import Path
from typing import Final

from attestation_agent.attesters import detect, detect_devices
from attestation_agent.attesters.base import TeeHints
from attestation_agent.calls import add_timeout, deadline_of
from attestation_agent.collector import EvidenceCollector
from guest import wire
from guest.errors import DecodeError, InvalidInputError
from guest.proxies import Proxies
from guest.resource_uri import ResourceUri
from guest.version import VERSION

PROGRAM: Final = "trustee-attester"

MAX_CERTIFICATES: Final = 1024 * 1024
"""Most bytes of the file with trust anchors."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Attest to a KBS and print one of its resources in standard base64.",
        epilog="exit status: 0 done, 1 failed, 2 wrong command line",
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {VERSION}")
    parser.add_argument("--url", required=True, metavar="URL", help="of the KBS, without /kbs/v0")
    parser.add_argument(
        "--cert-file", type=Path, metavar="PATH",
        help="PEM of certificates to trust besides the system's",
    )  # fmt: skip
    add_timeout(parser)
    commands = parser.add_subparsers(dest="operation", required=True, metavar="OPERATION")
    resource = commands.add_parser("get-resource", help="print a resource in base64")
    resource.add_argument(
        "--path", required=True, metavar="PATH",
        help="repository/type/tag, or a URI such as kbs:///repository/type/tag",
    )  # fmt: skip
    resource.add_argument(
        "--initdata", metavar="TOML", help="text of the init data document for the KBS"
    )
    return parser


def parse_path(text: str) -> ResourceUri:
    """A resource by its URI, or by its path behind the plugin `resource`.

    Raises:
        InvalidInputError: neither.
    """
    uri = text
    if "://" not in text:
        plain = text.lstrip("/")
        if not plain:
            raise InvalidInputError("--path is empty, expected repository/type/tag")
        uri = f"kbs:///{plain}"
    try:
        return ResourceUri.parse(uri)
    except DecodeError as error:
        raise InvalidInputError(f"--path {text[:200]!r}: {error}") from error


async def run(arguments: argparse.Namespace, hints: TeeHints, proxies: Proxies) -> str:
    """The resource in base64.

    Args:
        arguments: of `make_parser`.
        hints: where and how to detect.
        proxies: of outbound HTTP.

    Raises:
        GuestError: an argument is wrong, this guest has no attester, or what
            `RcarClient.fetch_resource` raises.
    """
    from guest.http import HttpClient
    from guest.kbs.client import RcarClient
    from guest.kbs.endpoints import USER_AGENT

    uri = parse_path(arguments.path)
    roots = () if arguments.cert_file is None else (_read_roots(arguments.cert_file),)
    deadline = deadline_of(arguments)
    attester = detect(hints)
    evidence = EvidenceCollector(attester, detect_devices(hints, beside=attester.tee))
    http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=proxies)
    try:
        client = RcarClient((arguments.url,), http, evidence, init_data=arguments.initdata)
        with await client.fetch_resource(uri, deadline) as resource:
            return wire.encode_base64(resource.reveal())
    finally:
        await http.close()


def _read_roots(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CERTIFICATES + 1)
        if len(content) > MAX_CERTIFICATES:
            raise InvalidInputError(f"{path} has more than {MAX_CERTIFICATES} bytes")
        return wire.decode_utf8(content, str(path))
    except (OSError, ValueError, DecodeError) as error:
        raise InvalidInputError(f"--cert-file {path} cannot be read") from error
