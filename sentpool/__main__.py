"""``python -m sentpool``: the command line."""

import sys

from sentpool.cli import main

sys.exit(main())
