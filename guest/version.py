"""The version of this distribution, where reading package metadata would cost a start. Sans-I/O."""

from typing import Final

VERSION: Final = "0.1.0"
"""The same as in `pyproject.toml`; a test compares them."""
