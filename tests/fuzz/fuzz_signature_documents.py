"""What image signatures are made of: payloads, bundles, statements, referrers, lookaside YAML."""

from guest.errors import DecodeError, DeniedError
from image_pull.reference import ImageReference
from image_pull.signature.bundle import parse_bundle, parse_referrers, parse_statement
from image_pull.signature.identity import IdentityKind, SignedIdentity, SignedName
from image_pull.signature.payload import PayloadType, SignedClaim
from image_pull.signature.public_key import SignerKey
from image_pull.signature.sigstore_config import SigstoreConfig

HEX = b"ab" * 32
SEEDS = (
    b'{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":"sha256:'
    + HEX
    + b'"},"identity":{"docker-reference":"q.io/a:b"}},"optional":{"timestamp":1,"creator":"x"}}',
    b'{"critical":{"identity":{"docker-reference":"q.io/a"},"image":{"docker-manifest-digest":'
    b'"sha256:' + HEX + b'"},"type":"cosign container image signature"},"optional":null}',
    (
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},'
        b'"dsseEnvelope":{"payload":"aGk=","payloadType":"application/vnd.in-toto+json","signatures":'
        b'[{"sig":"AAAA","keyid":""}]}}'
    ),
    b'{"_type":"https://in-toto.io/Statement/v1","predicateType":'
    b'"https://sigstore.dev/cosign/sign/v1","subject":[{"digest":{"sha256":"' + HEX + b'"}}]}',
    b'{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":3,"digest":'
    b'"sha256:' + HEX + b'","artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json"}]}',
    b"default-docker: {sigstore: 'file:///a'}\ndocker:\n  q.io/a:\n    lookaside: https://x/y\n",
    (
        b"-----BEGIN PUBLIC KEY-----\n"
        b"MCowBQYDK2VwAyEAifLZlHKRn2GgkNpYjiknOuf1BHHrz4jeZCZG6MSp8eE=\n"
        b"-----END PUBLIC KEY-----\n"
    ),
)
IMAGE = ImageReference.parse("q.io/a:b")
IDENTITY = SignedIdentity(kind=IdentityKind.MATCH_REPO_DIGEST_OR_EXACT)


def one_input(data: bytes) -> None:
    """A value, or a DecodeError, of each decoder."""
    for kind in PayloadType:
        try:
            IDENTITY.verify(IMAGE, SignedClaim.parse(data, kind).docker_reference)
        except (DecodeError, DeniedError):
            pass
    for parse in (parse_bundle, parse_statement, parse_referrers, SignerKey.decode):
        try:
            parse(data)
        except DecodeError:
            pass
    try:
        config = SigstoreConfig.parse(data)
        assert config.merged(config) == config
        config.base_of(IMAGE)
    except DecodeError:
        pass
    try:
        SignedName.parse(data.decode("latin-1"))
    except DecodeError:
        pass
