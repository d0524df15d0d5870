"""Option documents, answers of key providers and JWE packets."""

import base64
from contextlib import suppress

from guest.errors import DecodeError, GuestError
from guest.secret import Secret
from image_pull.ocicrypt.annotations import (
    PUBLIC_OPTIONS,
    decode_private_options,
    decode_public_options,
    wrapped_keys,
)
from image_pull.ocicrypt.keywrap.jwe import open_packet
from image_pull.ocicrypt.protocol import decode_unwrap_output

KEY = Secret(
    b'{"kty":"EC","crv":"P-256","x":"WxRNe-NNe4YUSJGJDdBDEP8d3_QRH--KkvBOGe8laQA",'
    b'"y":"NoZgvpB6kbA0e7VilLvF_dB2Gnk8j8uF9KLzFp0Gygo",'
    b'"d":"kqJjQ9GB13mE8HspGTSq0nF6Hzd0x6AzUc5DDn__kCM"}'
)
SEEDS = (
    b'{"cipher":"AES_256_CTR_HMAC_SHA256","hmac":"AAAA","cipheroptions":{"nonce":"AAAA"}}',
    b'{"symkey":"AAAA","digest":null,"cipheroptions":{"nonce":"AAAA"}}',
    b'{"keyunwrapresults":{"optsdata":[1,2,255]}}',
    (
        b'{"protected":"eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ","encrypted_key":"AAAA",'
        b'"iv":"AAAAAAAAAAAAAAAA","ciphertext":"AA","tag":"AAAAAAAAAAAAAAAAAAAAAA"}'
    ),
    b"eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.AAAA.AAAA.AA.AAAA",
)


def one_input(data: bytes) -> None:
    """Decode as each of the documents."""
    with suppress(DecodeError):
        decode_private_options(Secret(data))
    with suppress(DecodeError):
        decode_public_options({PUBLIC_OPTIONS: base64.b64encode(data).decode()})
    with suppress(DecodeError):
        wrapped_keys({"org.opencontainers.image.enc.keys.jwe": data.decode("latin-1")})
    with suppress(DecodeError):
        decode_unwrap_output(Secret(data))
    with suppress(GuestError):
        open_packet(data, [KEY])
