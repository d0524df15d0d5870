"""Makers of image signatures that share no code with what verifies them: gpg, openssl."""

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from guest.crypto.digest import Digest
from guest.deadline import Deadline
from guest.errors import NotFoundError
from guest_simulator.registry.server import Registry
from image_pull.manifest import Descriptor

SECONDS = 60
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
EMPTY = b"{}"


def run(*command: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None) -> bytes:
    """Run a program to its good end; what it printed."""
    done = subprocess.run(
        command, input=stdin or b"", capture_output=True, timeout=SECONDS, env=env
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr.decode(errors='replace')}"
    return done.stdout


@dataclass
class Fetched:
    """A manifest of a repository in memory."""

    body: bytes
    content_type: str = OCI_MANIFEST


@dataclass
class Repository:
    """A repository in memory, which counts what it is asked."""

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    index: bytes | None = None
    asked: list[str] = field(default_factory=list)

    async def manifest(self, selector: str, deadline: Deadline) -> Fetched:
        """By tag or digest."""
        self.asked.append(selector)
        if selector not in self.manifests:
            raise NotFoundError(f"no manifest {selector}")
        return Fetched(self.manifests[selector])

    async def small_blob(self, blob: Descriptor, deadline: Deadline) -> bytes:
        """Unchecked."""
        self.asked.append(str(blob.digest))
        return self.blobs[str(blob.digest)]

    async def referrers(self, digest: Digest, deadline: Deadline) -> bytes | None:
        """The one index there is."""
        self.asked.append(f"referrers {digest}")
        return self.index


class Gnupg:
    """Keys of GnuPG in a directory of their own (a short path, for its agent's socket)."""

    def __init__(self, home: Path) -> None:
        """Use an existing directory."""
        home.chmod(0o700)
        self.environment = {**os.environ, "GNUPGHOME": str(home), "LC_ALL": "C"}

    def gpg(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Run gpg without questions."""
        quiet = ("--batch", "--yes", "-q", "--no-tty", "--pinentry-mode", "loopback")
        return run("gpg", *quiet, "--passphrase", "", *arguments, stdin=stdin, env=self.environment)

    def key(
        self, name: str, kind: str = "ed25519", usage: str = "sign", *options: str, life: str = "0"
    ) -> str:
        """Make a primary key; its fingerprint, upper case."""
        self.gpg(*options, "--quick-gen-key", f"{name} <{name}@example.com>", kind, usage, life)
        return self.fingerprints(name)[0]

    def subkey(self, primary: str, kind: str = "ed25519", *options: str, life: str = "0") -> None:
        """Add a signing subkey."""
        self.gpg(*options, "--quick-add-key", primary, kind, "sign", life)

    def fingerprints(self, name: str) -> list[str]:
        """Of the primary key, then of its subkeys."""
        text = self.gpg("--with-colons", "--list-keys", name).decode()
        return [line.split(":")[9] for line in text.splitlines() if line.startswith("fpr:")]

    def edit(self, name: str, *answers: str) -> None:
        """Edit a key by what a person would type."""
        typed = "".join(f"{answer}\n" for answer in answers).encode()
        options = ("-q", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "")
        command = ("gpg", *options, "--command-fd", "0", "--edit-key", name)
        run(*command, stdin=typed, env=self.environment)

    def export(self, *names: str, armor: bool = False) -> bytes:
        """The public keys."""
        return self.gpg(*(("--armor",) if armor else ()), "--export", *names)

    def sign(self, name: str, content: bytes, *options: str) -> bytes:
        """A signed message."""
        return self.gpg(*options, "--local-user", name, "--output", "-", "--sign", stdin=content)

    def close(self) -> None:
        """End the agent that gpg started in this home."""
        run("gpgconf", "--kill", "all", env=self.environment)


@dataclass(frozen=True)
class OpensslKey:
    """A key that openssl made and signs with."""

    path: Path
    public: str

    @classmethod
    def make(cls, path: Path, *options: str) -> "OpensslKey":
        """Make a key; by default on P-256."""
        chosen = options or ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
        run("openssl", "genpkey", *chosen, "-out", str(path))
        return cls(path, run("openssl", "pkey", "-in", str(path), "-pubout").decode())

    def sign(self, content: bytes, digest: str = "sha256") -> bytes:
        """A signature as cosign makes it: DER for EC, PKCS#1 v1.5 for RSA."""
        return run("openssl", "dgst", f"-{digest}", "-sign", str(self.path), stdin=content)


def simple_payload(reference: str, digest: str, **critical: object) -> bytes:
    """What simple signing signs."""
    inner = {
        "type": "atomic container signature",
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": reference},
        **critical,
    }
    return json.dumps({"critical": inner, "optional": {"creator": "t", "timestamp": 1}}).encode()


def cosign_payload(reference: str, digest: str, **critical: object) -> bytes:
    """What cosign signs."""
    inner = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
        **critical,
    }
    return json.dumps({"critical": inner, "optional": None}).encode()


def descriptor(media_type: str, data: bytes, **annotations: str) -> dict[str, object]:
    """A descriptor of some bytes."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    found: dict[str, object] = {"mediaType": media_type, "digest": digest, "size": len(data)}
    return found | ({"annotations": annotations} if annotations else {})


def push_signatures(
    registry: Registry, name: str, digest: str, signatures: list[tuple[bytes, str]]
) -> None:
    """Put a signature image under its tag: payloads with their base64 signatures."""
    key = "dev.cosignproject.cosign/signature"
    layers = []
    for payload, signature in signatures:
        registry.put_blob(name, payload)
        layers.append(descriptor(SIMPLE_SIGNING, payload, **{key: signature}))
    _push(registry, name, digest.replace(":", "-") + ".sig", {"layers": layers})


def push_bundle(registry: Registry, name: str, digest: str, bundle: bytes) -> None:
    """Attach a bundle as a referrer of a digest."""
    registry.put_blob(name, bundle)
    subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}
    more = {"artifactType": BUNDLE, "layers": [descriptor(BUNDLE, bundle)], "subject": subject}
    _push(registry, name, f"bundle-{hashlib.sha256(bundle).hexdigest()[:12]}", more)


def _push(registry: Registry, name: str, tag: str, more: Mapping[str, object]) -> None:
    registry.put_blob(name, EMPTY)
    config = descriptor("application/vnd.oci.empty.v1+json", EMPTY)
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, **more}
    registry.put_manifest(name, tag, OCI_MANIFEST, json.dumps(manifest).encode())


def make_bundle(key: OpensslKey, digest: str, predicate: str = SIGN_PREDICATE) -> bytes:
    """A bundle with a plain key, as cosign 3 makes it."""
    statement = json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "", "digest": {"sha256": digest.removeprefix("sha256:")}}],
            "predicateType": predicate,
            "predicate": {},
        }
    ).encode()
    kind = b"application/vnd.in-toto+json"
    signed = b"DSSEv1 28 %b %d %b" % (kind, len(statement), statement)
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(statement).decode(),
                "payloadType": kind.decode(),
                "signatures": [{"sig": base64.b64encode(key.sign(signed)).decode()}],
            },
        }
    ).encode()
