"""Every TEE and device attests: the agent as it is, a KBS that parses by itself what it gets."""

import functools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec.structs import replace

from attestation_agent.attesters.base import TeeHints
from guest.deadline import Deadline
from guest.errors import GuestError
from guest.protos import aa_pb2, methods
from guest.rpc.method import Channel
from guest_simulator.devices.bluefield import BlueField
from guest_simulator.devices.gpu import Gpu
from guest_simulator.devices.realm import Realm
from guest_simulator.devices.ultravisor import DEVICE, Ultravisor
from guest_simulator.devices.verifiers import CcaVerifier, DpuVerifier, GpuVerifier, SeVerifier
from guest_simulator.hygon.csv import CsvGuest
from guest_simulator.hygon.verifier import verify_csv, verify_dcu
from guest_simulator.kbs.evidence import EvidenceError, InitData, Verified, Verifier
from guest_simulator.kbs.server import Kbs
from guest_simulator.machine import Machine
from guest_simulator.sgx.verifier import SgxVerifier
from guest_simulator.snp import verifier as snp
from guest_simulator.snp.chip import Launch
from guest_simulator.tdx.domain import Domain
from guest_simulator.tdx.quote import Platform
from guest_simulator.tdx.verifier import TdxVerifier, check_td_report
from guest_simulator.tpm import paravisor, wire
from guest_simulator.tpm.azure_metadata import AzureMetadata
from guest_simulator.tpm.paravisor import Paravisor
from guest_simulator.tpm.verifier import AzureVerifier, verify_tpm
from support.agents import config_of, make_agent, running
from support.attester_worlds import SE_REQUEST
from support.gpu_world import SimulatedGpus, gpu_machine
from support.hygon_world import CsvWorld, DcuWorld
from support.sgx_world import SgxWorld
from support.snp_world import SnpWorld
from support.snp_world import chip as snp_chip
from support.tdx_world import boot, hints_of, make_guest, platform
from support.tpm_world import tpm_guest

