"""Credentials files, challenges and token replies."""

from guest.errors import DecodeError
from image_pull.reference import ImageReference
from image_pull.registry.auth import AuthFile, parse_challenges, parse_token_reply

SEEDS = (
    (
        b'{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"q.io/a":{"username":"u",'
        b'"password":"p"},"r.io":{"identitytoken":"t"}}}'
    ),
    b'Bearer realm="https://a/t?x=1",service="s, \\"q\\"",scope="repository:a/b:pull", Basic x=y',
    b'{"token":"t","expires_in":300}',
)
REFERENCES = tuple(ImageReference.parse(text) for text in ("mysql", "q.io/a/b", "r.io/x"))


def one_input(data: bytes) -> None:
    """Credentials, challenges and tokens, or DecodeErrors."""
    try:
        file = AuthFile.parse(data)
        for reference in REFERENCES:
            file.find(reference)
    except DecodeError:
        pass
    try:
        parse_challenges(data.decode("latin-1"))
    except DecodeError:
        pass
    try:
        parse_token_reply(data)
    except DecodeError:
        pass
