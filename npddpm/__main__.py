"""`python -m npddpm`, the same as `npddpm`."""

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
