"""What a KBS may send during a handshake gives a value or a DecodeError."""

from contextlib import suppress

from guest.crypto.key_algorithm import TeeKeyAlgorithm
from guest.crypto.keys import TeeKey
from guest.errors import DecodeError
from guest.kbs import messages
from guest.kbs.handshake import Start
from guest.kbs.refusals import judge_handshake, judge_resource
from guest.kbs.token import TokenTimes
from guest.secret import Secret
from guest.tee import Tee

KEY = TeeKey.generate(TeeKeyAlgorithm.EC_P256)
SEEDS = (
    b'{"nonce":"AAEC","extra-params":{"selected-hash-algorithm":"SM3"}}',
    b'{"nonce":"{\\"request_blob\\":\\"cg==\\"}","extra-params":""}',
    b'{"token":"e30.eyJleHAiOjEsIm5iZiI6MSwiaWF0IjoxfQ.x"}',
    b'{"token":"e30.e30.x","tee_keypair":"-----BEGIN PRIVATE KEY-----\\n"}',
    b'{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"no"}',
    b"e30.eyJleHAiOjEsIm5iZiI6MSwiaWF0IjoxfQ.x",
)


def one_input(data: bytes) -> None:
    """Read it as everything that it could be."""
    for tee in (Tee.SAMPLE, Tee.SE):
        with suppress(DecodeError):
            devices = Start(tee=tee).challenged(data, KEY).devices_attested("")
            devices.challenged.report_data()
            attesting = devices.primary_attested(devices.report_data() and b"{}")
            attesting.body()
            attesting.token(data)
    for judge in (judge_resource, judge_handshake):
        assert str(judge(401, data).error)
    with suppress(DecodeError):
        TokenTimes.decode(Secret(data)).life(0.0)
    with suppress(DecodeError):
        messages.decode_token_answer(data)
    with suppress(DecodeError):
        _, pem = messages.decode_token_pair(data)
        TeeKey.from_pem(pem)