needs_tpm = pytest.mark.swtpm


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A machine, and what its KBS knows.

    Attributes:
        hints: where detection looks.
        verifiers: for what it is.
        nonce: of the challenge; None is the KBS's own.
        algorithm: that the challenge names; None names none.
        attester: of the configuration.
    """

    hints: TeeHints
    verifiers: dict[str, Verifier]
    nonce: str | None = None
    algorithm: str | None = None
    attester: dict[str, object] = field(default_factory=dict)


Build = Callable[[Path], AbstractAsyncContextManager[Place]]


def _still(build: Callable[[Path], Place]) -> Build:
    """A machine that needs nothing to run beside it."""

    @asynccontextmanager
    async def open_place(root: Path) -> AsyncIterator[Place]:
        yield build(root)

    return open_place


def _tdx(root: Path) -> Place:
    guest = make_guest(root)
    boot(guest)
    verifiers: dict[str, Verifier] = {"tdx": TdxVerifier(root=guest.platform.root)}
    return Place(hints=hints_of(guest), verifiers=verifiers)


def _snp(has_configfs: bool, root: Path) -> Place:
    world = SnpWorld(root=root, has_configfs=has_configfs, table=snp_chip().table("VCEK"))
    verifier = snp.SnpVerifier(certificates=world.chip.certificates)
    return Place(hints=world.hints(), verifiers={"snp": verifier})


def _sgx(is_occlum: bool, root: Path) -> Place:
    world = SgxWorld(root=root, is_occlum=is_occlum)
    verifier = SgxVerifier(root=world.enclave.platform.root)
    return Place(hints=world.hints(), verifiers={"sgx": verifier})


def _csv(has_registers: bool, root: Path) -> Place:
    world = CsvWorld(root=root, device=CsvGuest(has_registers=has_registers))
    (root / "dev").mkdir()
    return Place(hints=world.hints(), verifiers={"csv": verify_csv})


def _cca(root: Path) -> Place:
    realm = Realm()
    hints = TeeHints(root=str(root), machine="aarch64", kernel=realm.kernel(str(root)))
    return Place(hints=hints, verifiers={"cca": CcaVerifier(realm=realm)})


def _se(root: Path) -> Place:
    mark = root / "sys/firmware/uv/prot_virt_guest"
    mark.parent.mkdir(parents=True)
    mark.write_text("1\n")
    device = Ultravisor()
    kernel = Machine(root=str(root), devices={DEVICE: device})
    request = json.loads(SE_REQUEST)
    del request["runtime_data_digest"]
    return Place(
        hints=TeeHints(root=str(root), machine="s390x", kernel=kernel),
        verifiers={"se": SeVerifier(key=device.key, request=bytes(100))},
        nonce=json.dumps(request),
        algorithm="sha512",
    )


@asynccontextmanager
async def _tpm(root: Path) -> AsyncIterator[Place]:
    with tpm_guest(root) as guest:
        yield Place(hints=guest.hints(), verifiers={"tpm": verify_tpm})


@asynccontextmanager
async def _azure(tee: str, root: Path) -> AsyncIterator[Place]:
    """A confidential machine whose hardware signs what the metadata service tells of it."""
    is_tdx, chip = tee == "az-tdx-vtpm", snp_chip()
    kind = paravisor.TDX if is_tdx else paravisor.SNP
    vcek = x509.load_der_x509_certificate(chip.certificates["VCEK"]).public_bytes(Encoding.PEM)
    make = Domain().report if is_tdx else functools.partial(chip.report, Launch())
    verifier = AzureVerifier(
        member="td_quote" if is_tdx else "vcek",
        report_data_at=128 if is_tdx else 80,
        check_hardware=check_td_report(platform().root)
        if is_tdx
        else snp.check_report(chip.certificates),
    )
    service = AzureMetadata(quote=platform().quote, certificate=vcek)
    with tpm_guest(root, handle=paravisor.KEY_HANDLE) as guest:
        key = wire.rsa_key_of(guest.relay.ask(wire.read_public(paravisor.KEY_HANDLE)))
        guest.relay.intercept = Paravisor(kind=kind, key=key, make_hardware=make)
        async with service:
            yield Place(hints=guest.hints(azure_metadata=service.url), verifiers={tee: verifier})


def _nvidia(root: Path) -> Place:
    gpus = SimulatedGpus(Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2", architecture=10))
    verifier = GpuVerifier(chains=tuple(gpu.chain for gpu in gpus.gpus))
    return Place(hints=gpu_machine(root, gpus), verifiers={"nvidia": verifier})


def _dpu(root: Path) -> Place:
    dpu = BlueField()
    dpu.install(root)
    return Place(
        hints=TeeHints(root=str(root)),
        verifiers={"nvidia-dpu": DpuVerifier(identity=dpu.identity.public_key())},
        attester={"nvidia_dpu": True},
    )


def _dcu(root: Path) -> Place:
    return Place(hints=DcuWorld(root=root).hints(), verifiers={"hygondcu": verify_dcu})


def _sample_device(root: Path) -> Place:
    hints = TeeHints(root=str(root), sample_device=True)
    return Place(hints=hints, verifiers={"sampledevice": _simulators_own("sampledevice")})


def _simulators_own(tee: str) -> Verifier:
    return Kbs().behaviour.verifiers[tee]


@asynccontextmanager
async def _everything(root: Path) -> AsyncIterator[Place]:
    """A TEE with devices of several kinds at once."""
    first, second = _snp(False, root), _nvidia(root)
    hints = replace(first.hints, gpus=second.hints.gpus, sample_device=True)
    yield Place(hints=hints, verifiers={**first.verifiers, **second.verifiers})


@asynccontextmanager
async def _tpm_beside(root: Path) -> AsyncIterator[Place]:
    """A TPM as a device of a guest that has another TEE."""
    with tpm_guest(root) as guest:
        place = _snp(False, root)
        verifiers = {**place.verifiers, "tpm": verify_tpm}
        yield Place(hints=place.hints, verifiers=verifiers, attester={"tpm": True})
        assert guest.relay.codes()


PLACES: dict[str, Build] = {
    "tdx": _still(_tdx),
    "snp-configfs": _still(functools.partial(_snp, True)),
    "snp-ioctl": _still(functools.partial(_snp, False)),
    "sgx-gramine": _still(functools.partial(_sgx, False)),
    "sgx-occlum": _still(functools.partial(_sgx, True)),
    "csv-legacy": _still(functools.partial(_csv, False)),
    "csv-extended": _still(functools.partial(_csv, True)),
    "cca": _still(_cca),
    "se": _still(_se),
    "tpm": _tpm,
    "az-tdx-vtpm": functools.partial(_azure, "az-tdx-vtpm"),
    "az-snp-vtpm": functools.partial(_azure, "az-snp-vtpm"),
    "nvidia": _still(_nvidia),
    "nvidia-dpu": _still(_dpu),
    "hygondcu": _still(_dcu),
    "sampledevice": _still(_sample_device),
    "snp-with-devices": _everything,
    "tpm-beside-snp": _tpm_beside,
}
WITH_TPM = ("tpm", "tpm-beside-snp", "az-tdx-vtpm", "az-snp-vtpm")

every_place = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[needs_tpm] if name in WITH_TPM else []) for name in PLACES],
)


class Noting:
    """A verifier that keeps what it was shown."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self.seen: list[tuple[Any, bytes]] = []

    def __call__(self, evidence: object, expected: bytes, init_data: InitData | None) -> Verified:
        self.seen.append((evidence, expected))
        return self.verifier(evidence, expected, init_data)


