"""The DPU's alias key signs the report data as it is."""

import errno
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from attestation_agent.attesters import detect_devices
from attestation_agent.attesters.base import TeeHints
from attestation_agent.attesters.nvidia_dpu import open_nvidia_dpu
from guest.deadline import Deadline
from guest.errors import PlatformError
from guest.tee import Tee
from guest.wire import decode_base64
from guest_simulator.devices.bluefield import ALIAS_KEY, CERTIFICATES, BlueField
from guest_simulator.machine import Machine
from guest_simulator.tdx.guest import Fault


def soon() -> Deadline:
    return Deadline.after(30)


@pytest.mark.parametrize("length", [0, 48, 64, 80])
async def test_the_signature_verifies_over_unpadded_report_data(
    short_tmp: Path, length: int
) -> None:
    dpu = BlueField()
    dpu.install(short_tmp)
    data = bytes(range(length))
    attester = open_nvidia_dpu(TeeHints(root=str(short_tmp)))
    evidence = await attester.evidence(data, soon())
    assert isinstance(evidence, dict)
    assert evidence["version"] == 1
    (device,) = evidence["devices"]
    assert device["architecture"] == "bluefield3"
    alias = (short_tmp / CERTIFICATES / "alias_cert").read_bytes()
    assert decode_base64(device["alias_cert"]) == alias
    raw = decode_base64(device["report_data_signature"])
    assert len(raw) == 96
    signature = encode_dss_signature(
        int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big")
    )
    dpu.alias.public_key().verify(signature, data[:64], ec.ECDSA(hashes.SHA384()))


@pytest.mark.parametrize("product", ["0xa2dc", "0xa2da"])
def test_it_is_looked_for_only_when_it_is_wanted(short_tmp: Path, product: str) -> None:
    BlueField().install(short_tmp, product=product)
    assert detect_devices(TeeHints(root=str(short_tmp))) == ()
    found = detect_devices(TeeHints(root=str(short_tmp), nvidia_dpu=True, sample_device=True))
    assert [device.tee for device in found] == [Tee.SAMPLE_DEVICE, Tee.NVIDIA_DPU]
    assert (found[1].registers, found[1].init_data) == (None, None)


def test_another_device_is_no_dpu_and_a_bus_that_fails_is_an_error(short_tmp: Path) -> None:
    wanted = TeeHints(root=str(short_tmp), nvidia_dpu=True)
    assert detect_devices(wanted) == ()
    BlueField().install(short_tmp, product="0x1017")
    assert detect_devices(wanted) == ()
    kernel = Machine(root=str(short_tmp))
    kernel.faults.append(Fault(path="/vendor", call="read", error=errno.EIO))
    with pytest.raises(PlatformError, match=r"vendor: read: EIO"):
        detect_devices(TeeHints(root=str(short_tmp), nvidia_dpu=True, kernel=kernel))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (ALIAS_KEY, b"", "EBADMSG .not 48 bytes"),
        (ALIAS_KEY, bytes(49), "EBADMSG .not 48 bytes"),
        (ALIAS_KEY, bytes(48), "EBADMSG .no key of P-384"),
        (ALIAS_KEY, b"\xff" * 48, "EBADMSG .no key of P-384"),
        (ALIAS_KEY, bytes(47) + b"\1", "alias_cert is another key's"),
        (f"{CERTIFICATES}/alias_cert", b"\x30\1\0", "alias_cert is another key's"),
        (f"{CERTIFICATES}/alias_cert", b"", "alias_cert: read: EBADMSG"),
        (f"{CERTIFICATES}/device_id_cert", b"\x30\x82\1\0", "device_id_cert: read: EBADMSG"),
        (f"{CERTIFICATES}/device_id_cert", bytes(16385), "more than 16384 bytes"),
    ],
)
async def test_key_and_certificates_that_do_not_fit_are_errors(
    short_tmp: Path, name: str, content: bytes, message: str
) -> None:
    BlueField().install(short_tmp)
    (short_tmp / name).write_bytes(content)
    with pytest.raises(PlatformError, match=message) as caught:
        await open_nvidia_dpu(TeeHints(root=str(short_tmp))).evidence(b"x", soon())
    assert caught.value.__cause__ is None or b"\xff" * 8 not in str(caught.value).encode()
