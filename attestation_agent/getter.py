"""`evidence_getter`: evidence of this machine's attesters, without an agent.

Source: docs/spec/attestation-agent.md 1.4; docs/spec/attesters.md on the Azure attesters' length.
"""

import argparse
import os
from collections.abc import Awaitable
from typing import Final

import msgspec

from attestation_agent.attesters import detect, detect_devices
from attestation_agent.attesters.base import TeeHints
from attestation_agent.calls import add_timeout, deadline_of
from attestation_agent.collector import EvidenceCollector
from guest.deadline import Deadline
from guest.errors import InvalidInputError
from guest.prepared import prepared
from guest.tee import Tee

PROGRAM: Final = "evidence_getter"

DATA_LENGTH: Final = 64
"""Bytes of report data; what is given is cut or padded with zeros."""

AZURE_LENGTH: Final = 32
"""Bytes of it that the primary attesters on Azure get."""

NAMES: Final = {
    Tee.TDX: "Tdx",
    Tee.SNP: "Snp",
    Tee.SGX: "Sgx",
    Tee.AZ_SNP_VTPM: "AzSnpVtpm",
    Tee.AZ_TDX_VTPM: "AzTdxVtpm",
    Tee.CCA: "Cca",
    Tee.CSV: "Csv",
    Tee.SE: "Se",
    Tee.TPM: "Tpm",
    Tee.SAMPLE: "Sample",
    Tee.SAMPLE_DEVICE: "SampleDevice",
    Tee.NVIDIA: "Nvidia",
    Tee.NVIDIA_DPU: "NvidiaDpu",
    Tee.HYGON_DCU: "HygonDcu",
}
"""How each line begins; readers of the output match these."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        allow_abbrev=False,
        description="Print the evidence of this guest and its devices, one <Name>:<JSON> a line.",
        epilog="Report data is cut or padded with zeros to 64 bytes. "
        "exit status: 0 done, 1 failed, 2 wrong command line",
    )
    add_timeout(parser)
    commands = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    commands.add_parser("stdio", help="report data is what one read of standard input gives")
    given = commands.add_parser("commandline", help="report data is the argument")
    given.add_argument("data", metavar="DATA")
    file = commands.add_parser("file", help="report data is a file's beginning")
    file.add_argument("path", metavar="PATH")
    return parser


def read_data(arguments: argparse.Namespace) -> bytes:
    """The report data that the command line names, at its full length.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        match arguments.source:
            case "stdio":
                data = os.read(0, DATA_LENGTH)
            case "commandline":
                data = os.fsencode(arguments.data)
            case _:
                with open(arguments.path, "rb") as file:
                    data = file.read(DATA_LENGTH)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"report data from {arguments.source} cannot be read") from error
    return data[:DATA_LENGTH].ljust(DATA_LENGTH, b"\0")


async def run(data: bytes, hints: TeeHints, deadline: Deadline) -> str:
    """The lines: the primary TEE's first, then each device's.

    Args:
        data: report data, 64 bytes.
        hints: where and how to detect.
        deadline: for all of it.

    Raises:
        GuestError: no attester for this guest, or one failed; then no line is given.
    """
    attester = detect(hints)
    collector = EvidenceCollector(attester, detect_devices(hints, beside=attester.tee))
    tee = await collector.tee()
    is_azure = tee in (Tee.AZ_SNP_VTPM, Tee.AZ_TDX_VTPM)
    primary = await collector.evidence(data[:AZURE_LENGTH] if is_azure else data, deadline)
    lines = [f"{NAMES[tee]}:{primary.decode()}"]
    devices = await collector.additional_evidence(data, deadline)
    if devices:
        parts = msgspec.json.decode(devices, type=prepared(dict[Tee, msgspec.Raw]))
        lines += [f"{NAMES[device]}:{bytes(text).decode()}" for device, text in parts.items()]
    return "\n".join(lines)


def begin(arguments: argparse.Namespace, hints: TeeHints) -> Awaitable[str]:
    """Read the report data now, and give what is left to be awaited.

    Raises:
        InvalidInputError: it cannot be read.
    """
    data = read_data(arguments)
    return run(data, hints, deadline_of(arguments))