@asynccontextmanager
async def attesting(root: Path, name: str) -> AsyncIterator[tuple[Channel, Kbs, dict[str, Noting]]]:
    """The agent on the machine, its KBS, and what its verifiers see."""
    if name in WITH_TPM:
        pytest.importorskip("tpm2_pytss", reason="no tpm2-pytss (make system builds it)")
    async with PLACES[name](root) as place, Kbs() as kbs:
        noting = {tee: Noting(verifier) for tee, verifier in place.verifiers.items()}
        kbs.behaviour.verifiers.update(noting)
        kbs.behaviour.nonce = place.nonce
        kbs.behaviour.selected_hash_algorithm = place.algorithm
        config = config_of(token_configs={"kbs": {"url": kbs.url}}, attester=place.attester)
        async with running(make_agent(root, config, hints=place.hints)) as channel:
            yield channel, kbs, noting


async def get_token(channel: Channel) -> dict[str, str]:
    request = aa_pb2.GetTokenRequest(TokenType="kbs")
    response = await channel.call(methods.GET_TOKEN, request, deadline=Deadline.after(50))
    pair: dict[str, str] = json.loads(response.Token)
    return pair


@every_place
@pytest.mark.blocks_loop
async def test_its_evidence_convinces_a_verifier_of_this_call_and_of_no_other(
    short_tmp: Path, name: str
) -> None:
    async with attesting(short_tmp, name) as (channel, kbs, noting):
        pairs = [await get_token(channel) for _ in range(2)]
        assert pairs[0]["token"] != pairs[1]["token"]
        assert pairs[0]["tee_keypair"] != pairs[1]["tee_keypair"]
        assert kbs.attestations == 2
    for seen in noting.values():
        (first, expected), (second, other) = seen.seen
        assert expected != other
        seen.verifier(first, expected, None)
        for evidence, wrong in ((first, other), (second, expected), (first, b"")):
            with pytest.raises(EvidenceError):
                seen.verifier(evidence, wrong, None)


TRUSTS_NOBODY: dict[str, tuple[str, Callable[[], Verifier]]] = {
    "tdx": ("tdx", lambda: TdxVerifier(root=_other_root())),
    "sgx-gramine": ("sgx", lambda: SgxVerifier(root=_other_root())),
    "cca": ("cca", lambda: CcaVerifier(realm=Realm())),
    "se": ("se", lambda: SeVerifier(key=bytes(64), request=bytes(100))),
    "nvidia": ("nvidia", lambda: GpuVerifier(chains=(Gpu(uuid="GPU-1").chain,))),
    "nvidia-dpu": (
        "nvidia-dpu",
        lambda: DpuVerifier(identity=BlueField().identity.public_key()),
    ),
}


def _other_root() -> bytes:
    return Platform.generate().root


@pytest.mark.parametrize("name", TRUSTS_NOBODY)
@pytest.mark.blocks_loop
async def test_hardware_that_is_not_trusted_gets_no_token(short_tmp: Path, name: str) -> None:
    tee, verifier = TRUSTS_NOBODY[name]
    async with attesting(short_tmp, name) as (channel, kbs, _):
        kbs.behaviour.verifiers[tee] = verifier()
        with pytest.raises(GuestError, match="AA-KBC get token failed"):
            await get_token(channel)
        assert kbs.attestations == 0
