"""Which hardware a KBS trusts, as the command line says it.

`TEE` alone for evidence that carries its own key, `TEE=PATH` for a root certificate (PEM), or for a
directory with `ark.der`, `ask.der` and, where evidence may come without a chain, `vcek.der`.

Source: docs/spec/attesters.md 3.8, 4.5, 6.4, 7.4, 8, 11 and 12.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from guest_simulator.hygon.verifier import verify_csv, verify_dcu
from guest_simulator.kbs.evidence import Verifier
from guest_simulator.sgx.verifier import SgxVerifier
from guest_simulator.snp.verifier import SnpVerifier, check_report
from guest_simulator.tdx.verifier import TdxVerifier, check_td_report
from guest_simulator.tpm.verifier import AzureVerifier, verify_tpm


def _azure_tdx(root: bytes) -> Verifier:
    check = check_td_report(root)
    return AzureVerifier(member="td_quote", report_data_at=128, check_hardware=check)


def _azure_snp(certificates: dict[str, bytes]) -> Verifier:
    check = check_report(certificates)
    return AzureVerifier(member="vcek", report_data_at=80, check_hardware=check)


_BARE: Final[Mapping[str, Verifier]] = MappingProxyType(
    {"tpm": verify_tpm, "csv": verify_csv, "hygondcu": verify_dcu}
)
_BY_ROOT: Final[Mapping[str, Callable[[bytes], Verifier]]] = MappingProxyType(
    {
        "tdx": lambda root: TdxVerifier(root=root),
        "sgx": lambda root: SgxVerifier(root=root),
        "az-tdx-vtpm": _azure_tdx,
    }
)
_BY_CHAIN: Final[Mapping[str, Callable[[dict[str, bytes]], Verifier]]] = MappingProxyType(
    {"snp": lambda chain: SnpVerifier(certificates=chain), "az-snp-vtpm": _azure_snp}
)

TRUSTED: Final = (*_BARE, *(f"{tee}=PEM" for tee in _BY_ROOT), *(f"{tee}=DIR" for tee in _BY_CHAIN))
"""What may be said, for people."""


def read_trust(text: str) -> tuple[str, Verifier]:
    """The TEE and its verifier.

    Raises:
        ValueError: no such TEE, or it is said in another way.
        OSError: what is named cannot be read.
    """
    tee, separator, path = text.partition("=")
    if not separator and tee in _BARE:
        return tee, _BARE[tee]
    if path and tee in _BY_ROOT:
        return tee, _BY_ROOT[tee](Path(path).read_bytes())
    if path and tee in _BY_CHAIN:
        files = {role: Path(path) / f"{role.lower()}.der" for role in ("ARK", "ASK", "VCEK")}
        needed = ("ARK", "ASK")
        chain = {
            role: file.read_bytes()
            for role, file in files.items()
            if role in needed or file.exists()
        }
        return tee, _BY_CHAIN[tee](chain)
    raise ValueError(f"{text}: expected one of {', '.join(TRUSTED)}")
