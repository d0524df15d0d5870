"""What an attestation service may answer gives a value or a DecodeError."""

from contextlib import suppress

from attestation_agent.tokens import as_messages
from guest.errors import DecodeError

SEEDS = (
    b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    b"e30.eyJleHAiOjF9.x",
    b"An internal error occured: \n\nCaused by:\n    0: Verifier evaluate failed",
    b"\xff\xfe\xed\xa0\x80",
)


def one_input(data: bytes) -> None:
    """Read it as nonce, token and refusal."""
    with suppress(DecodeError):
        assert len(as_messages.report_data(as_messages.decode_nonce(data))) == 48
    with suppress(DecodeError):
        assert as_messages.decode_token(data).reveal() == data
    assert as_messages.refusal(500, data).isprintable()
