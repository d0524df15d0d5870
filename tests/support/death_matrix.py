"""Runs a matrix of deaths: a program that forks a life for every call at which it is killed."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any


async def run_matrix(repository: Path, module: str, *arguments: str) -> list[dict[str, Any]]:
    """What `module` prints, one object for each death."""
    paths = [str(repository), str(repository / "tests"), str(repository / "simulator")]
    script = f"import sys; sys.path[:0] = {paths!r}; from {module} import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments),
        env={"PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]
