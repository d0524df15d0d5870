"""Guests with a TPM for tests: swtpm behind a relay, and Azure's machines on top of it."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation_agent.attesters.base import TeeHints
from guest_simulator.tdx.domain import Domain
from guest_simulator.tpm import wire
from guest_simulator.tpm.chip import Chip
from guest_simulator.tpm.paravisor import KEY_HANDLE, SNP, TDX, Paravisor
from guest_simulator.tpm.relay import Relay
from guest_simulator.tpm.swtpm import Swtpm

AK_HANDLE = 0x8101_0002


@functools.cache
def _provisioned(handle: int, kind: int) -> Path:
    """State of a TPM with a key; made once, because its key takes a while."""
    directory = Path(tempfile.mkdtemp(prefix="tpm-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    with Swtpm(directory / "state", directory / "tpm") as swtpm:
        swtpm.provision_key(handle, kind)
    return directory / "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmGuest:
    """A guest with a TPM.

    Attributes:
        root: of its tree.
        swtpm: the TPM.
        relay: what stands at `/dev/tpm0` in the tree.
    """

    root: Path
    swtpm: Swtpm
    relay: Relay

    def hints(self, **options: object) -> TeeHints:
        """Where detection and attester look."""
        return TeeHints(root=str(self.root), **options)  # type: ignore[arg-type]

    @property
    def path(self) -> str:
        """Of the device."""
        return str(self.relay.path)

    def extend(self, register: int, digest: bytes) -> None:
        """What somebody else in the guest does."""
        wire.body_of(self.relay.ask(wire.extend(register, digest)))


@contextmanager
def tpm_guest(
    root: Path, *, handle: int | None = AK_HANDLE, kind: int = wire.RSA, state: str = "state"
) -> Iterator[TpmGuest]:
    """A guest whose TPM has a key at `handle`, or none."""
    if handle is not None and not (root / state).exists():
        shutil.copytree(_provisioned(handle, kind), root / state)
    (root / "dev").mkdir(exist_ok=True)
    with (
        Swtpm(root / state, root / "swtpm") as swtpm,
        Relay(path=root / "dev" / "tpm0", upstream=swtpm.path) as relay,
    ):
        yield TpmGuest(root=root, swtpm=swtpm, relay=relay)


@functools.cache
def chip() -> Chip:
    """One chip for all tests."""
    return Chip.generate()


@contextmanager
def azure_guest(root: Path, kind: int) -> Iterator[tuple[TpmGuest, Paravisor]]:
    """A confidential machine of Azure, SNP or TDX."""
    with tpm_guest(root, handle=KEY_HANDLE) as guest:
        make = {SNP: chip().report, TDX: Domain().report}[kind]
        key = wire.rsa_key_of(guest.relay.ask(wire.read_public(KEY_HANDLE)))
        paravisor = Paravisor(kind=kind, key=key, make_hardware=make)
        guest.relay.intercept = paravisor
        yield guest, paravisor
