"""Init data documents, which the host hands over."""

from guest.errors import DecodeError
from guest.initdata import InitData

SEEDS = (
    b"version = \"0.1.0\"\nalgorithm = \"sha384\"\n\n[data]\n\"aa.toml\" = '''\nx = 1\n'''\n",
    b'version = "0.1.0"\nalgorithm = "sm3"\nother = [1, {a = 2}]\n[data]\n',
)


def one_input(data: bytes) -> None:
    """A document, its digest and its text, or a DecodeError."""
    try:
        document = InitData.parse(data)
    except DecodeError:
        return
    assert document.text.encode() == data
    assert document.digest().algorithm is document.algorithm
