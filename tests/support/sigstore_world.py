"""A Sigstore of our own: authority, certificate log, signature log; with knobs for every lie.

Nothing of it comes from the library that verifies: certificates are `cryptography`'s, the logs'
structures are made by hand.
"""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
IN_TOTO: Final = "application/vnd.in-toto+json"
SIGN_PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
ISSUER: Final = "https://issuer.example"
EMAIL: Final = "dev@example.com"
SIGNED_AT: Final = datetime(2024, 5, 1, 12, 5, tzinfo=UTC)
"""Long ago: every certificate of a signer has ended since."""

ISSUED_AT: Final = SIGNED_AT - timedelta(minutes=5)
LIFE: Final = timedelta(minutes=10)
SCT_LIST: Final = ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUER_V1: Final = ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
ISSUER_V2: Final = ObjectIdentifier("1.3.6.1.4.1.57264.1.8")

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """On P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    """The public half, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: Key) -> str:
    """The public half, PEM."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign(key: Key, data: bytes) -> bytes:
    """ECDSA over SHA-256."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def b64(data: bytes) -> str:
    """Standard base64."""
    return base64.b64encode(data).decode()


def compact(value: object) -> bytes:
    """JSON that is its own RFC 8785 form: sorted, no spaces, plain text and numbers only."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def certificate_pem(certificate: x509.Certificate) -> str:
    """PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


@dataclass
class Authority:
    """A root or an intermediate."""

    key: Key
    certificate: x509.Certificate

    @classmethod
    def create(cls, name: str, above: "Authority | None" = None) -> "Authority":
        """A new one, signed by itself unless something is above."""
        key = new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = above or cls(key, None)  # type: ignore[arg-type]  # itself
        issuer = above.certificate.subject if above else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(_identifier(key), critical=False)
            .add_extension(_authority(signer.key), critical=False)
        )
        return cls(key, builder.sign(signer.key, hashes.SHA256()))


def _identifier(key: Key) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key.public_key())


