"""``python -m sentpool``: the command line."""

import sys

from sentpool.cli import main

if __name__ == "__main__":
    sys.exit(main())
