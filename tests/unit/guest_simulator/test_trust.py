"""Hardware that a KBS is told to trust on its command line."""

import base64
from pathlib import Path

import pytest

from guest_simulator.kbs.evidence import EvidenceError
from guest_simulator.kbs.trust import TRUSTED, read_trust
from guest_simulator.snp.chip import Chip
from guest_simulator.tdx.domain import Domain
from guest_simulator.tdx.quote import Platform


def test_a_root_certificate_is_what_quotes_are_verified_against(tmp_path: Path) -> None:
    platform, root = Platform.generate(), tmp_path / "root.pem"
    root.write_bytes(platform.root)
    tee, verifier = read_trust(f"tdx={root}")
    quote = base64.b64encode(platform.quote(Domain().report(bytes(64)))).decode()
    evidence = {"quote": quote, "cc_eventlog": None}
    assert (tee, verifier(evidence, b"", None).report_data) == ("tdx", "00" * 64)
    root.write_bytes(Platform.generate().root)
    with pytest.raises(EvidenceError, match="not trusted"):
        read_trust(f"tdx={root}")[1](evidence, b"", None)


@pytest.mark.parametrize("tee", ["snp", "az-snp-vtpm"])
def test_a_directory_of_certificates_may_lack_that_of_the_chip(tee: str, tmp_path: Path) -> None:
    for role, content in Chip.generate().certificates.items():
        (tmp_path / f"{role.lower()}.der").write_bytes(content)
    assert read_trust(f"{tee}={tmp_path}")[0] == tee
    (tmp_path / "vcek.der").unlink()
    assert read_trust(f"{tee}={tmp_path}")[0] == tee
    (tmp_path / "ask.der").unlink()
    with pytest.raises(FileNotFoundError):
        read_trust(f"{tee}={tmp_path}")


@pytest.mark.parametrize("tee", ["tpm", "csv", "hygondcu", "sgx", "az-tdx-vtpm"])
def test_everything_that_help_names_is_understood(tee: str, tmp_path: Path) -> None:
    file = tmp_path / "root.pem"
    file.write_bytes(b"")
    said = tee if tee in TRUSTED else f"{tee}={file}"
    assert read_trust(said)[0] == tee


@pytest.mark.parametrize("text", ["", "tdx", "tdx=", "tpm=", "sample", "=x", "nonsense=/x"])
def test_anything_else_is_refused_and_says_what_there_is(text: str) -> None:
    with pytest.raises(ValueError, match="expected one of tpm, csv"):
        read_trust(text)
