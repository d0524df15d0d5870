"""Who may have made a signature of cosign's: one of the policy's keys, or whom it names.

Source: docs/spec/image-pull.md 9.7; containers-policy.json(5), "sigstoreSigned".
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from guest.deadline import Deadline
from guest.errors import DecodeError, IntegrityError, UnsupportedError
from guest.secret import Secret
from guest.wire import decode_base64
from image_pull.signature.bundle import parse_bundle
from image_pull.signature.evaluation import KeyStore
from image_pull.signature.key_source import KeyAt, KeyHere, KeySource
from image_pull.signature.log_entry import LogEntry
from image_pull.signature.public_key import SignerKey

PROMISE: Final = "dev.sigstore.cosign/bundle"


class Signers(Protocol):
    """Verifies what is under a signature, whatever it says."""

    async def verify_layer(
        self, signature: bytes, payload: bytes, annotations: Mapping[str, str]
    ) -> None:
        """Require a good signature in the form of a signature image's layer.

        Raises:
            GuestError: it is not good, or signers of this kind do not sign in this form.
        """
        ...

    async def open_bundle(self, data: bytes) -> bytes:
        """Require a good signature in a bundle; the statement that it is over.

        Raises:
            GuestError: it is not good, or signers of this kind do not sign in this form.
        """
        ...


class KeySigners:
    """Holders of keys; with logs, what they sign is in one of them."""

    def __init__(self, keys: Sequence[SignerKey], log_keys: Sequence[SignerKey]) -> None:
        """Any of `keys` is good; no log is needed where there are no `log_keys`."""
        self._keys = tuple(keys)
        self._log_keys = tuple(log_keys)

    async def verify_layer(
        self, signature: bytes, payload: bytes, annotations: Mapping[str, str]
    ) -> None:
        """See `Signers.verify_layer`."""
        key = self._verify(signature, payload)
        if self._log_keys:
            entry = read_promise(annotations, self._log_keys)
            entry.verify_about(signature, payload)
            if SignerKey.decode(entry.signer).key != key.key:
                raise IntegrityError("log entry is about another signer")

    async def open_bundle(self, data: bytes) -> bytes:
        """See `Signers.open_bundle`."""
        envelope = parse_bundle(data)
        self._verify(envelope.signature, envelope.signed)
        if self._log_keys:
            raise UnsupportedError("logs of bundles are only looked up in a trusted root")
        return envelope.payload

    def _verify(self, signature: bytes, signed: bytes) -> SignerKey:
        for key in self._keys:
            try:
                key.verify(signature, signed)
            except IntegrityError as error:
                failure = error
            else:
                return key
        raise failure


def read_promise(annotations: Mapping[str, str], keys: Sequence[SignerKey]) -> LogEntry:
    """What a log promised for a layer's signature.

    Raises:
        DecodeError: nothing, or in another form.
        IntegrityError: it is no log of the policy's.
    """
    text = annotations.get(PROMISE)
    if text is None:
        raise DecodeError(f"layer has no annotation {PROMISE}")
    return LogEntry.read(text, keys)


async def read_keys(
    sources: Sequence[KeySource], store: KeyStore, deadline: Deadline
) -> tuple[SignerKey, ...]:
    """The keys of a requirement.

    Raises:
        DecodeError: one is no such key.
        GuestError: one cannot be had.
    """
    found = []
    for source in sources:
        match source:
            case KeyAt(uri=uri):
                found.append(SignerKey.decode((await store.fetch(uri, deadline)).reveal()))
            case KeyHere(data=text):
                found.append(SignerKey.from_policy(text))
    return tuple(found)


async def read_document(
    source: KeySource, store: KeyStore, deadline: Deadline, begin: str
) -> Secret:
    """Certificates or a trusted root: behind a URI, or here as text or base64 of it.

    Args:
        source: which of them.
        store: where URIs lead.
        deadline: for it.
        begin: how the text begins when it is no base64.

    Raises:
        DecodeError: neither text nor base64.
        GuestError: it cannot be had.
    """
    match source:
        case KeyAt(uri=uri):
            return await store.fetch(uri, deadline)
        case KeyHere(data=text) if text.lstrip().startswith(begin):
            return Secret(text.encode())
        case KeyHere(data=text):
            return Secret(decode_base64("".join(text.split()), "data of fulcio"))
