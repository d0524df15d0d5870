"""Configuration files of the attestation agent in all formats; init data carries them too."""

import logging

from attestation_agent.config import AaConfig
from guest.config import decode_config
from guest.errors import ConfigError

logging.getLogger("guest.config").addHandler(logging.NullHandler())

SEEDS = (
    b"a.toml\0[token_configs.kbs]\nurl = 'http://a'\ncert = ''\n[eventlog_config]\ninit_pcr = '1'",
    b'a.json\0{"eventlog_config": {"init_pcr": 1e3, "enable_eventlog": "on"}, "x": [null]}',
    b"a.yaml\0token_configs:\n  kbs: {url: x, fallback_urls: [a, 1, true]}\nlog: {level: 3}\n",
    b"a\0[log]\nlevel = 5\n",
)


def one_input(data: bytes) -> None:
    """A configuration, or a ConfigError of one line; the name before the zero gives the format."""
    name, _, content = data.partition(b"\0")
    extension = name[-5:].decode("ascii", "replace").rpartition(".")[2]
    known = extension if extension in ("toml", "json", "yaml") else "conf"
    message = ""
    try:
        decode_config(content, f"file.{known}", AaConfig)
    except ConfigError as error:
        message = str(error)
    assert "\n" not in message
