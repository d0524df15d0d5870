"""tpm2-tools, written by others, judge what we make of a TPM: quotes and event logs."""

import asyncio
import base64
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from attestation_agent.attesters import detect
from attestation_agent.eventlog.files import DIRECTORY, LogFiles
from attestation_agent.eventlog.journal import Journal
from guest.deadline import Deadline
from support.tpm_world import tpm_guest

SECONDS = 60

pytestmark = [pytest.mark.swtpm]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A tool; its exit status is judged by the test."""
    if shutil.which(str(command[0])) is None:
        pytest.fail(f"{command[0]} is missing (Debian package tpm2-tools)")
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS
    )


def serialized(pcrs: list[bytes]) -> bytes:
    """All registers of the SHA-256 bank in the file format of tpm2-tools: C structures."""
    selection = struct.pack("<IHB3s2x", 1, 0x0B, 3, b"\xff" * 3).ljust(4 + 16 * 8, b"\0")
    lists = [pcrs[start : start + 8] for start in range(0, 24, 8)]
    values = b"".join(
        struct.pack("<I", 8) + b"".join(struct.pack("<H64s", 32, value) for value in part)
        for part in lists
    )
    return selection + struct.pack("<I", len(lists)) + values


def write_quote(directory: Path, evidence: dict[str, Any]) -> dict[str, Path]:
    """The parts of evidence as files."""
    quote = evidence["tpm_quote"]
    pem = b"".join(
        (
            b"-----BEGIN PUBLIC KEY-----\n",
            base64.encodebytes(base64.b64decode(evidence["ak_public"])),
            b"-----END PUBLIC KEY-----\n",
        )
    )
    contents = {
        "key": pem,
        "message": base64.b64decode(quote["message"]),
        "signature": base64.b64decode(quote["signature"]),
        "pcrs": serialized([bytes.fromhex(value) for value in quote["pcrs"]]),
    }
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return {name: directory / name for name in contents}


def check(parts: dict[str, Path], nonce: bytes) -> subprocess.CompletedProcess[str]:
    """`tpm2_checkquote` over signature, nonce and the values of all registers."""
    return run(
        "tpm2_checkquote", "-u", parts["key"], "-m", parts["message"], "-s", parts["signature"],
        "-g", "sha256", "-q", nonce.hex(), "-f", parts["pcrs"],
    )  # fmt: skip


async def test_tpm2_checkquote_accepts_our_quotes_and_no_others(short_tmp: Path) -> None:
    data = bytes(range(48))
    with tpm_guest(short_tmp) as guest:
        guest.extend(10, bytes(range(32)))
        evidence: Any = await detect(guest.hints()).evidence(data, Deadline.after(30))
    parts = write_quote(short_tmp, evidence)
    done = await asyncio.to_thread(check, parts, data[:32])
    assert done.returncode == 0, done.stderr
    done = await asyncio.to_thread(check, parts, data[1:33])
    assert done.returncode != 0
    parts["pcrs"].write_bytes(serialized([bytes(32)] * 24))
    done = await asyncio.to_thread(check, parts, data[:32])
    assert done.returncode != 0


async def test_tpm2_eventlog_replays_our_log_to_the_quoted_register(short_tmp: Path) -> None:
    with tpm_guest(short_tmp) as guest:
        attester: Any = detect(guest.hints())
        files = LogFiles(guest.hints().at(DIRECTORY))
        journal = Journal(attester.registers, files, default_register=16)
        await journal.open()
        for number in range(3):
            await journal.append("domain", "operation", f"{number}", None, Deadline.after(10))
        evidence = await attester.evidence(b"", Deadline.after(30))
    log = base64.b64decode(evidence["cc_eventlog"])
    # The tool knows logs that end where the file ends.
    (short_tmp / "log").write_bytes(log.removesuffix(b"\xff" * 8))
    done = await asyncio.to_thread(run, "tpm2_eventlog", short_tmp / "log")
    assert done.returncode == 0, done.stderr
    replayed = done.stdout.partition("\npcrs:")[2].split()
    assert replayed[:2] == ["sha256:", "16"]
    value = evidence["tpm_quote"]["pcrs"][16]
    assert replayed[-1] == f"0x{value}"
    assert done.stdout.count("EV_EVENT_TAG") == 3
