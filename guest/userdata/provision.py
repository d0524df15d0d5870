"""Once at boot: user data is fetched, decided about, and written for the services of the pod VM.

Source: docs/spec/podvm-image.md 5; docs/ARCHITECTURE.md, decision 9.
"""

import asyncio
import hmac
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import (
    DeadlineError,
    DecodeError,
    GuestError,
    IntegrityError,
    InvalidInputError,
    LimitError,
    PeerError,
    PlatformError,
)
from guest.http import HttpClient
from guest.initdata_form import MAX_TEXT
from guest.retry import Backoff
from guest.userdata.parse import UserFile, parse_user_data
from guest.userdata.plan import DIGEST_FILE, INIT_DATA_FILE, Plan, make_plan
from guest.userdata.providers import Provider, Sources, find_provider
from guest.userdata.write import FILE_MODE, PeerPodDirectory

log = logging.getLogger(__name__)

PAUSES: Final = Backoff(first=2.0, most=2.0, factor=1.0, attempts=1_000_000_000)
"""Between attempts: one to two seconds; time alone ends them."""

MAX_DIGEST: Final = 128
"""Bytes of the longest digest file: SHA-512 in hexadecimal."""


class _UnreadableError(PeerError):
    """The same bytes could not be read twice."""


FINAL: Final = (PlatformError, LimitError, InvalidInputError, _UnreadableError)
"""What another attempt cannot make better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one run.

    Attributes:
        sources: where user data may be.
        directory: what is written; `/run/peerpod`.
        mode: of the files.
        measured_only: see `make_plan`.
        pauses: between attempts to fetch.
    """

    sources: Sources
    directory: Path
    mode: int = FILE_MODE
    measured_only: bool = True
    pauses: Backoff = PAUSES


async def provision(settings: Settings, http: HttpClient, deadline: Deadline) -> Digest:
    """Do it; gives the digest of the init data.

    Args:
        settings: of the run.
        http: asks the metadata service.
        deadline: for user data to be there, all attempts together.

    Raises:
        GuestError: anything but absence; then nothing was written.
    """
    provider = await find_provider(settings.sources, http, deadline)
    user_files: tuple[UserFile, ...] = ()
    if provider is None:
        log.info("unsupported user data provider")
    else:
        user_files = await fetch_files(provider, settings.pauses, deadline)
        log.info("user data read", extra={"provider": provider.name, "files": len(user_files)})
    return await asyncio.to_thread(_write, settings, user_files)


async def fetch_files(
    provider: Provider, pauses: Backoff, deadline: Deadline
) -> tuple[UserFile, ...]:
    """Ask until there is a document, or time has run out.

    A document that cannot be read is fetched once more: an upload may be under way. The same
    bytes again are final.

    Raises:
        PeerError: what the provider has is no user data.
        DeadlineError: there was none in time, because of the last failure.
        GuestError: a failure of `FINAL`.
    """
    attempt = 0
    unreadable: bytes | None = None
    reason: GuestError | None = None
    while True:
        attempt += 1
        try:
            body = await provider.fetch(deadline)
            try:
                async with deadline.limit("user data to be parsed"):
                    return await asyncio.to_thread(_parse, provider, body)
            except DecodeError as error:
                text = f"user data of {provider.name} cannot be read"
                if body == unreadable:
                    raise _UnreadableError(text) from error
                unreadable = body
                raise PeerError(text) from error
        except FINAL:
            raise
        except GuestError as error:
            if reason is None or not deadline.is_over():
                reason = error  # else it only says that time ran out
        log.warning(
            "no user data yet", extra={"attempt": attempt, "error": ": ".join(reason.causes())}
        )
        if not await pauses.pause(attempt, deadline):
            raise DeadlineError(f"no user data of {provider.name} in time") from reason


def _parse(provider: Provider, body: bytes) -> tuple[UserFile, ...]:
    return parse_user_data(provider.decode(body))


def _write(settings: Settings, user_files: tuple[UserFile, ...]) -> Digest:
    with PeerPodDirectory(settings.directory) as directory:
        present = directory.find(INIT_DATA_FILE, MAX_TEXT)
        try:
            plan = make_plan(user_files, present, measured_only=settings.measured_only)
        except DecodeError as error:
            raise PeerError("init data cannot be read") from error
        _verify_unchanged(directory.find(DIGEST_FILE, MAX_DIGEST), plan)
        _tell(plan)
        directory.replace(plan.files, mode=settings.mode, unwanted=plan.unwanted)
    log.info(
        "files written",
        extra={"files": ",".join(plan.files), "init_data": plan.has_init_data},
    )
    return plan.digest


def _verify_unchanged(before: bytes | None, plan: Plan) -> None:
    """Init data is measured once a boot: a second run must find the same."""
    if before is None or hmac.compare_digest(before, plan.digest.hex.encode()):
        return
    found = before[:MAX_DIGEST].decode("ascii", "replace")
    raise IntegrityError(
        f"digest of init data does not match that of this boot: expected {found}, "
        f"found {plan.digest.hex}"
    )


def _tell(plan: Plan) -> None:
    for path in plan.skipped:
        shown = "".join(char if char.isprintable() else "?" for char in path[:200])
        log.warning("File: %s is not allowed in WriteFiles.", shown)
    for key in plan.foreign:
        log.warning("init data key is not allowed", extra={"key": key[:200]})
    for name in plan.unmeasured:
        log.warning("file is not in the init data, left out", extra={"file": name})
    if "aa.toml" not in plan.files:
        log.warning("no aa.toml: nothing starts the attestation agent")
