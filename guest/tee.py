"""The names of trusted execution environments and their devices on the wire. Sans-I/O.

Source: docs/spec/attestation-agent.md 3.3, docs/spec/kbs-protocol.md 3.2.
"""

from enum import StrEnum

from guest.errors import DecodeError


class Tee(StrEnum):
    """One kind of primary TEE or of attested device; the value is the wire's spelling."""

    TDX = "tdx"
    SNP = "snp"
    SGX = "sgx"
    AZ_SNP_VTPM = "az-snp-vtpm"
    AZ_TDX_VTPM = "az-tdx-vtpm"
    CCA = "cca"
    CSV = "csv"
    SE = "se"
    TPM = "tpm"
    SAMPLE = "sample"
    SAMPLE_DEVICE = "sampledevice"
    NVIDIA = "nvidia"
    NVIDIA_DPU = "nvidia-dpu"
    HYGON_DCU = "hygondcu"

    @classmethod
    def parse(cls, text: str) -> "Tee":
        """Read a name, older spellings included, which are never written.

        Raises:
            DecodeError: no TEE has that name.
        """
        older = {"azsnpvtpm": "az-snp-vtpm", "aztdxvtpm": "az-tdx-vtpm", "nvidiadpu": "nvidia-dpu"}
        try:
            return cls(older.get(text, text))
        except ValueError as error:
            raise DecodeError(f"unknown TEE {text[:40]!r}") from error
