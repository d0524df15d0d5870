"""Any bytes as a key provider's answer, as its configuration, as a recipient's public key."""

from contextlib import suppress

from guest.crypto.recipients import RecipientKey
from guest.errors import DecodeError
from image_pull.ocicrypt.providers import parse_config
from image_pull.ocicrypt.wrapping import decode_wrap_output

SEEDS = (
    b'{"keywrapresults":{"annotation":[123,34,255]},"keyunwrapresults":null}',
    b'{"keywrapresults":{"annotation":"e30="}}',
    (
        b'{"key-providers":{"a":{"grpc":"127.0.0.1:50000"},"b":{"cmd":{"path":"/x","args":["y"]}},'
        b'"c":{"ttrpc":"unix:///x"},"d":{"grpc":"unix:///x","grpc-tls":{}}}}'
    ),
    (
        b'{"kty":"EC","crv":"P-256","x":"WxRNe-NNe4YUSJGJDdBDEP8d3_QRH--KkvBOGe8laQA",'
        b'"y":"NoZgvpB6kbA0e7VilLvF_dB2Gnk8j8uF9KLzFp0Gygo","alg":"ECDH-ES+A128KW"}'
    ),
    (
        b"-----BEGIN PUBLIC KEY-----\n"
        b"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWxRNe+NNe4YUSJGJDdBDEP8d3/QR\n"
        b"H++KkvBOGe8laQA2hmC+kHqRsDR7tWKUu8X90HYaeTyPy4X0ovMWnQbKCg==\n"
        b"-----END PUBLIC KEY-----\n"
    ),
)


def one_input(data: bytes) -> None:
    """Raises nothing but decode errors."""
    for decode in (decode_wrap_output, parse_config, RecipientKey.decode):
        with suppress(DecodeError):
            decode(data)
