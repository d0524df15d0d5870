"""The commands of the image: what their few lines do."""

import subprocess
import sys
from pathlib import Path

from podvm.python_tree import launcher

MODULE = """
import gc

WHILE_IMPORTED = gc.isenabled()


def main():
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1000
    return 7 if not WHILE_IMPORTED else 8
"""


def test_garbage_is_collected_from_the_end_of_the_imports_on(tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(MODULE)
    script = tmp_path / "command"
    script.write_text(launcher("started:main"))
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=60, text=True)
    assert done.returncode == 7, done.stderr
