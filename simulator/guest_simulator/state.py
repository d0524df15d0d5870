"""What `guest-simulator up` leaves on disk: keys, a token, certificates, resources."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from guest_simulator.cert import Certificate, CertificateAuthority
from guest_simulator.kbs.admin import admin_token

PRIVATE: Final = 0o600


class StateError(Exception):
    """The state directory cannot be read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The files of one simulator.

    Attributes:
        admin_key: Ed25519 private key of the KBS's administrator.
        signer: P-256 key of the KBS's tokens.
        directory: where they lie.
    """

    directory: Path
    admin_key: ed25519.Ed25519PrivateKey
    signer: ec.EllipticCurvePrivateKey

    @property
    def admin_key_path(self) -> Path:
        """PEM, PKCS#8."""
        return self.directory / "admin-key.pem"

    @property
    def admin_token_path(self) -> Path:
        """A token made with it, valid for ten years."""
        return self.directory / "admin-token"

    @property
    def ca_path(self) -> Path:
        """The root certificate, with TLS only."""
        return self.directory / "ca.pem"

    @property
    def resources(self) -> Path:
        """The KBS's resources, one file each."""
        return self.directory / "repository"

    @property
    def blobs(self) -> Path:
        """The registry's blobs."""
        return self.directory / "blobs"


def open_state(directory: Path) -> State:
    """Read a state directory, making what is missing.

    Raises:
        StateError: a file is no such key, or the directory cannot be used.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        admin = _admin_key(directory / "admin-key.pem")
        signer = _signer(directory / "token-signer.pem")
        state = State(directory=directory, admin_key=admin, signer=signer)
        _write(state.admin_token_path, admin_token(admin, time.time()).encode())
        public = admin.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (directory / "admin-key.pub.pem").write_bytes(public)
    except (OSError, ValueError, TypeError) as error:
        raise StateError(f"state directory {directory}: {error}") from error
    return state


def issue_certificate(state: State) -> Certificate:
    """A new root in `ca.pem`, and a certificate for loopback's names.

    Raises:
        StateError: the root cannot be written.
    """
    authority = CertificateAuthority.create()
    try:
        authority.write(state.directory)
    except OSError as error:
        raise StateError(f"state directory {state.directory}: {error}") from error
    return authority.issue()


def read_resources(source: Path) -> dict[str, bytes]:
    """The files `repository/type/tag` below a directory, by key.

    Raises:
        StateError: the directory or a file cannot be read.
    """
    try:
        if not source.is_dir():
            raise StateError(f"resources: {source} is not a directory")
        return {
            path.relative_to(source).as_posix(): path.read_bytes()
            for path in sorted(source.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        raise StateError(f"resources: {error}") from error


def _admin_key(path: Path) -> ed25519.Ed25519PrivateKey:
    if not path.exists():
        _write(path, _pem(ed25519.Ed25519PrivateKey.generate()))
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ValueError(f"{path.name} is not an Ed25519 key")
    return key


def _signer(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        _write(path, _pem(ec.generate_private_key(ec.SECP256R1())))
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise ValueError(f"{path.name} is not a P-256 key")
    return key


def _pem(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes) -> None:
    path.touch(PRIVATE)
    path.chmod(PRIVATE)
    path.write_bytes(data)
