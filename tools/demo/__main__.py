"""`make demo` and `make up`."""

import argparse
import asyncio
import os
import signal
import sys

from tools.demo.job import run
from tools.demo.screen import Screen
from tools.demo.world import DemoError


async def _until_told(screen: Screen, options: argparse.Namespace) -> None:
    """Run the job; SIGTERM and SIGHUP cancel it like Ctrl-C, so that all of it is cleaned up."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await run(screen, files=options.files, one_process=options.one_process, keep=options.keep)


def main() -> int:
    """Run the main job; exit status 0 when everything was shown, 1 when something was not."""
    parser = argparse.ArgumentParser(
        prog="make demo", description="The main job on an embedded simulator, step by step."
    )
    parser.add_argument("--keep", action="store_true", help="leave the world running (make up)")
    parser.add_argument(
        "--one-process", action="store_true", help="`guest serve` instead of three daemons"
    )
    parser.add_argument(
        "--files", type=int, default=3000, metavar="N", help="real files in the image (3000)"
    )
    options = parser.parse_args()
    os.umask(0o022)
    screen = Screen()
    try:
        asyncio.run(_until_told(screen, options))
    except DemoError as error:
        print(f"\nNot shown: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\nstopped; everything is removed", file=sys.stderr)
        return 0 if options.keep else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
