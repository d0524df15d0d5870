"""`guest doctor`: what this guest has, what answers, what is missing.

Looks and asks, changes nothing, fetches no secret.

Source: docs/ARCHITECTURE.md 1.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from attestation_agent.attesters import detect
from attestation_agent.config import DEFAULT_SOCKET as AA_SOCKET
from attestation_agent.config import AaConfig, ChosenTee
from attestation_agent.hints import read_hints
from cdh import config as cdh_config
from cdh.config import DEFAULT_SOCKET, CdhConfig
from cdh.kms.proxies import make_proxies
from guest import log
from guest.cmdline import CommandLine
from guest.config import read_config, read_kernel_command_line
from guest.deadline import Deadline
from guest.errors import DeadlineError, GuestError, PlatformError, UnavailableError
from guest.http import HttpClient
from guest.kbs.endpoints import USER_AGENT
from guest.process import DEFAULT_PATH, find_program, harden
from guest.protos.aa_pb2 import GetTeeTypeRequest
from guest.protos.cdh_pb2 import GetResourceRequest
from guest.protos.methods import GET_RESOURCE, GET_TEE_TYPE
from guest.tee import Tee
from guest.tool import explain
from guest.ttrpc.channel import TtrpcChannel

FOLDERS: Final = (Path("/run/confidential-containers/initdata"), Path("/run/peerpod"))
"""Where launchers put `aa.toml` and `cdh.toml`."""

PROGRAMS: Final = ("cryptsetup", "mkfs.ext4", "mount")
"""Needed by secure mounts only."""

SECONDS: Final = 5.0
"""For each thing that is asked."""

MAX_ANSWER: Final = 64 * 1024

C = TypeVar("C", bound=msgspec.Struct)


class State(StrEnum):
    """How bad something is."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        state: `wrong` makes the exit status 1.
        what: was looked at.
        text: what was found.
    """

    state: State
    what: str
    text: str


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="what this guest has, what answers, what is missing",
        epilog="exit status: 0 nothing is wrong, 1 something is, 2 wrong command line",
    )
    parser.add_argument("--aa-config", type=Path, metavar="PATH", help="the agent's file")
    parser.add_argument("--cdh-config", type=Path, metavar="PATH", help="the data hub's file")
    parser.add_argument(
        "--attestation-sock", default=AA_SOCKET, metavar="URI", help="(default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(options: argparse.Namespace, environment: Mapping[str, str]) -> int:
    """Look at everything and print it; exit status 0 or 1."""
    harden()
    log.configure("off", rust_log=environment.get("RUST_LOG"))
    findings = asyncio.run(examine(options, environment))
    for finding in findings:
        line = f"{finding.state:<5}  {finding.what}: {finding.text}"
        sys.stdout.write(f"{json.dumps(asdict(finding)) if options.json else line}\n")
    return int(any(finding.state is State.WRONG for finding in findings))


async def examine(options: argparse.Namespace, environment: Mapping[str, str]) -> Sequence[Finding]:
    """Everything that there is to say about this guest."""
    aa, aa_finding = _read(options.aa_config, "aa.toml", AaConfig, AaConfig())
    file, cdh_finding = _read(options.cdh_config, "cdh.toml", CdhConfig, None)
    findings = [_tee(aa, environment), aa_finding, cdh_finding]
    findings.append(await _agent(options.attestation_sock))
    try:
        command_line = CommandLine.parse(read_kernel_command_line())
        config = cdh_config.effective(file, environment, command_line)
    except GuestError as error:
        return [*findings, Finding(State.WRONG, "data hub's settings", explain(error))]
    findings.append(await _hub(config.socket or DEFAULT_SOCKET))
    findings += await _kbs(config)
    findings += [_program(name, environment) for name in PROGRAMS]
    return findings


def _read(
    given: Path | None, name: str, kind: type[C], absent: C | None
) -> tuple[C | None, Finding]:
    """A configuration, as its service would read it."""
    what = f"configuration {name}"
    found = (folder / name for folder in FOLDERS if (folder / name).exists())
    path = given or next(found, None)
    if path is None:
        return absent, Finding(State.NOTE, what, "none, so the kernel command line rules")
    try:
        return read_config(path, kind), Finding(State.OK, what, f"{path} is valid")
    except GuestError as error:
        return absent, Finding(State.WRONG, what, explain(error))


def _tee(config: AaConfig | None, environment: Mapping[str, str]) -> Finding:
    chosen = config is not None and config.attester.tee is ChosenTee.SAMPLE
    try:
        tee = detect(read_hints(environment), sample_chosen=chosen).tee
    except GuestError as error:
        return Finding(State.WRONG, "TEE", explain(error))
    if tee is Tee.SAMPLE:
        return Finding(State.NOTE, "TEE", "none; sample evidence proves nothing")
    return Finding(State.OK, "TEE", tee.value)


async def _agent(address: str) -> Finding:
    what = f"attestation agent at {address}"
    try:
        channel = TtrpcChannel(address)
        try:
            answer = await channel.call(
                GET_TEE_TYPE, GetTeeTypeRequest(), deadline=Deadline.after(SECONDS)
            )
        finally:
            await channel.close()
    except GuestError as error:
        return Finding(State.WRONG, what, explain(error))
    return Finding(State.OK, what, f"answers, its TEE is {answer.tee}")


async def _hub(address: str) -> Finding:
    """Ask for a resource whose name is none: only a data hub that works refuses that."""
    what = f"data hub at {address}"
    try:
        channel = TtrpcChannel(address)
    except GuestError as error:
        return Finding(State.WRONG, what, explain(error))
    try:
        request = GetResourceRequest(ResourcePath="")
        await channel.call(GET_RESOURCE, request, deadline=Deadline.after(SECONDS))
    except (UnavailableError, DeadlineError) as error:
        return Finding(State.WRONG, what, explain(error))
    except GuestError:
        pass  # the refusal that was asked for
    finally:
        await channel.close()
    return Finding(State.OK, what, "answers")


async def _kbs(config: CdhConfig) -> Sequence[Finding]:
    if config.kbc.name != "cc_kbc":
        return (Finding(State.NOTE, "KBS", f"none, resources come from {config.kbc.name}"),)
    roots = () if config.kbc.kbs_cert is None else (config.kbc.kbs_cert,)
    findings = []
    try:
        proxies = make_proxies(config.proxy)
        http = HttpClient(user_agent=USER_AGENT, extra_roots=roots, proxies=proxies)
        try:
            findings += [await _answers(http, url) for url in config.kbc.endpoints()]
        finally:
            await http.close()
    except GuestError as error:
        findings.append(Finding(State.WRONG, "KBS", explain(error)))
    return findings or (Finding(State.WRONG, "KBS", "no URL is configured"),)


async def _answers(http: HttpClient, url: str) -> Finding:
    what = f"KBS at {url.rpartition('@')[2]}"
    try:
        deadline = Deadline.after(SECONDS)
        answer = await http.request("GET", f"{url}/", deadline=deadline, max_body=MAX_ANSWER)
    except GuestError as error:
        return Finding(State.WRONG, what, explain(error))
    return Finding(State.OK, what, f"answers (status {answer.status})")


def _program(name: str, environment: Mapping[str, str]) -> Finding:
    try:
        path = find_program(name, environment.get("PATH", DEFAULT_PATH))
    except PlatformError as error:
        return Finding(State.NOTE, f"program {name}", f"{error}; secure mounts need it")
    return Finding(State.OK, f"program {name}", os.fspath(path))