def _authority(key: Key) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _usage(*, signs_certificates: bool, signs: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signs and not signs_certificates,
        content_commitment=not signs and not signs_certificates,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass
class Signer:
    """Somebody with a certificate for minutes."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """Of the certificate."""
        return certificate_pem(self.certificate)


@dataclass
class SigstoreWorld:
    """Everything that a Sigstore has, with new keys."""

    root: Authority = field(default_factory=lambda: Authority.create("test root"))
    ct_key: Key = field(default_factory=new_key)
    log_key: Key = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self.between = Authority.create("test intermediate", self.root)

    @property
    def authorities_pem(self) -> str:
        """Root and intermediate."""
        return certificate_pem(self.root.certificate) + certificate_pem(self.between.certificate)

    def issue(
        self,
        *,
        email: str | None = EMAIL,
        uri: str | None = None,
        issuer: str | None = ISSUER,
        issuer_v2: str | None = ISSUER,
        issued: datetime = ISSUED_AT,
        purpose: ObjectIdentifier | None = ExtendedKeyUsageOID.CODE_SIGNING,
        signs: bool = True,
        by: Authority | None = None,
        sct_key: Key | None = None,
        scts: int = 1,
    ) -> Signer:
        """A certificate as Fulcio issues it, known to the certificate log."""
        key, authority = new_key(), by or self.between
        names: list[x509.GeneralName] = [x509.RFC822Name(email)] if email else []
        names += [x509.UniformResourceIdentifier(uri)] if uri else []
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(issued)
            .not_valid_after(issued + LIFE)
            .add_extension(_usage(signs_certificates=False, signs=signs), critical=True)
            .add_extension(_identifier(key), critical=False)
            .add_extension(_authority(authority.key), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if issuer is not None:
            plain = x509.UnrecognizedExtension(ISSUER_V1, issuer.encode())
            builder = builder.add_extension(plain, critical=False)
        if issuer_v2 is not None:
            text = issuer_v2.encode()
            string = x509.UnrecognizedExtension(ISSUER_V2, bytes([0x0C, len(text)]) + text)
            builder = builder.add_extension(string, critical=False)
        draft = builder.sign(authority.key, hashes.SHA256())
        sct = self._sct(draft, authority, sct_key or self.ct_key, issued)
        listed = b"".join(struct.pack(">H", len(sct)) + sct for _ in range(scts))
        value = struct.pack(">H", len(listed)) + listed
        octets = bytes([0x04, len(value)]) + value
        if len(value) > 127:
            octets = bytes([0x04, 0x81 + (len(value) > 255)])
            octets += len(value).to_bytes(1 + (len(value) > 255)) + value
        if scts:
            extension = x509.UnrecognizedExtension(SCT_LIST, octets)
            builder = builder.add_extension(extension, critical=False)
        return Signer(key, builder.sign(authority.key, hashes.SHA256()))

    def _sct(self, draft: x509.Certificate, by: Authority, key: Key, at: datetime) -> bytes:
        body = draft.tbs_certificate_bytes
        moment = int(at.timestamp() * 1000)
        signed = struct.pack(">BBQH", 0, 0, moment, 1) + hashlib.sha256(spki(by.key)).digest()
        signed += len(body).to_bytes(3) + body + bytes(2)
        signature = sign(key, signed)
        name = hashlib.sha256(spki(self.ct_key)).digest()
        head = b"\0" + name + struct.pack(">QH", moment, 0) + bytes([4, 3])
        return head + struct.pack(">H", len(signature)) + signature

    def trusted_root(self, **changes: Any) -> str:
        """The document that a policy carries."""
        log = {"hashAlgorithm": "SHA2_256", "baseUrl": "https://log.example"}
        chain = [self.between.certificate, self.root.certificate]
        document = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log | _log_instance(self.log_key)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "test", "commonName": "test"},
                    "uri": "https://fulcio.example",
                    "certChain": {
                        "certificates": [
                            {"rawBytes": b64(each.public_bytes(Encoding.DER))} for each in chain
                        ]
                    },
                    "validFor": {"start": "2020-01-01T00:00:00Z"},
                }
            ],
            "ctlogs": [log | _log_instance(self.ct_key)],
            "timestampAuthorities": [],
        }
        return json.dumps(document | changes)

    def promise(
        self,
        signer_pem: str,
        signature: bytes,
        payload: bytes,
        *,
        at: datetime = SIGNED_AT,
        key: Key | None = None,
        **changes: Any,
    ) -> str:
        """The annotation with what the log promised of a signature image's layer."""
        data = {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}}
        public_key = {"content": b64(signer_pem.encode())}
        body = {
            "apiVersion": "0.0.1",
            "kind": "hashedrekord",
            "spec": {
                "data": data,
                "signature": {"content": b64(signature), "publicKey": public_key},
            },
        } | changes
        entry = {
            "body": b64(compact(body)),
            "integratedTime": int(at.timestamp()),
            "logIndex": 7,
            "logID": hashlib.sha256(spki(self.log_key)).hexdigest(),
        }
        signed = b64(sign(key or self.log_key, compact(entry)))
        return json.dumps({"SignedEntryTimestamp": signed, "Payload": entry})

    def bundle(
        self,
        signer: Signer,
        digest: str,
        *,
        at: datetime = SIGNED_AT,
        log_key: Key | None = None,
        predicate: str = SIGN_PREDICATE,
        lie: str = "",
    ) -> bytes:
        """A bundle of v0.3 as cosign 3 makes it; `lie` names the one thing that is wrong."""
        statement = json.dumps(
            {
                "_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": "", "digest": {"sha256": digest.removeprefix("sha256:")}}],
                "predicateType": predicate,
                "predicate": {},
            }
        ).encode()
        signed = b"DSSEv1 28 %b %d %b" % (IN_TOTO.encode(), len(statement), statement)
        key = new_key() if lie == "signature" else signer.key
        signature = sign(key, signed)
        logged = statement + b" " if lie == "logged payload" else statement
        other = sign(signer.key, signed) if lie == "logged signature" else signature
        pem = signer.pem
        if lie == "logged signer":
            pem = self.issue().pem
        body = compact(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": "00" * 32},
                    "payloadHash": {
                        "algorithm": "sha256",
                        "value": hashlib.sha256(logged).hexdigest(),
                    },
                    "signatures": [{"signature": b64(other), "verifier": b64(pem.encode())}],
                },
            }
        )
        entry = self._entry(body, at, log_key or self.log_key, lie)
        document = {
            "mediaType": BUNDLE,
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(signer.certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [] if lie == "no entry" else [entry],
                "timestampVerificationData": {"rfc3161Timestamps": []},
            },
            "dsseEnvelope": {
                "payload": b64(statement),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": b64(signature)}],
            },
        }
        return json.dumps(document).encode()

    def _entry(self, body: bytes, at: datetime, key: Key, lie: str) -> dict[str, Any]:
        name = hashlib.sha256(spki(self.log_key)).digest()
        leaves = [hashlib.sha256(b"\0" + bytes([n])).digest() for n in range(5)]
        leaves[3] = hashlib.sha256(b"\0" + body).digest()
        first, second = _join(leaves[0], leaves[1]), _join(leaves[2], leaves[3])
        root = _join(_join(first, second), leaves[4])
        proof = [leaves[2], first, leaves[4]]
        if lie == "proof":
            proof[1] = bytes(32)
        note = f"log.example - 1\n5\n{b64(bytes(32) if lie == 'checkpoint root' else root)}\n"
        by = new_key() if lie == "checkpoint signature" else key
        note_signature = b64(name[:4] + sign(by, note.encode()))
        moment = int(at.timestamp())
        promised = {
            "body": b64(body),
            "integratedTime": moment + (lie == "time"),
            "logIndex": 3,
            "logID": name.hex(),
        }
        entry: dict[str, Any] = {
            "logIndex": "3",
            "logId": {"keyId": b64(name)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": b64(sign(key, compact(promised)))},
            "inclusionProof": {
                "logIndex": "3",
                "rootHash": b64(root),
                "treeSize": "5",
                "hashes": [b64(each) for each in proof],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.example {note_signature}\n"},
            },
            "canonicalizedBody": b64(body),
        }
        if lie == "no proof":
            del entry["inclusionProof"]
        if lie == "no promise":
            del entry["inclusionPromise"]
        return entry


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _log_instance(key: Key) -> dict[str, Any]:
    return {
        "publicKey": {
            "rawBytes": b64(spki(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": {"start": "2020-01-01T00:00:00Z"},
        },
        "logId": {"keyId": b64(hashlib.sha256(spki(key)).digest())},
    }
