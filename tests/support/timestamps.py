"""A timestamp authority of OpenSSL's."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from support.signing import run
from support.sigstore_world import Authority, certificate_pem, new_key

CONFIG = """[tsa]
default_tsa = ts
[ts]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
ess_cert_id_chain = no
"""


class TimestampAuthority:
    """Says that it saw something, now."""

    def __init__(self, folder: Path) -> None:
        """Keep keys and files in a folder that exists."""
        self._folder = folder
        self.root = Authority.create("time root")
        key = new_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "time")]))
            .issuer_name(self.root.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
            )
        )
        self.certificate = builder.sign(self.root.key, hashes.SHA256())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(pem)
        (folder / "signer.pem").write_text(certificate_pem(self.certificate))
        (folder / "chain.pem").write_text(certificate_pem(self.root.certificate))
        (folder / "ts.cnf").write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01")

    def stamp(self, content: bytes) -> bytes:
        """A response of RFC 3161 about some bytes, with certificates."""
        data, query, reply = (self._folder / name for name in ("data", "query", "reply"))
        data.write_bytes(content)
        run("openssl", "ts", "-query", "-data", str(data), "-sha256", "-cert", "-out", str(query))
        run(
            "openssl", "ts", "-reply", "-config", str(self._folder / "ts.cnf"),
            "-queryfile", str(query), "-signer", str(self._folder / "signer.pem"),
            "-inkey", str(self._folder / "key.pem"), "-out", str(reply),
        )  # fmt: skip
        return reply.read_bytes()

    def described(self) -> dict[str, Any]:
        """As a trusted root has it."""
        chain = [self.certificate, self.root.certificate]
        encoded = [base64.b64encode(each.public_bytes(Encoding.DER)).decode() for each in chain]
        return {
            "subject": {"organization": "test", "commonName": "time"},
            "uri": "https://time.example",
            "certChain": {"certificates": [{"rawBytes": each} for each in encoded]},
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        }

    def added_to(self, bundle: bytes, content: bytes | None = None) -> bytes:
        """A bundle with a timestamp of its signature, or of something else."""
        document = json.loads(bundle)
        signature = base64.b64decode(document["dsseEnvelope"]["signatures"][0]["sig"])
        stamp = self.stamp(signature if content is None else content)
        stamps = [{"signedTimestamp": base64.b64encode(stamp).decode()}]
        document["verificationMaterial"]["timestampVerificationData"] = {
            "rfc3161Timestamps": stamps
        }
        return json.dumps(document).encode()
