"""`python -m guest` is the command `guest`."""

import sys

from guest.cli import main

sys.exit(main())
