"""A layer of any size takes the same memory."""

import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from guest.crypto.digest import Digest, HashAlgorithm
from guest.secret import Secret
from image_pull.ocicrypt.cipher import LayerDecryptor
from support import tarballs as tb

SIZE: Final = 2 << 30
CHUNK: Final = 1 << 20
KEY: Final = bytes(range(32))
NONCE: Final = bytes(range(16))
GROWTH: Final = 32 << 20
"""Bytes that a layer in flight may take."""


def resident() -> int:
    """Bytes of memory of this process and its children, without the files' pages."""
    page = os.sysconf("SC_PAGE_SIZE")
    pids, waiting = [], [os.getpid()]
    while waiting:
        pids.append(waiting.pop())
        for task in Path(f"/proc/{pids[-1]}/task").glob("*/children"):
            waiting += [int(pid) for pid in task.read_text().split()]
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        total += (int(fields[1]) - int(fields[2])) * page
    return total


HEAD: Final = (tb.file(b"f", b"1") + tb.END).ljust(CHUNK, b"\0")
ZEROS: Final = bytes(CHUNK)


@dataclass(frozen=True)
class Layer:
    """A layer whose end marker comes early: the rest is decrypted, hashed and dropped."""

    diff_id: Digest
    digest: Digest
    mac: bytes


@pytest.fixture(scope="module")
def layer() -> Layer:
    encryptor = Cipher(AES(KEY), CTR(NONCE)).encryptor()
    plain_digest, sealed_digest = hashlib.sha256(), hashlib.sha256()
    mac = hmac.new(KEY, digestmod="sha256")
    for number in range(SIZE // CHUNK):
        plain = ZEROS if number else HEAD
        sealed = encryptor.update(plain)
        plain_digest.update(plain)
        sealed_digest.update(sealed)
        mac.update(sealed)
    return Layer(
        Digest(HashAlgorithm.SHA256, plain_digest.digest()),
        Digest(HashAlgorithm.SHA256, sealed_digest.digest()),
        mac.digest(),
    )


async def stream(samples: list[int]) -> AsyncIterator[bytes]:
    """The layer's bytes; notes the memory now and then."""
    encryptor = Cipher(AES(KEY), CTR(NONCE)).encryptor()
    for number in range(SIZE // CHUNK):
        yield encryptor.update(ZEROS if number else HEAD)
        if number % 64 == 63:
            samples.append(resident())


@pytest.mark.slow
@pytest.mark.timeout(110)
@pytest.mark.spec("ocicrypt", 41)
async def test_two_gibibytes_take_no_more_memory_than_a_few(tmp_path: Path, layer: Layer) -> None:
    samples: list[int] = []
    async with tb.pipeline() as made:
        before = resident()
        await tb.unpack(
            made,
            b"",
            tmp_path / "layer",
            tar=b"",
            media_type=tb.TAR + "+encrypted",
            decryptor=LayerDecryptor(Secret(KEY), NONCE, layer.mac),
            digest=layer.digest,
            size=SIZE,
            diff_id=layer.diff_id,
            source=stream(samples),
            seconds=100,
        )
    assert max(samples) - samples[0] < 8 << 20
    # the server's own pages count twice and more
    assert max(samples) - before < 3 * GROWTH
