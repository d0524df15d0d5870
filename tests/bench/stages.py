"""What each stage of a pull costs alone, on the same bytes with the same libraries."""

import asyncio
import hashlib
import hmac
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import zstandard
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from isal import igzip_lib

CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """CPU seconds of one layer by stage.

    Attributes:
        stages: name of the stage to CPU seconds of this process or its child.
    """

    stages: Mapping[str, float]

    def total(self) -> float:
        """Sum over the stages."""
        return sum(self.stages.values())


def layer_cost(
    url: str, packed: bytes, tar: Path, scratch: Path, *, encrypted: bool, zstd: bool = False
) -> LayerCost:
    """Measure one layer.

    Args:
        url: where its blob is served.
        packed: the compressed bytes before encryption.
        tar: file with the archive.
        scratch: a directory that is made, filled and removed, on the store's file system.
        encrypted: whether the blob is.
        zstd: packed with zstd, not gzip.
    """
    stages: dict[str, float] = {}
    pieces: list[bytes] = []
    stages["receive"] = _cpu(lambda: asyncio.run(_receive(url, pieces)))
    blob = b"".join(pieces)
    pieces.clear()
    stages["blob sha256"] = _cpu(lambda: _digest(blob))
    if encrypted:
        stages["hmac"] = _cpu(lambda: _mac(blob))
        stages["aes-ctr"] = _cpu(lambda: _decrypt(blob))
    stages["inflate"] = _cpu(lambda: _unpack_zstd(packed) if zstd else _inflate(packed))
    plain = tar.read_bytes()
    stages["tar sha256"] = _cpu(lambda: _digest(plain))
    stages["tar -x"] = _untar(tar, scratch)
    return LayerCost(stages=stages)


def _cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


async def _receive(url: str, pieces: list[bytes]) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.get(url) as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                pieces.append(piece)


def _digest(data: bytes) -> bytes:
    state = hashlib.sha256()
    for start in range(0, len(data), CHUNK):
        state.update(memoryview(data)[start : start + CHUNK])
    return state.digest()


def _mac(data: bytes) -> bytes:
    state = hmac.new(bytes(32), digestmod="sha256")
    for start in range(0, len(data), CHUNK):
        state.update(memoryview(data)[start : start + CHUNK])
    return state.digest()


def _decrypt(data: bytes) -> None:
    state = Cipher(AES(bytes(32)), CTR(bytes(16))).decryptor()
    buffer = bytearray(CHUNK + 16)
    for start in range(0, len(data), CHUNK):
        state.update_into(memoryview(data)[start : start + CHUNK], buffer)


def _inflate(data: bytes) -> None:
    state = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    while not state.eof:
        state.decompress(data, CHUNK)
        data = b""


def _unpack_zstd(data: bytes) -> None:
    reader = zstandard.ZstdDecompressor().stream_reader(data)
    while reader.read(CHUNK):
        pass


def _untar(archive: Path, scratch: Path) -> float:
    scratch.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["tar", "-x", "-f", str(archive), "-C", str(scratch)]
    subprocess.run(
        [*command, "--xattrs", "--xattrs-include=*"],
        check=os.geteuid() == 0,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shutil.rmtree(scratch)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
