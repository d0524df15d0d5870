"""What a worker that was taken over might report."""

from contextlib import suppress

from guest.errors import DecodeError
from image_pull.layers import jobs
from image_pull.layers.jobs import FRAME, FrameReader
from image_pull.layers.record import Device, Jail, Kept, LayerRecord

RECORD = LayerRecord(
    diff_id="sha256:" + "0" * 64,
    entries=1,
    tar_bytes=1,
    jail=Jail.FULL,
    privileged=True,
    whiteouts=(b"a/b",),
    devices=(Device(path=b"n", mode=0o20666, major=1, minor=3),),
    kept=(Kept(path=b"k"),),
)
SEEDS = (
    RECORD.encode(),
    FRAME.pack(2, 3) + b"abc",
    jobs.encode(jobs.Failure(kind=jobs.FailureKind.INPUT, text="t")),
    jobs.encode(jobs.Exit(number=1, status=0)),
)


def one_input(data: bytes) -> None:
    """Decode as each of the messages."""
    for decode in (
        LayerRecord.decode,
        jobs.decode_failure,
        jobs.decode_notice,
        jobs.decode_request,
        FrameReader().feed,
    ):
        with suppress(DecodeError):
            decode(data)
