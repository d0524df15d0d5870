"""Cloud user data and what is made of it, which the host serves."""

from guest.errors import DecodeError
from guest.initdata_form import pack
from guest.userdata.parse import MAX_FILES, decode_encoded, parse_user_data
from guest.userdata.plan import DIGEST_FILE, INIT_DATA_FILES, WRITE_FILES, make_plan

INIT_DATA = pack(b'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"aa.toml" = ""\n').encode()

SEEDS = (
    b"#cloud-config\n\nwrite_files:\n  - path: /run/peerpod/apf.json\n    content: |\n      {}\n",
    b"write_files:\n- path: /run/peerpod/scratch-space.marker\n",
    b"write_files:\n- path: /run/peerpod/initdata\n  content: " + INIT_DATA,
    b"write_files: [{path: 'a', content: \"\\x41\\n\"}, {path: >-\n b\n}]\n",
    b"I2Nsb3VkLWNvbmZpZwo=\r\n",
)


def one_input(data: bytes) -> None:
    """Files and a plan of allowed names only, or a DecodeError."""
    for document in (data, _decoded(data)):
        try:
            files = parse_user_data(document)
            assert len(files) <= MAX_FILES
            plan = make_plan(files, None)
        except DecodeError:
            continue
        assert set(plan.files) <= {*WRITE_FILES, *INIT_DATA_FILES, DIGEST_FILE}
        assert list(plan.files)[-1] == DIGEST_FILE


def _decoded(data: bytes) -> bytes:
    try:
        return decode_encoded(data)
    except DecodeError:
        return b""
