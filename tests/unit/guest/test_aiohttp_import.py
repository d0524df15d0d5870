"""guest/aiohttp_import.py: aiohttp reads no certificates, and nobody else misses any."""

import subprocess
import sys

TIMEOUT = 60.0

IMPORT = """
import ssl, threading
begun, ended, found = threading.Event(), threading.Event(), set()
def others():
    while not ended.is_set():
        found.add(len(ssl.create_default_context().get_ca_certs()))
        begun.set()
thread = threading.Thread(target=others)
thread.start()
assert begun.wait(30)
import guest.aiohttp_import
ended.set()
thread.join()
system = len(ssl.create_default_context().get_ca_certs())
assert found == {system}, (found, system)
from aiohttp import connector
for context in (connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED):
    assert not context.get_ca_certs()
assert connector._SSL_CONTEXT_VERIFIED.verify_mode is ssl.CERT_REQUIRED
"""

OPEN = """
import asyncio, ssl
from guest.deadline import Deadline
from guest.http import HttpClient
async def opened():
    client = HttpClient(user_agent="test")
    await client.prepare(Deadline.after(30.0))
    context = client._session.connector._ssl
    await client.close()
    return context
context = asyncio.run(opened())
from aiohttp import connector
assert not connector._SSL_CONTEXT_VERIFIED.get_ca_certs()
assert context.get_ca_certs() == ssl.create_default_context().get_ca_certs()
assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr


def test_only_the_importing_thread_is_kept_from_the_roots() -> None:
    run(IMPORT)


def test_a_client_trusts_the_system_and_aiohttp_alone_would_trust_nobody() -> None:
    run(OPEN)


def test_the_rest_shim_has_no_roots() -> None:
    run(
        "from api_server_rest.component import _import_server; _import_server()\n"
        "from aiohttp import connector\n"
        "assert not connector._SSL_CONTEXT_VERIFIED.get_ca_certs()\n"
    )
